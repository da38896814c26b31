//! One look at an endpoint: name, connection, proof, question, document.

use std::{io, sync::Arc};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use martlet_identity::{
    BundleDocument, DocumentError, HandshakeError, TrustBundle,
    endpoint::{self, Proof},
    limits::MAX_DOCUMENT_BYTES,
};
use thiserror::Error;
use tokio::net::TcpStream;

use crate::{
    endpoint::{Endpoint, Profile},
    limits::FETCH_TIMEOUT,
};

/// Why a look at an endpoint brought nothing.
#[derive(Debug, Error)]
pub enum FetchError {
    #[error("the endpoint cannot be reached")]
    Connect(#[source] io::Error),
    #[error("the endpoint did not prove itself")]
    Proof(#[source] HandshakeError),
    #[error("the endpoint did not answer in HTTP")]
    Http(#[source] hyper::Error),
    #[error("the endpoint's path cannot be asked for")]
    Path(#[source] hyper::http::Error),
    /// Redirections are not followed: who may publish a domain's roots is declared here.
    #[error("the endpoint answered {0} instead of 200")]
    Status(StatusCode),
    #[error("the document is longer than {MAX_DOCUMENT_BYTES} bytes, or its end did not come")]
    Body,
    #[error("the document cannot be used")]
    Document(#[source] DocumentError),
    #[error("the endpoint took longer than {} s", FETCH_TIMEOUT.as_secs())]
    TimedOut,
}

/// `trust` proves the endpoint where its profile is `https_spiffe`.
pub async fn fetch(
    endpoint: &Endpoint,
    trust: Arc<TrustBundle>,
) -> Result<BundleDocument, FetchError> {
    let looking = look(endpoint, trust);
    tokio::time::timeout(FETCH_TIMEOUT, looking).await.unwrap_or(Err(FetchError::TimedOut))
}

async fn look(endpoint: &Endpoint, trust: Arc<TrustBundle>) -> Result<BundleDocument, FetchError> {
    let url = &endpoint.url;
    let stream = TcpStream::connect((url.host(), url.port())).await.map_err(FetchError::Connect)?;
    let proof = match &endpoint.profile {
        Profile::Web(roots) => Proof::Web(roots.clone()),
        Profile::Spiffe(identity) => Proof::Spiffe(identity.clone(), trust),
    };
    let stream = endpoint::call(stream, url.host(), proof).await.map_err(FetchError::Proof)?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let asking = ask(sender, endpoint);
    tokio::pin!(asking);
    // The connection has to be driven while we ask; what it has read when it ends is kept.
    let text = tokio::select! {
        biased;
        text = &mut asking => text?,
        ended = connection => match ended {
            Ok(()) => asking.await?,
            Err(error) => return Err(FetchError::Http(error)),
        }
    };
    BundleDocument::parse(&text, &endpoint.domain).map_err(FetchError::Document)
}

async fn ask(
    mut sender: http1::SendRequest<Empty<Bytes>>,
    endpoint: &Endpoint,
) -> Result<Bytes, FetchError> {
    let request = Request::get(endpoint.url.path())
        .header(header::HOST, endpoint.url.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(FetchError::Path)?;
    let response: hyper::Response<Incoming> =
        sender.send_request(request).await.map_err(FetchError::Http)?;
    match response.status() {
        StatusCode::OK => {}
        other => return Err(FetchError::Status(other)),
    }
    let body = Limited::new(response.into_body(), MAX_DOCUMENT_BYTES).collect().await;
    Ok(body.map_err(|_| FetchError::Body)?.to_bytes())
}
