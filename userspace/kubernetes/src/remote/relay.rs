//! A program in a pod, whose standard input and output are a stream of bytes.

use std::{
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api,
    api::{AttachParams, AttachedProcess},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, ReadHalf, SimplexStream, WriteHalf},
    sync::watch,
    time::timeout,
};

use super::{OwnPod, Remote, RemoteError, answer};
use crate::limits;

/// Ends the program when it is dropped: its input ends with the connection.
pub struct Relay {
    reader: ReadHalf<SimplexStream>,
    writer: WriteHalf<SimplexStream>,
    /// A connection that broke leaves the reader without an end of its own.
    ended: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _process: AttachedProcess,
}

/// What the program says beside its output, and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    text: Arc<Mutex<String>>,
    /// True when nothing more comes.
    is_over: watch::Receiver<bool>,
}

impl Remote {
    /// Begins a program in a pod.
    ///
    /// # Errors
    ///
    /// The API server did not begin it, or this user may not.
    pub async fn run(&self, pod: &OwnPod, command: &[&str]) -> Result<(Relay, Said), RemoteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.system.as_str());
        let mut parameters = AttachParams::default()
            .container(pod.container.clone())
            .stdin(true)
            .max_stdin_buf_size(limits::RELAY_BYTES)
            .max_stdout_buf_size(limits::RELAY_BYTES);
        parameters.tty = false;
        let what = format!("a program in {}", pod.name);
        let begun = api.exec(&pod.name, command.iter().copied(), &parameters);
        let mut process = answer(&what, begun).await?;
        let said = listen(&mut process);
        let reader = process.stdout().expect("it was asked for");
        let writer = process.stdin().expect("it was asked for");
        let mut is_over = said.is_over.clone();
        let ended = async move { drop(is_over.wait_for(|is_over| *is_over).await) };
        let ended: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(ended);
        Ok((Relay { reader, writer, ended: Some(ended), _process: process }, said))
    }
}

fn listen(process: &mut AttachedProcess) -> Said {
    let text = Arc::new(Mutex::new(String::new()));
    let (over, is_over) = watch::channel(false);
    let (errors, status) = (process.stderr(), process.take_status());
    let into = text.clone();
    let add = move |more: &str| {
        let mut text = into.lock().unwrap_or_else(PoisonError::into_inner);
        if text.len() < limits::SAID_BYTES {
            text.push_str(more);
        }
    };
    tokio::spawn(async move {
        let mut errors = errors.expect("it was asked for");
        let mut status = pin!(status.expect("nobody has taken it"));
        let mut buffer = [0; 1024];
        let mut is_open = true;
        // Without an outcome the connection broke.
        let status = loop {
            tokio::select! {
                biased;
                read = errors.read(&mut buffer), if is_open => match read {
                    Ok(length @ 1..) => add(&String::from_utf8_lossy(&buffer[..length])),
                    _ => is_open = false,
                },
                status = &mut status => break status,
            }
        };
        if let Some(Status { status: Some(outcome), message: Some(message), .. }) = status
            && outcome != "Success"
        {
            add(&format!("{message}\n"));
        }
        over.send_replace(true);
    });
    Said { text, is_over }
}

impl Said {
    /// So far.
    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of it, if the program ends soon.
    pub async fn to_the_end(&mut self) -> String {
        let _ = timeout(limits::LAST_WORDS, self.is_over.wait_for(|is_over| *is_over)).await;
        self.text()
    }
}

impl AsyncRead for Relay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if Pin::new(&mut self.reader).poll_read(context, buffer)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let Some(ended) = &mut self.ended else { return Poll::Ready(Ok(())) };
        ready!(ended.as_mut().poll(context));
        self.ended = None;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Relay {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}
