//! One connection to the controller, for as long as it lasts.

use std::io;

use hyper_util::rt::TokioIo;
use martlet_identity::{Credentials, HandshakeError, RootPin, Secured, control};
use martlet_model::TrustDomain;
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::state::StateError;
use crate::{TokenError, limits, message::Malformed, table::Refused};

/// Why there is no connection, or none any more.
#[derive(Debug, Error)]
pub enum LinkError {
    #[error("{address} cannot be resolved")]
    Resolve {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{address} cannot be reached")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{0} does not answer within {seconds} s", seconds = limits::CONNECT_TIMEOUT.as_secs())]
    ConnectTimedOut(String),
    #[error("the controller could not be proven")]
    Handshake(#[from] HandshakeError),
    #[error("HTTP/2 could not begin")]
    Transport(#[from] tonic::transport::Error),
    #[error("the controller answered {code}: {text}", code = .0.code(), text = crate::message::cut(.0.message()))]
    Status(Box<Status>),
    #[error("the controller is silent")]
    Silent,
    #[error("the controller ended it")]
    Ended,
    #[error("the node has a new certificate")]
    Renewed,
    #[error("what the controller said was not taken")]
    Refused(#[from] Refused),
    #[error("the controller's answer is malformed")]
    Malformed(#[from] Malformed),
    #[error("what the node is to join with, in {path}")]
    Token {
        path: String,
        #[source]
        source: TokenFileError,
    },
    #[error("the certificate that the controller gave")]
    Certificate(#[source] martlet_identity::IdentityError),
    #[error("the chain that the controller gave is not what its own roots vouch for")]
    Chain(#[source] martlet_identity::PeerProblem),
    #[error("the host's certificate")]
    Host(#[source] martlet_identity::HostProblem),
    #[error("the node's key")]
    Key(#[source] martlet_identity::IdentityError),
    #[error(transparent)]
    State(#[from] StateError),
}

#[derive(Debug, Error)]
pub enum TokenFileError {
    #[error("cannot be read; `martlet node join` on the controller makes a join token")]
    Read(#[source] io::Error),
    #[error("is too long")]
    TooLong,
    #[error(transparent)]
    Bad(#[from] TokenError),
    #[error("is no token of a service account")]
    NoAccountToken,
    #[error("is no certificate of a host, or its key is not: {0}")]
    NoHost(#[from] martlet_identity::HostProblem),
    #[error("may be read by everybody; take that right away (chmod o=)")]
    Public,
    #[error("has no root, or too many, in PEM")]
    NoRoots,
    #[error("is for node {0}")]
    OtherNode(martlet_model::Label),
}

impl LinkError {
    /// Whether another certificate may be taken where this node's was not.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Handshake(_) => true,
            Self::Status(status) => status.code() == tonic::Code::PermissionDenied,
            _ => false,
        }
    }
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// As a node.
pub async fn connect(address: &str, node: &Credentials) -> Result<Channel, LinkError> {
    let secured = control::call(dial(address).await?, node).await?;
    over(secured).await
}

/// As nobody yet.
pub async fn connect_pinned(
    address: &str,
    domain: &TrustDomain,
    pins: Vec<RootPin>,
) -> Result<Channel, LinkError> {
    let secured = control::call_pinned(dial(address).await?, domain, pins).await?;
    over(secured).await
}

/// The first address that accepts.
async fn dial(address: &str) -> Result<TcpStream, LinkError> {
    let resolving = timeout(limits::CONNECT_TIMEOUT, tokio::net::lookup_host(address));
    let timed_out = || LinkError::ConnectTimedOut(address.to_owned());
    let found = resolving.await.map_err(|_| timed_out())?;
    let found: Vec<_> = found
        .map_err(|source| LinkError::Resolve { address: address.to_owned(), source })?
        .collect();
    let connecting = timeout(limits::CONNECT_TIMEOUT, TcpStream::connect(found.as_slice()));
    let connected = connecting.await.map_err(|_| timed_out())?;
    let stream =
        connected.map_err(|source| LinkError::Connect { address: address.to_owned(), source })?;
    // Small messages, each of which somebody waits for.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// gRPC over this one connection: when it ends, the channel is of no more use, and connecting again
/// is not the channel's business.
async fn over(secured: Secured<TcpStream>) -> Result<Channel, LinkError> {
    let mut once = Some(TokioIo::new(secured));
    let connector = tower::service_fn(move |_| {
        let stream = once.take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    // The name is for the `:authority` header only.
    Ok(Endpoint::from_static("http://controller").connect_with_connector(connector).await?)
}
