//! Asking the agent: HTTP over its Unix socket, with a deadline and a bound on every answer.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

use crate::{json, limits};

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
}

/// Where the agent can be asked.
pub struct Agent {
    socket: PathBuf,
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
        Self { socket }
    }

    /// The whole answer, which is JSON.
    pub async fn ask(&self, path: &'static str) -> Result<Vec<u8>, AgentError> {
        let answer = timeout(limits::ANSWER, async {
            let (_sender, response) = self.request(path).await?;
            self.collect(response.into_body()).await
        });
        let answer = answer.await.map_err(|_| AgentError::Silent)??;
        if json::is_json(&answer) { Ok(answer) } else { Err(self.stranger()) }
    }

    /// The lines of an answer that has no end.
    pub async fn follow(&self, path: &'static str) -> Result<Lines, AgentError> {
        let begun = timeout(limits::ANSWER, self.request(path));
        let (_sender, response) = begun.await.map_err(|_| AgentError::Silent)??;
        Ok(Lines { body: response.into_body(), read: Vec::new(), searched: 0, _sender })
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

    /// A request whose answer has begun, and begun well.
    async fn request(
        &self,
        path: &'static str,
    ) -> Result<(SendRequest<Empty<Bytes>>, Response<Incoming>), AgentError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(e))?;
        let broken = |error| self.broken(error);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Whatever fails there is said by the answer, too.
        tokio::spawn(connection);
        let request = Request::get(path).header(header::HOST, "martlet").body(Empty::new());
        let request = request.expect("paths are written in this program");
        let response = sender.send_request(request).await.map_err(broken)?;
        match response.status() {
            StatusCode::OK => Ok((sender, response)),
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

    fn unreachable(&self, source: io::Error) -> AgentError {
        let path = self.socket.clone();
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
        AgentError::Stranger(Path::to_owned(&self.socket))
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
                "is martlet-agent running on this node? name another socket by --socket or MARTLET_SOCKET"
            }
            AgentError::Refused(_) => {
                "martlet-agent is not running, or this is no socket; start it: systemctl start martlet-agent"
            }
            AgentError::Denied(_) => "run this as root: sudo martlet",
            AgentError::Connect { .. } | AgentError::Silent => {
                "the agent may be overloaded; look into its log: journalctl -u martlet-agent"
            }
            AgentError::Stranger(_) => "is this the socket in the node file of martlet-agent?",
            AgentError::Broken(_) => "the agent may have stopped; try again, or look into its log",
            AgentError::Unknown(_) | AgentError::Differs { .. } => {
                "use the martlet that came with the agent; -o json prints what the agent says"
            }
            AgentError::TooLong | AgentError::Failed { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests;
