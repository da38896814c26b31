//! A program in a pod, whose standard input and output are a stream of bytes.

use std::{
    error::Error,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api,
    api::{AttachParams, AttachedProcess},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, ReadHalf, SimplexStream, WriteHalf},
    sync::{oneshot, watch},
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
    _held: oneshot::Sender<()>,
}

/// What the program says beside its output, and how it ended.
#[derive(Debug, Clone)]
pub struct Said(watch::Receiver<Heard>);

#[derive(Debug, Default)]
struct Heard {
    text: String,
    /// Nothing more comes.
    is_over: bool,
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
        let reader = process.stdout().expect("it was asked for");
        let writer = process.stdin().expect("it was asked for");
        let (to_hear, heard) = watch::channel(Heard::default());
        let (held, is_dropped) = oneshot::channel();
        tokio::spawn(listen(process, to_hear, is_dropped));
        let mut until_over = heard.clone();
        let ended = async move { drop(until_over.wait_for(|heard| heard.is_over).await) };
        let ended: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(ended);
        Ok((Relay { reader, writer, ended: Some(ended), _held: held }, Said(heard)))
    }
}

/// Hears a program to its end, or until its relay is dropped.
async fn listen(
    mut process: AttachedProcess,
    to_hear: watch::Sender<Heard>,
    mut is_dropped: oneshot::Receiver<()>,
) {
    let add = |more: &str| {
        to_hear.send_modify(|heard| {
            if heard.text.len() < limits::SAID_BYTES {
                heard.text.push_str(more);
            }
        });
    };
    let mut errors = process.stderr().expect("it was asked for");
    let mut status = pin!(process.take_status().expect("nobody has taken it"));
    let mut buffer = [0; 1024];
    let (mut is_open, mut is_held) = (true, true);
    let status = loop {
        tokio::select! {
            biased;
            read = errors.read(&mut buffer), if is_open => match read {
                Ok(length @ 1..) => add(&String::from_utf8_lossy(&buffer[..length])),
                _ => is_open = false,
            },
            status = &mut status => break status,
            _ = &mut is_dropped, if is_held => {
                process.abort();
                is_held = false;
            }
        }
    };
    match status {
        Some(Status { status: Some(outcome), message: Some(message), .. })
            if outcome != "Success" =>
        {
            add(&format!("{message}\n"));
        }
        Some(_) => {}
        // Then the connection ended before the program did.
        None if is_held => {
            let broke = process.join().await.err();
            let why = broke.as_ref().map(|error| innermost(error).to_string());
            let why = why.unwrap_or_else(|| "closed by the API server".to_owned());
            add(&format!("the connection to the program broke: {why}\n"));
        }
        None => {}
    }
    to_hear.send_modify(|heard| heard.is_over = true);
}

/// The outer ones say only what was tried.
fn innermost(error: &dyn Error) -> &dyn Error {
    error.source().map_or(error, innermost)
}

impl Said {
    /// So far.
    pub fn text(&self) -> String {
        self.0.borrow().text.clone()
    }

    /// So far, when it is enough or all.
    pub async fn until(&mut self, is_enough: impl Fn(&str) -> bool) -> String {
        let enough = |heard: &Heard| heard.is_over || is_enough(&heard.text);
        let _ = self.0.wait_for(enough).await;
        self.text()
    }

    /// All of it, if the program ends soon.
    pub async fn to_the_end(&mut self) -> String {
        let _ = timeout(limits::LAST_WORDS, self.until(|_| false)).await;
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
