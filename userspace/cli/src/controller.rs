//! Asking the controller: HTTP over its Unix socket, here or in its pod, with a deadline and a bound
//! on every answer.

use std::{io, path::PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Method, Request, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use martlet_kubernetes::remote::RemoteError;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::time::timeout;

use crate::{
    json, limits,
    place::{OpenError, Place},
};

const OURS: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Error)]
pub enum ControllerError {
    #[error("there is no controller's socket at {}", .0.display())]
    Missing(PathBuf),
    #[error("no controller serves the socket {}", .0.display())]
    Refused(PathBuf),
    #[error("the controller's socket {} is not for this user", .0.display())]
    Denied(PathBuf),
    #[error("connecting to the controller's socket {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the controller did not answer within {0} s")]
    Silent(u64),
    #[error("what serves {} does not answer as a controller does", .0.display())]
    Stranger(PathBuf),
    #[error("the controller's answer broke off")]
    Broken(#[source] hyper::Error),
    #[error("the controller's answer is longer than {mebibytes} MiB", mebibytes = limits::ANSWER_BYTES >> 20)]
    TooLong,
    #[error("the controller does not know {0}")]
    Unknown(&'static str),
    #[error("{0}")]
    Failed(String),
    #[error("the controller says something that this martlet ({OURS}) does not understand")]
    Differs(#[source] serde_json::Error),
    #[error("there is no pod of martlet-controller in {0}")]
    NoPod(String),
    #[error("the pod {pod} does not run: {why}")]
    Absent { pod: String, why: String },
    #[error("the pod {pod} could not be reached")]
    Unreached {
        pod: String,
        #[source]
        source: RemoteError,
    },
    #[error("nothing is relayed by the pod {pod}: {said}")]
    NotRelayed { pod: String, said: String },
}

/// Where the controller can be asked.
pub struct Controller {
    place: Place,
}

impl Controller {
    pub fn at(socket: PathBuf) -> Self {
        Self::of(Place::Socket(socket))
    }

    pub fn of(place: Place) -> Self {
        Self { place }
    }

    /// The whole answer, which is JSON.
    pub async fn ask(&self, path: &'static str) -> Result<Vec<u8>, ControllerError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// Has something done.
    pub async fn tell(
        &self,
        path: &'static str,
        what: &impl Serialize,
    ) -> Result<Vec<u8>, ControllerError> {
        let body = serde_json::to_vec(what).map_err(ControllerError::Differs)?;
        self.send(Method::POST, path, body.into()).await
    }

    pub fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, ControllerError> {
        json::read(answer).map_err(ControllerError::Differs)
    }

    async fn send(
        &self,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<Vec<u8>, ControllerError> {
        let patience = if method == Method::GET { limits::ANSWER } else { limits::DONE };
        let answer = timeout(patience, self.exchange(method, path, body));
        let silent = |_| ControllerError::Silent(patience.as_secs());
        let answer = answer.await.map_err(silent)??;
        if json::is_json(&answer) { Ok(answer) } else { Err(self.stranger()) }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<Vec<u8>, ControllerError> {
        let opened = self.place.open().await.map_err(|error| self.unreachable(error))?;
        let mut words = opened.words;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(opened.stream)).await.map_err(|e| self.broken(e))?;
        // Whatever fails there is said by the answer, too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "martlet")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("paths are written in this program");
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => {
                let pod = self.place.to_string();
                return Err(match words.complaint().await {
                    Some(said) => ControllerError::NotRelayed { pod, said },
                    None => self.broken(error),
                });
            }
        };
        let status = response.status();
        let body = self.collect(response.into_body()).await?;
        match status {
            StatusCode::OK => Ok(body),
            StatusCode::NOT_FOUND => Err(ControllerError::Unknown(path)),
            _ => {
                let text = String::from_utf8_lossy(&body).trim().replace(char::is_control, " ");
                let text = text.chars().take(limits::REFUSAL_CHARACTERS).collect();
                Err(ControllerError::Failed(text))
            }
        }
    }

    async fn collect(&self, body: Incoming) -> Result<Vec<u8>, ControllerError> {
        match Limited::new(body, limits::ANSWER_BYTES).collect().await {
            Ok(collected) => Ok(collected.to_bytes().to_vec()),
            Err(error) if error.is::<LengthLimitError>() => Err(ControllerError::TooLong),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(error) => Err(self.broken(*error)),
                Err(_) => Err(self.stranger()),
            },
        }
    }

    fn unreachable(&self, error: OpenError) -> ControllerError {
        let path = self.place.path().to_owned();
        let source = match error {
            OpenError::Socket(source) => source,
            OpenError::Pod(source) => {
                return ControllerError::Unreached { pod: self.place.to_string(), source };
            }
            OpenError::NotRelayed(said) => {
                return ControllerError::NotRelayed { pod: self.place.to_string(), said };
            }
        };
        match source.kind() {
            io::ErrorKind::NotFound => ControllerError::Missing(path),
            io::ErrorKind::ConnectionRefused => ControllerError::Refused(path),
            io::ErrorKind::PermissionDenied => ControllerError::Denied(path),
            _ => ControllerError::Connect { path, source },
        }
    }

    fn broken(&self, error: hyper::Error) -> ControllerError {
        if error.is_parse() { self.stranger() } else { ControllerError::Broken(error) }
    }

    fn stranger(&self) -> ControllerError {
        ControllerError::Stranger(self.place.path().to_owned())
    }
}

impl ControllerError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            ControllerError::Missing(_) => {
                "is martlet-controller running on this machine? name another socket by --controller-socket or MARTLET_CONTROLLER_SOCKET, or a cluster by --context or --kubeconfig"
            }
            ControllerError::Refused(_) => {
                "martlet-controller is not running; start it: systemctl start martlet-controller"
            }
            ControllerError::Denied(_) => {
                "run this as root, or as the user that the controller runs as"
            }
            ControllerError::Unknown(_) | ControllerError::Differs(_) => {
                "martlet and martlet-controller are of different versions"
            }
            ControllerError::NoPod(_) | ControllerError::Absent { .. } => {
                "see kubectl --namespace martlet-system describe deployment,pods"
            }
            ControllerError::Unreached { source, .. } if source.is_forbidden() => {
                "this needs the right to create and get pods/exec in Martlet's namespace"
            }
            _ => return None,
        })
    }
}
