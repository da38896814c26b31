//! The life of a connection, in the order of its stages.
//!
//! At the caller's agent: [`outbound`](Dataplane::outbound) resolves the origin to a route, is
//! authorized, takes a lane, relays, and records. At the called workload's agent:
//! [`inbound`](Dataplane::inbound) terminates the lane and does the same for each connection that
//! it carries. Nothing is relayed without a permit, and over a lane not without a proven peer.

#![forbid(unsafe_code)]

mod dial;
mod frame;
mod inbound;
mod lane;
pub mod limits;
mod outbound;
mod pool;
mod record;
mod relay;
mod resolve;

use std::sync::Arc;

use arc_swap::ArcSwap;
use martlet_identity::Credentials;
use martlet_model::{AccessRecord, Directory, Workload};
use martlet_policy::PolicySet;
use tokio::sync::mpsc;

pub use dial::{Dial, Dialing};
pub use frame::{Frame, FrameError, Header};

/// The snapshot that decisions are made by; replaced as a whole.
#[derive(Debug, Default)]
pub struct View {
    pub directory: Directory,
    pub policies: PolicySet,
}

/// A workload of this node.
pub struct Local {
    pub workload: Arc<Workload>,
    pub credentials: Arc<Credentials>,
    /// Dials from inside the workload's network namespace.
    pub dial: Arc<dyn Dial>,
}

/// All connections of this node.
pub struct Dataplane {
    view: Arc<ArcSwap<View>>,
    records: mpsc::Sender<AccessRecord>,
    pool: pool::Pool,
}

impl Dataplane {
    /// One record goes to `records` for each connection; what does not fit is dropped, so that a
    /// slow reader of records never holds up connections.
    pub fn new(view: Arc<ArcSwap<View>>, records: mpsc::Sender<AccessRecord>) -> Arc<Self> {
        Arc::new(Self { view, records, pool: pool::Pool::default() })
    }

    /// Closes lanes that nobody has used for long; to be called every few seconds.
    pub fn sweep(&self) {
        self.pool.sweep();
    }

    /// Lanes that wait for their next connection.
    pub fn idle_lanes(&self) -> usize {
        self.pool.len()
    }
}
