//! Publishes our own roots: one document at one path, to whoever asks.

use std::{convert::Infallible, sync::Arc};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Bytes, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use martlet_identity::{
    Credentials, HandshakeError,
    endpoint::{self, WebCertificate},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::limits::{CALLER_TIMEOUT, CALLERS};

/// What our endpoint proves itself with, and so its profile.
#[derive(Debug, Clone)]
pub enum ServedBy {
    /// `https_spiffe`.
    Identity(Arc<Credentials>),
    /// `https_web`. The sender may replace it while the server runs.
    Web(watch::Receiver<WebCertificate>),
}

/// Serves the document that `document` holds last.
pub struct BundleServer {
    pub listener: TcpListener,
    pub served_by: ServedBy,
    /// The only path that there is, such as `/bundle`.
    pub path: String,
    /// JSON, of [`martlet_identity::BundleDocument::to_json`].
    pub document: watch::Receiver<Bytes>,
}

impl BundleServer {
    /// A caller above [`CALLERS`] waits for one to leave.
    pub async fn run(self, shutdown: CancellationToken) {
        let page = Page { path: self.path.into(), document: self.document };
        let mut callers = JoinSet::new();
        loop {
            while callers.try_join_next().is_some() {}
            if callers.len() >= CALLERS {
                callers.join_next().await;
            }
            let accepted = shutdown.run_until_cancelled(self.listener.accept()).await;
            match accepted {
                None => return,
                Some(Ok((stream, _))) => {
                    let answering = answer(stream, self.served_by.clone(), page.clone());
                    callers.spawn(tokio::time::timeout(CALLER_TIMEOUT, answering));
                }
                Some(Err(error)) => {
                    warn!(%error, "bundle endpoint accepts nobody");
                    // Out of descriptors, mostly: others must give some back first.
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }
}

async fn answer(stream: TcpStream, served_by: ServedBy, page: Page) {
    let secured = match &served_by {
        ServedBy::Identity(own) => endpoint::answer(stream, own).await,
        ServedBy::Web(certificate) => {
            let certificate = certificate.borrow().clone();
            endpoint::answer_web(stream, &certificate).await
        }
    };
    let stream = match secured {
        Ok(stream) => stream,
        Err(error @ (HandshakeError::OwnMissing | HandshakeError::OwnExpired)) => {
            return warn!(%error, "bundle endpoint cannot prove itself");
        }
        Err(error) => return debug!(%error, "caller of the bundle endpoint lost"),
    };
    let service = service_fn(|request| {
        let response = page.answer(&request);
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    let served = http.keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        debug!(%error, "caller of the bundle endpoint lost");
    }
}

#[derive(Clone)]
struct Page {
    path: Arc<str>,
    document: watch::Receiver<Bytes>,
}

impl Page {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let status = match (request.uri().path() == &*self.path, request.method()) {
            (false, _) => StatusCode::NOT_FOUND,
            (true, &Method::GET | &Method::HEAD) => StatusCode::OK,
            (true, _) => StatusCode::METHOD_NOT_ALLOWED,
        };
        let body = match status {
            StatusCode::OK => self.document.borrow().clone(),
            _ => Bytes::new(),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}
