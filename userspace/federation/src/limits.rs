//! Every bound of this crate.

use std::time::Duration;

/// From the lookup of the host's name to the last byte of the document.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the publisher does not say how often (SPIFFE Federation, section 4.1).
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(300);

/// A publisher can neither make us hammer its endpoint nor forget a root that it has withdrawn.
pub const SHORTEST_REFRESH: Duration = Duration::from_secs(60);
pub const LONGEST_REFRESH: Duration = Duration::from_secs(24 * 3600);

/// So much earlier or later, as a part of the interval: clusters that started together do not ask
/// together.
pub const REFRESH_JITTER: f64 = 0.1;

/// Callers of our endpoint at a time. Each asks once and leaves.
pub const CALLERS: usize = 64;

/// For the handshake, the question and the answer together.
pub const CALLER_TIMEOUT: Duration = Duration::from_secs(20);
