//! The server: swallows, or echoes, what its clients send.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use martlet_bench::limits;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    signal::unix::{SignalKind, signal},
};

use crate::{Closer, usage::Usage};

#[derive(Args)]
pub struct Server {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long, value_enum, default_value_t = Mode::Echo)]
    mode: Mode,
    /// With `server`, a connection is closed after one message of `--size` bytes was echoed.
    #[arg(long, value_enum, default_value_t = Closer::Client)]
    close: Closer,
    #[arg(long, default_value_t = 64)]
    size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Send back what comes.
    Echo,
    /// Read to the end, then say how many bytes there were.
    Sink,
}

/// How one connection is answered.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Echo,
    EchoOnceAndClose { size: usize },
    Count,
}

impl Server {
    pub async fn run(self) -> Result<()> {
        let listener = self.bind().with_context(|| format!("listening on {}", self.listen))?;
        let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
        println!("{}", json!({ "listening": listener.local_addr()? }));
        tokio::select! {
            result = accept(listener, self.answer()) => result?,
            _ = terminate.recv() => {}
        }
        println!("{}", json!({ "own_cpu_seconds": Usage::now()?.own_cpu_seconds }));
        Ok(())
    }

    fn bind(&self) -> std::io::Result<TcpListener> {
        let socket = match self.listen {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(self.listen)?;
        socket.listen(limits::BACKLOG)
    }

    fn answer(&self) -> Answer {
        match (self.mode, self.close) {
            (Mode::Sink, _) => Answer::Count,
            (Mode::Echo, Closer::Client) => Answer::Echo,
            (Mode::Echo, Closer::Server) => Answer::EchoOnceAndClose { size: self.size },
        }
    }
}

async fn accept(listener: TcpListener, answer: Answer) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("accepting a connection")?;
        // A client that vanishes is the client's to report.
        tokio::spawn(async move { answer.give(stream).await.ok() });
    }
}

impl Answer {
    async fn give(self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        match self {
            Answer::Echo => echo(&mut stream).await,
            Answer::EchoOnceAndClose { size } => {
                let mut message = vec![0; size];
                stream.read_exact(&mut message).await?;
                stream.write_all(&message).await
            }
            Answer::Count => count(&mut stream).await,
        }
    }
}

async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; limits::ECHO_READ];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length]).await?,
        }
    }
}

async fn count(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; limits::SINK_READ];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            length => received += length as u64,
        }
    }
    stream.write_u64(received).await
}
