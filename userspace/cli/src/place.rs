//! Where somebody can be asked: behind a socket of this machine, or in a pod of a cluster.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use martlet_kubernetes::remote::{OwnPod, Remote, RemoteError, Said};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};

use crate::relay::GREETING;

pub enum Place {
    Socket(PathBuf),
    Pod(Box<InPod>),
}

/// A pod of Martlet's own, and whose socket is in it.
pub struct InPod {
    pub remote: Remote,
    pub pod: OwnPod,
    /// As `martlet relay` knows it.
    pub whose: &'static str,
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection that has begun.
pub struct Opened {
    pub stream: Box<dyn Stream>,
    /// What a relay says of itself; nothing here.
    pub words: Words,
}

/// What the relay in a pod says beside what it relays.
#[derive(Clone, Default)]
pub struct Words(Option<Said>);

pub enum OpenError {
    Socket(io::Error),
    Pod(RemoteError),
    /// The program in the pod has ended, or is no relay; what it said.
    NotRelayed(String),
}

impl Place {
    pub async fn open(&self) -> Result<Opened, OpenError> {
        match self {
            Place::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(OpenError::Socket)?;
                Ok(Opened { stream: Box::new(stream), words: Words(None) })
            }
            Place::Pod(place) => {
                let command = ["/usr/bin/martlet", "relay", place.whose];
                let begun = place.remote.run(&place.pod, &command).await;
                let (relay, said) = begun.map_err(OpenError::Pod)?;
                let mut words = Words(Some(said));
                // What is sent to a program that ends can end the connection before its last words.
                match words.greeting().await {
                    true => Ok(Opened { stream: Box::new(relay), words }),
                    false => {
                        let complaint = words.complaint().await;
                        let silent = || "it ended without a word".to_owned();
                        Err(OpenError::NotRelayed(complaint.unwrap_or_else(silent)))
                    }
                }
            }
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            Place::Socket(path) => path,
            Place::Pod(place) => Path::new(&place.pod.name),
        }
    }

    pub fn is_far(&self) -> bool {
        matches!(self, Place::Pod(_))
    }
}

impl Words {
    /// Whether a relay has begun, once that is known.
    async fn greeting(&mut self) -> bool {
        let Some(said) = &mut self.0 else { return true };
        let greets = |text: &str| text.split_inclusive('\n').any(is_greeting);
        greets(&said.until(greets).await)
    }

    /// The version of the martlet in the pod, if it has said it.
    pub fn version(&self) -> Option<String> {
        let text = self.0.as_ref()?.text();
        let line = text.lines().find_map(|line| line.strip_prefix(GREETING))?;
        Some(line.trim().to_owned())
    }

    /// Why it has ended, if it says so.
    pub async fn complaint(&mut self) -> Option<String> {
        let text = self.0.as_mut()?.to_the_end().await;
        let lines = text.lines().filter(|line| !line.starts_with(GREETING));
        let lines: Vec<_> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
        let text = lines.join("; ").replace(char::is_control, " ");
        (!text.is_empty()).then_some(text)
    }
}

/// Of a line with its end.
fn is_greeting(line: &str) -> bool {
    line.starts_with(GREETING) && line.ends_with('\n')
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}
