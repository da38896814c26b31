//! A controller's end: it tells every agent what has changed for it, and hands out certificates that
//! its [`Office`] grants.
//!
//! | file | what it does |
//! |---|---|
//! | `accept` | connections, and who is at their other ends |
//! | `calls` | the calls: who may make them, and their bounds |
//! | `crowd` | how many of something one address may have |
//! | `following` | one agent that follows |
//! | `issuing` | one stream of requests for certificates |
//! | `world` | what is declared now, and what changed |
//! | `roster` | what is known about each agent |
//! | `pace` | how often somebody may do something |

mod accept;
mod calls;
mod crowd;
mod following;
mod issuing;
mod pace;
mod roster;
mod world;

use std::{collections::BTreeSet, future::Future, sync::Arc, time::SystemTime};

use martlet_identity::{Chain, Credentials, Csr, KeyDigest, Vouched};
use martlet_model::{Label, Trust, WorkloadName};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    AccountToken, Acknowledgement, Arrival, Ask, Inconsistent, Inventory, Secret, Standing, Usage,
    limits, proto::control_server::ControlServer, table::Table,
};
use calls::Calls;
use pace::Pace;
use roster::Roster;
use world::World;

#[cfg(test)]
pub fn new_world(instance: u64) -> World {
    World::new(instance)
}

/// A node, proven by its certificate.
#[derive(Debug, Clone)]
pub struct NodeCaller {
    pub node: Label,
    /// Of the key that it has proven to hold.
    pub key: KeyDigest,
    pub certificate_expires: SystemTime,
}

/// Somebody who wants to become a node.
#[derive(Debug)]
pub struct Joining {
    pub by: JoiningBy,
    pub node: Label,
    pub csr: Csr,
}

/// What it shows.
#[derive(Debug)]
pub enum JoiningBy {
    Secret(Secret),
    Account(AccountToken),
    /// The word of a host that has a certificate already.
    Host(Vouched),
}

/// What a new node gets.
#[derive(Debug)]
pub struct Joined {
    pub chain: Chain,
    pub trust: Arc<Trust>,
}

/// Why somebody does not get what they ask for. The text is told to them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("{0}")]
    NotYours(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Quarantined(String),
    /// Nothing is wrong with the request.
    #[error("{0}")]
    Unavailable(String),
}

/// Who decides, and certifies: a controller with its authority.
pub trait Office: Send + Sync + 'static {
    /// Whether this node, with this key, still is one. Asked at every call, and now and then during
    /// those that last.
    fn admit(&self, caller: &NodeCaller) -> Result<(), Refusal>;

    fn join(&self, joining: Joining) -> impl Future<Output = Result<Joined, Refusal>> + Send;

    fn renew(
        &self,
        caller: &NodeCaller,
        csr: Csr,
    ) -> impl Future<Output = Result<Chain, Refusal>> + Send;

    /// Whether agents are to say how it stands with their workloads.
    fn wants_standings(&self) -> bool;

    /// Whether agents are to say which pods have just arrived on their nodes.
    fn wants_arrivals(&self) -> bool;

    /// What an agent says of pods that should be its node's.
    fn arrive(&self, node: &Label, arrivals: Vec<Arrival>);

    /// In the order of `asks`.
    fn issue(
        &self,
        caller: &NodeCaller,
        asks: Vec<Ask>,
    ) -> impl Future<Output = Vec<Result<Chain, Refusal>>> + Send;
}

/// What is known about an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentState {
    pub node: Label,
    pub agent_version: String,
    pub is_connected: bool,
    /// When it said something last.
    pub last_seen: SystemTime,
    /// What it was told last.
    pub told: u64,
    pub acknowledged: Acknowledgement,
    /// Since when the process that is connected has what it was told in effect; `None`: it has not
    /// said so, or could not do it.
    pub ready_since: Option<SystemTime>,
    /// `None`: it has not said yet.
    pub usage: Option<Usage>,
}

/// Cheap to clone: all clones are one server.
pub struct Server<O> {
    shared: Arc<Shared<O>>,
}

struct Shared<O> {
    office: O,
    credentials: Arc<Credentials>,
    world: World,
    roster: Roster,
    joins: Pace,
    signers: Semaphore,
    tellers: Semaphore,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl<O> Clone for Server<O> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<O: Office> Server<O> {
    /// `credentials` prove the controller, and say by which roots nodes are proven. They should not
    /// hold quarantines: a node that is cut off still listens, or it would not hear of its release.
    pub fn new(office: O, credentials: Arc<Credentials>) -> Self {
        let shared = Shared {
            office,
            credentials,
            world: World::new(rand::random()),
            roster: Roster::default(),
            joins: Pace::new(limits::JOIN_BURST, limits::JOIN_PER_SECOND),
            signers: Semaphore::new(limits::SIGNERS),
            tellers: Semaphore::new(limits::TELLERS),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Tells every agent what has changed for it. What cannot be is not told to anybody. Returns the
    /// version that holds it.
    pub fn declare(&self, inventory: Inventory) -> Result<u64, Inconsistent> {
        let before = self.shared.world.table();
        Ok(self.shared.world.declare(Table::after(&before, inventory)?))
    }

    /// The latest that was declared.
    pub fn version(&self) -> u64 {
        *self.shared.world.versions().borrow()
    }

    /// Nobody is told everything meanwhile.
    #[cfg(test)]
    pub async fn all_turns(&self) -> tokio::sync::SemaphorePermit<'_> {
        let all = u32::try_from(limits::TELLERS).unwrap();
        self.shared.tellers.acquire_many(all).await.unwrap()
    }

    pub fn office(&self) -> &O {
        &self.shared.office
    }

    /// All that were ever heard of since the start and not forgotten, by name.
    pub fn agents(&self) -> Vec<AgentState> {
        self.shared.roster.agents()
    }

    /// The workloads of which something else is said since this was asked last, and by whose agents:
    /// that they are of these nodes is not known.
    pub fn heard(&self) -> BTreeSet<(Label, WorkloadName)> {
        self.shared.roster.heard()
    }

    /// What a node's agent has said last of a workload.
    pub fn standing(&self, node: &Label, workload: &WorkloadName) -> Option<Standing> {
        self.shared.roster.standing(node, workload)
    }

    /// Ends what this node has open, and forgets it. That it does not come back is the office's.
    pub fn expel(&self, node: &Label) {
        self.shared.roster.expel(node);
    }

    /// Serves until `shutdown`, and then until what is open has ended, at most some seconds.
    pub async fn run(self, listeners: Vec<TcpListener>, shutdown: CancellationToken) {
        let shared = self.shared;
        let (connections, accepted) = mpsc::channel(limits::QUEUE);
        let bounds = accept::Bounds::default();
        for listener in listeners {
            let credentials = shared.credentials.clone();
            let (bounds, connections) = (bounds.clone(), connections.clone());
            let accepting = accept::accept(listener, credentials, bounds, connections);
            let until = shutdown.clone();
            shared.tasks.spawn(async move {
                until.run_until_cancelled(accepting).await;
            });
        }
        drop(connections);
        let ending = shared.shutdown.clone();
        let calls = ControlServer::new(Calls(shared.clone()))
            .max_decoding_message_size(limits::AGENT_MESSAGE_BYTES);
        let serving = tonic::transport::Server::builder()
            .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
            .http2_keepalive_interval(Some(limits::HEARTBEAT))
            .http2_keepalive_timeout(Some(limits::SLOW_READER))
            .add_service(calls)
            .serve_with_incoming_shutdown(ReceiverStream::new(accepted), ending.cancelled_owned());
        let mut serving = std::pin::pin!(serving);
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = shutdown.cancelled() => {
                shared.shutdown.cancel();
                tokio::time::timeout(limits::DRAIN, serving).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::error!(%error, "serving agents ended");
        }
        shared.shutdown.cancel();
        shared.tasks.close();
        // What does not end by itself is let go with its connection.
        let _ = tokio::time::timeout(limits::DRAIN, shared.tasks.wait()).await;
    }
}
