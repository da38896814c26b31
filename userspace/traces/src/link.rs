//! The connection to the collector: gRPC, in the clear or over TLS of our own.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use martlet_identity::{
    HandshakeError, IdentityError,
    endpoint::{self, WebRoots},
};
use martlet_model::Collector;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    limits,
    message::{ExportRequest, trace_service_client::TraceServiceClient},
};

/// Why spans were not taken.
#[derive(Debug, Error)]
pub enum Failure {
    #[error("the collector cannot be reached")]
    Connect(#[source] io::Error),
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    #[error("the collector did not prove itself")]
    Proof(#[from] HandshakeError),
    #[error("HTTP/2 could not begin")]
    Transport(#[from] tonic::transport::Error),
    #[error("the collector answered {code}: {text}", code = .0.code(), text = shown(.0.message()))]
    Status(Box<Status>),
    #[error("the collector did not answer within {} s", limits::ATTEMPT.as_secs())]
    TimedOut,
}

/// What the collector is to be proven by.
#[derive(Debug, Error)]
pub enum AuthoritiesError {
    #[error("reading the authorities of the collector, {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the authorities of the collector, {}", path.display())]
    Bad {
        path: PathBuf,
        #[source]
        source: IdentityError,
    },
}

impl Failure {
    /// Whether the same spans would be refused again. The codes that allow another attempt are those of
    /// OTLP (section "Failures"), and the one that tonic gives for a connection that broke.
    pub(crate) fn is_refusal(&self) -> bool {
        let Self::Status(status) = self else { return false };
        !matches!(
            status.code(),
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
                | Code::Unknown
        )
    }
}

/// The collector's own words, which end up in the log.
fn shown(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(200).collect()
}

/// Read anew for each connection: authorities change while an agent lives.
pub(crate) fn authorities(path: &Path) -> Result<WebRoots, AuthoritiesError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limits::MAX_AUTHORITIES_BYTES).read_to_end(&mut text))
        .map_err(|source| AuthoritiesError::Read { path: path.to_owned(), source })?;
    WebRoots::from_pem(&text)
        .map_err(|source| AuthoritiesError::Bad { path: path.to_owned(), source })
}

pub(crate) struct Link(TraceServiceClient<Channel>);

impl Link {
    pub async fn to(collector: &Collector, roots: Option<&Path>) -> Result<Self, Failure> {
        let (host, port) = (collector.host(), collector.port());
        let stream = TcpStream::connect((host, port)).await.map_err(Failure::Connect)?;
        // Each request is one message that somebody waits for.
        let _ = stream.set_nodelay(true);
        let channel = match roots {
            None => over(stream, collector).await?,
            Some(path) => {
                let proven = endpoint::call_http2(stream, host, authorities(path)?).await?;
                over(proven, collector).await?
            }
        };
        Ok(Self(TraceServiceClient::new(channel)))
    }

    /// How many of the spans were rejected.
    pub async fn export(&mut self, spans: ExportRequest) -> Result<u64, Failure> {
        let answer = self.0.export(spans).await.map_err(|status| Failure::Status(Box::new(status)));
        let rejected = answer?.into_inner().partial_success.map_or(0, |part| part.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}

/// gRPC over this one connection: to connect again is not the channel's business.
async fn over<S>(stream: S, collector: &Collector) -> Result<Channel, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let endpoint = Endpoint::from_shared(collector.to_string())?;
    Ok(endpoint.connect_with_connector(connector).await?)
}
