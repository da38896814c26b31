//! An agent's end: it follows its controller for ever, and asks for certificates.

//!
//! | file | what it does |
//! |---|---|
//! | `run` | connects for ever, with pauses in between; says how it stands |
//! | `link` | one connection |
//! | `follow` | what is said over it, in both directions |
//! | `arrivals` | of that: pods that have just arrived |
//! | `standings` | of that: how it stands with workloads |
//! | `proof` | what a node shows to get it |
//! | `member` | the node's own certificate: joining, renewing |
//! | `clock` | how far this node's clock is from the controller's |
//! | `issue` | certificates for workloads |
//! | `state` | what is kept on the disk |

mod arrivals;
mod clock;
mod follow;
mod issue;
mod link;
mod member;
mod pauses;
mod proof;
mod run;
mod standings;
mod state;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use martlet_identity::{Chain, Csr, IdentityError, NodeKey};
use martlet_model::{Label, Skew, Trust, TrustDomain, WorkloadName};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::warn;

use crate::{
    Acknowledgement, Arrival, Declared, Standing, Usage,
    message::bundle_digest,
    table::{Received, Receiving},
};
use member::Member;
use run::{Told, chain_of, keep_snapshots};
use state::{Membership, State};

pub use link::{LinkError, TokenFileError};
pub use proof::Proof;
pub use state::{KEPT_FILES, StateError};

/// Where the controller is, and what the client needs to be believed there.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub trust_domain: TrustDomain,
    pub node: Label,
    /// Host, or address, and port.
    pub controller: String,
    /// How the node joins.
    pub proof: Proof,
    /// Keeps the node's certificate and key (`node.pb`, readable by its owner only), and what was
    /// declared last (`directory.pb`).
    pub state: PathBuf,
    /// Told to the controller, for people.
    pub agent_version: String,
}

/// One workload's wish for a certificate.
#[derive(Debug, Clone)]
pub struct Ask {
    pub workload: WorkloadName,
    pub csr: Csr,
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IssueError {
    /// To ask again without a change is of no use.
    #[error("the controller refused: {0}")]
    Refused(String),
    /// To ask again later may help.
    #[error("the controller could not be asked: {0}")]
    Unreachable(String),
}

/// How it stands between this node and its controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// `Err`: why there is no connection.
    pub connected: Result<(), String>,
    pub since: SystemTime,
    /// Why what the controller said last was not taken; what was declared before stays.
    pub refused: Option<String>,
    /// When the node's own certificate ends; `None` before it has joined.
    pub certificate_expires: Option<SystemTime>,
    /// How far this node's clock was from the controller's when that was measured last.
    pub clock: Option<Skew>,
}

/// Cheap to clone: all clones are one client.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ClientSettings,
    state: State,
    declared: watch::Sender<Option<Arc<Declared>>>,
    link: watch::Sender<Link>,
    usage: watch::Sender<Usage>,
    standings: watch::Sender<BTreeMap<WorkloadName, Standing>>,
    arrivals: watch::Sender<BTreeMap<WorkloadName, Arrival>>,
    acknowledged: watch::Sender<Option<Acknowledgement>>,
    channel: watch::Sender<Option<Channel>>,
    /// What is to be kept on the disk.
    told: watch::Sender<Option<Arc<Told>>>,
    /// The roots that were there before anything was declared.
    first_trust: Mutex<Arc<Trust>>,
    start: Mutex<Option<Start>>,
}

/// What [`Client::run`] begins with.
struct Start {
    receiving: Receiving,
    member: Option<Member>,
    /// Of a node that has not joined yet, or not to the end.
    key: NodeKey,
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the node's certificate in the state directory; move node.pb away, and join anew")]
    Member(#[source] Box<LinkError>),
    #[error("making a key for the node")]
    Key(#[source] IdentityError),
}

impl Client {
    /// Reads what is kept in the state directory; what was declared last is there at once.
    pub fn open(settings: ClientSettings) -> Result<Self, ClientError> {
        let (domain, node) = (settings.trust_domain.clone(), settings.node.clone());
        let state = State::open(&settings.state, domain.as_str(), node.as_str())?;
        let (receiving, declared) = remembered(&state, Receiving::new(domain, node));
        let (mut trust, mut member, mut key) = (Trust::default(), None, None);
        if let Some(Membership { key: kept, chain, trust: kept_trust }) = state.membership()? {
            trust = kept_trust;
            let latest = declared.as_ref().map_or(&trust, |declared| &declared.trust);
            if let Some(chain) = chain {
                let made = Member::new(&settings, kept.clone(), chain, latest);
                member = Some(made.map_err(|error| ClientError::Member(Box::new(error)))?);
            }
            key = Some(kept);
        }
        let key = key.map_or_else(NodeKey::generate, Ok).map_err(ClientError::Key)?;
        let link = Link {
            connected: Err("there was no attempt yet".to_owned()),
            since: SystemTime::now(),
            refused: None,
            certificate_expires: member.as_ref().and_then(Member::expires),
            clock: None,
        };
        let inner = Inner {
            settings,
            state,
            declared: watch::Sender::new(declared.map(Arc::new)),
            link: watch::Sender::new(link),
            usage: watch::Sender::default(),
            standings: watch::Sender::default(),
            arrivals: watch::Sender::default(),
            acknowledged: watch::Sender::new(None),
            channel: watch::Sender::new(None),
            told: watch::Sender::new(None),
            first_trust: Mutex::new(Arc::new(trust)),
            start: Mutex::new(Some(Start { receiving, member, key })),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Joins if the node has no certificate, and follows the controller until `shutdown`, connecting
    /// again for ever. Of all clones, one runs at a time; it can be run again.
    pub async fn run(self, shutdown: CancellationToken) {
        let inner = &*self.inner;
        let begin = || inner.start.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut start) = begin().take() else { return };
        tokio::join!(keep_snapshots(inner, &shutdown), inner.keep_connected(&mut start, &shutdown));
        *begin() = Some(start);
    }

    /// What another agent of this node keeps of what it was told, if that is something else than when
    /// this was asked before.
    pub fn kept_by_another(&self, last: &mut Option<SystemTime>) -> Option<Declared> {
        let Inner { state, settings, .. } = &*self.inner;
        let now = state.snapshot_time()?;
        if last.replace(now) == Some(now) {
            return None;
        }
        let receiving = Receiving::new(settings.trust_domain.clone(), settings.node.clone());
        remembered(state, receiving).1
    }

    /// The latest of what was declared; `None` until there is anything.
    pub fn declared(&self) -> watch::Receiver<Option<Arc<Declared>>> {
        self.inner.declared.subscribe()
    }

    pub fn link(&self) -> watch::Receiver<Link> {
        self.inner.link.subscribe()
    }

    /// Asks for certificates, and waits for all answers, at most half a minute, and ten seconds for a
    /// connection; in the order of `asks`.
    pub async fn issue(&self, asks: Vec<Ask>) -> Vec<Result<Chain, IssueError>> {
        issue::issue(&self.inner, asks).await
    }

    /// What the agent has in use now. It is told at once if it differs, and every 10 s anyway.
    pub fn report_usage(&self, usage: Usage) {
        self.inner.usage.send_if_modified(|told| {
            let differs = *told != usage;
            *told = usage;
            differs
        });
    }

    /// How it stands with all workloads of this node. What is other than before is told, to a
    /// controller that wants it.
    pub fn report_standings(&self, standings: BTreeMap<WorkloadName, Standing>) {
        self.inner.standings.send_if_modified(|told| {
            let differs = *told != standings;
            *told = standings;
            differs
        });
    }

    /// The pods that have arrived lately. What is other than before is told at once, to a controller
    /// that wants it.
    pub fn report_arrivals(&self, arrivals: BTreeMap<WorkloadName, Arrival>) {
        self.inner.arrivals.send_if_modified(|told| {
            let differs = *told != arrivals;
            *told = arrivals;
            differs
        });
    }

    /// The agent has put a version into effect, or could not.
    pub fn acknowledge(&self, version: u64, trust_version: u64, error: Option<String>) {
        let trust = self.inner.trust();
        let bundle = match trust.version == trust_version {
            true => bundle_digest(&trust),
            false => String::new(),
        };
        let said = Acknowledgement { version, trust_version, bundle, error };
        self.inner.acknowledged.send_replace(Some(said));
    }

    pub fn settings(&self) -> &ClientSettings {
        &self.inner.settings
    }
}

/// What is kept on the disk, if it can be used: without it, everything is told again.
fn remembered(state: &State, mut receiving: Receiving) -> (Receiving, Option<Declared>) {
    let messages = match state.snapshot() {
        Ok(messages) => messages.unwrap_or_default(),
        Err(error) => {
            warn!(error = chain_of(&error), "what was declared before is not used");
            return (receiving, None);
        }
    };
    let mut declared = None;
    for message in messages {
        match receiving.receive(message) {
            Ok(Received::Whole(whole)) => declared = Some(*whole),
            Ok(Received::Nothing) => {}
            Err(refused) => {
                warn!(reason = %refused, "what was declared before is not used");
                let (domain, node) = receiving.into_names();
                return (Receiving::new(domain, node), None);
            }
        }
    }
    (receiving, declared)
}

/// Makes a host a node without any controller.
#[cfg(test)]
pub fn keep_membership(
    directory: &std::path::Path,
    domain: &TrustDomain,
    node: &Label,
    key: NodeKey,
    chain: Chain,
    trust: Trust,
) {
    let state = State::open(directory, domain.as_str(), node.as_str()).unwrap();
    state.keep_membership(&Membership { key, chain: Some(chain), trust }).unwrap();
}
