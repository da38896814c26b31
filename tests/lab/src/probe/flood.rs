//! Does one thing as hard as it can until it is killed: a neighbor that nobody wishes for.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use socket2::SockRef;

/// What a thread of ours needs.
const STACK_BYTES: usize = 64 * 1024;
const BULK_BYTES: usize = 16 * 1024;
const TINY_WRITES: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);
/// After a refusal: who does nothing else is no aggressor any more but a busy loop.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Args)]
pub struct Flood {
    /// A server that echoes.
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, value_enum)]
    kind: Kind,
    /// At a time.
    #[arg(long, default_value_t = 64)]
    connections: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// As many bytes as go through.
    Bulk,
    /// One byte in each write.
    Tiny,
    /// Opens, asks once, closes.
    Open,
    /// Opens, asks once, resets, so that no lane can be used again.
    Reset,
}

impl Flood {
    /// Prints one line when all connections have answered once.
    pub fn run(self) -> Result<()> {
        let Self { to, kind, connections } = self;
        let (answered, answers) = mpsc::channel();
        for _ in 0..connections {
            let answered = answered.clone();
            let work = move || {
                let mut answered = Some(answered);
                loop {
                    if one(to, kind, &mut answered).is_err() {
                        thread::sleep(PAUSE);
                    }
                }
            };
            thread::Builder::new().stack_size(STACK_BYTES).spawn(work).context("a thread")?;
        }
        drop(answered);
        answers.iter().for_each(|()| {});
        crate::print(&json!({ "flooding": connections }));
        loop {
            thread::park();
        }
    }
}

/// One connection. Says once that it has answered.
fn one(to: SocketAddr, kind: Kind, answered: &mut Option<mpsc::Sender<()>>) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = vec![0; BULK_BYTES];
    stream.write_all(b"x")?;
    stream.read_exact(&mut answer[..1])?;
    drop(answered.take());
    match kind {
        Kind::Open => Ok(()),
        Kind::Reset => SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        Kind::Bulk => loop {
            let question = answer.clone();
            stream.write_all(&question)?;
            stream.read_exact(&mut answer)?;
        },
        Kind::Tiny => loop {
            for _ in 0..TINY_WRITES {
                stream.write_all(b"x")?;
            }
            stream.read_exact(&mut answer[..TINY_WRITES])?;
        },
    }
}
