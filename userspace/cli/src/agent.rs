//! Asking an agent: HTTP over its Unix socket, here or in its pod, with a deadline and a bound on
//! every answer.

use std::{io, path::PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use martlet_kubernetes::remote::RemoteError;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    json, limits,
    place::{OpenError, Place, Words},
};

const OURS: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Error)]
pub enum AgentError {
    #[error("there is no agent's socket at {}", .0.display())]
    Missing(PathBuf),
    #[error("no agent serves the socket {}", .0.display())]
    Refused(PathBuf),
    #[error("the agent's socket {} is not for this user", .0.display())]
    Denied(PathBuf),
    #[error("connecting to the agent's socket {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent did not answer within {} s", limits::ANSWER.as_secs())]
    Silent,
    #[error("what serves {} does not answer as an agent does", .0.display())]
    Stranger(PathBuf),
    #[error("the agent's answer broke off")]
    Broken(#[source] hyper::Error),
    #[error("the agent's answer is longer than {} MiB", limits::ANSWER_BYTES >> 20)]
    TooLong,
    #[error("the agent does not know {0}")]
    Unknown(&'static str),
    #[error("the agent answered {status}: {text}")]
    Failed { status: StatusCode, text: String },
    #[error("the agent ({version}) says something that this martlet ({OURS}) does not understand")]
    Differs {
        version: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the agent has ended its answer")]
    Ended,
    #[error("the node has no pod of martlet-agent")]
    NoPod,
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

/// Where an agent can be asked.
pub struct Agent {
    place: Place,
    /// Of a pod: to begin a program there takes a moment.
    kept: Mutex<Option<Kept>>,
}

/// A connection on which more can be asked.
struct Kept {
    sender: SendRequest<Empty<Bytes>>,
    words: Words,
}

/// What an agent said, and which martlet is with it, if that is known.
pub struct Told {
    pub answer: Vec<u8>,
    pub version: Option<String>,
}

/// An answer that goes on, line by line.
pub struct Lines {
    body: Incoming,
    read: Vec<u8>,
    /// Up to where there is no end of line.
    searched: usize,
    /// Kept, so that the connection stays.
    _sender: SendRequest<Empty<Bytes>>,
}

impl Agent {
    pub fn at(socket: PathBuf) -> Self {
        Self::of(Place::Socket(socket))
    }

    pub fn of(place: Place) -> Self {
        Self { place, kept: Mutex::new(None) }
    }

    /// The whole answer, which is JSON.
    pub async fn ask(&self, path: &'static str) -> Result<Vec<u8>, AgentError> {
        self.told(path).await.map(|told| told.answer)
    }

    pub async fn told(&self, path: &'static str) -> Result<Told, AgentError> {
        let told = timeout(limits::ANSWER, async {
            // Not in the condition: it would be locked until the answer is there.
            let kept = self.kept.lock().await.take();
            if let Some(kept) = kept
                && !kept.sender.is_closed()
                && let Ok(told) = self.exchange(kept, path).await
            {
                return Ok(told);
            }
            self.exchange(self.open().await?, path).await
        });
        let told = told.await.map_err(|_| AgentError::Silent)??;
        if json::is_json(&told.answer) { Ok(told) } else { Err(self.stranger()) }
    }

    async fn exchange(&self, mut by: Kept, path: &'static str) -> Result<Told, AgentError> {
        let response = self.request(&mut by, path).await?;
        let answer = self.collect(response.into_body()).await?;
        let version = by.words.version();
        if self.place.is_far() {
            *self.kept.lock().await = Some(by);
        }
        Ok(Told { answer, version })
    }

    /// The lines of an answer that has no end.
    pub async fn follow(&self, path: &'static str) -> Result<Lines, AgentError> {
        let begun = timeout(limits::ANSWER, async {
            let mut by = self.open().await?;
            let response = self.request(&mut by, path).await?;
            Ok((by.sender, response))
        });
        let (_sender, response) = begun.await.map_err(|_| AgentError::Silent)??;
        Ok(Lines { body: response.into_body(), read: Vec::new(), searched: 0, _sender })
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Reads an answer; if that fails, says which version it came from.
    pub async fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, AgentError> {
        match json::read(answer) {
            Ok(read) => Ok(read),
            Err(source) => Err(AgentError::Differs { version: self.version().await, source }),
        }
    }

    async fn version(&self) -> String {
        let status = self.ask("/status").await.ok();
        let status = status.and_then(|status| json::read::<serde_json::Value>(&status).ok());
        let version = status.as_ref().and_then(|status| status["version"].as_str());
        version.unwrap_or("of an unknown version").to_owned()
    }

    async fn open(&self) -> Result<Kept, AgentError> {
        let opened = self.place.open().await.map_err(|error| self.unreachable(error))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(opened.stream)).await.map_err(|e| self.broken(e))?;
        // Whatever fails there is said by the answer, too.
        tokio::spawn(connection);
        Ok(Kept { sender, words: opened.words })
    }

    /// A request whose answer has begun, and begun well.
    async fn request(
        &self,
        by: &mut Kept,
        path: &'static str,
    ) -> Result<Response<Incoming>, AgentError> {
        let request = Request::get(path).header(header::HOST, "martlet").body(Empty::new());
        let request = request.expect("paths are written in this program");
        let response = match by.sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => {
                let pod = self.place.to_string();
                return Err(match by.words.complaint().await {
                    Some(said) => AgentError::NotRelayed { pod, said },
                    None => self.broken(error),
                });
            }
        };
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(AgentError::Unknown(path)),
            status => {
                let body = self.collect(response.into_body()).await?;
                let text = String::from_utf8_lossy(&body).trim().replace(char::is_control, " ");
                let text = text.chars().take(limits::REFUSAL_CHARACTERS).collect();
                Err(AgentError::Failed { status, text })
            }
        }
    }

    async fn collect(&self, body: Incoming) -> Result<Vec<u8>, AgentError> {
        match Limited::new(body, limits::ANSWER_BYTES).collect().await {
            Ok(collected) => Ok(collected.to_bytes().to_vec()),
            Err(error) if error.is::<LengthLimitError>() => Err(AgentError::TooLong),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(error) => Err(self.broken(*error)),
                Err(_) => Err(self.stranger()),
            },
        }
    }

    fn unreachable(&self, error: OpenError) -> AgentError {
        let path = self.place.path().to_owned();
        let source = match error {
            OpenError::Socket(source) => source,
            OpenError::Pod(source) => {
                return AgentError::Unreached { pod: self.place.to_string(), source };
            }
            OpenError::NotRelayed(said) => {
                return AgentError::NotRelayed { pod: self.place.to_string(), said };
            }
        };
        match source.kind() {
            io::ErrorKind::NotFound => AgentError::Missing(path),
            io::ErrorKind::ConnectionRefused => AgentError::Refused(path),
            io::ErrorKind::PermissionDenied => AgentError::Denied(path),
            _ => AgentError::Connect { path, source },
        }
    }

    fn broken(&self, error: hyper::Error) -> AgentError {
        if error.is_parse() { self.stranger() } else { AgentError::Broken(error) }
    }

    fn stranger(&self) -> AgentError {
        AgentError::Stranger(self.place.path().to_owned())
    }
}

impl Lines {
    /// The next line, without its end; nothing when the agent has ended the answer.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, AgentError> {
        loop {
            if let Some(end) = self.read[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(self.searched + end + 1);
                let mut line = std::mem::replace(&mut self.read, rest);
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.read.len();
            if self.searched > limits::LINE_BYTES {
                return Err(AgentError::TooLong);
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(AgentError::Broken)?;
            self.read.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }
}

impl AgentError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            AgentError::Missing(_) => {
                "is martlet-agent running on this node? name another socket by --socket or MARTLET_SOCKET, or a cluster by --context or --kubeconfig"
            }
            AgentError::Refused(_) => {
                "martlet-agent is not running, or this is no socket; start it: systemctl start martlet-agent"
            }
            AgentError::Denied(_) => "run this as root: sudo martlet",
            AgentError::Connect { .. } | AgentError::Silent => {
                "the agent may be overloaded; look into its log: journalctl -u martlet-agent"
            }
            AgentError::Stranger(_) => "is this the socket in the node file of martlet-agent?",
            AgentError::Broken(_) | AgentError::Ended => {
                "the agent may have stopped; try again, or look into its log"
            }
            AgentError::Unknown(_) | AgentError::Differs { .. } => {
                "use the martlet that came with the agent; -o json prints what the agent says"
            }
            AgentError::NoPod | AgentError::Absent { .. } => {
                "see kubectl --namespace martlet-system describe daemonset,pods"
            }
            AgentError::Unreached { source, .. } if source.is_forbidden() => {
                "this needs the right to create and get pods/exec in Martlet's namespace"
            }
            AgentError::Unreached { .. } => {
                "the API server must be able to reach the node's kubelet, as for kubectl exec"
            }
            AgentError::NotRelayed { .. } => {
                "use the martlet that came with the agents, or look into their logs"
            }
            AgentError::TooLong | AgentError::Failed { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests;
