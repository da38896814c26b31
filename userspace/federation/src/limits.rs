//! Every bound of this crate.

use std::time::Duration;

/// From the lookup of the host's name to the last byte of the document.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Persons who wait at the same time for a look at one endpoint.
pub const ASKS: usize = 8;

/// So much earlier or later, as a part of the interval: clusters that started together do not ask
/// together.
pub const REFRESH_JITTER: f64 = 0.1;

/// Callers of our endpoint at a time. Each asks once and leaves.
pub const CALLERS: usize = 64;

/// For the handshake, the question and the answer together.
pub const CALLER_TIMEOUT: Duration = Duration::from_secs(20);
