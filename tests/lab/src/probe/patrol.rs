//! Asks the same server again and again, over new connections and over one that stays open, and
//! prints a line about each time that it asked, until its input ends.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::json;

use crate::facts;

/// A canary.
type Canary = [u8; 32];

#[derive(Args, Clone)]
pub struct Patrol {
    #[arg(long)]
    to: SocketAddr,
    /// What to ask.
    #[arg(long)]
    canaries: PathBuf,
    /// What may be answered.
    #[arg(long)]
    replies: PathBuf,
    /// The pause after each time.
    #[arg(long, default_value_t = 25)]
    pause_ms: u64,
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
}

struct Asking {
    patrol: Patrol,
    questions: Vec<Canary>,
    replies: Vec<Canary>,
}

impl Patrol {
    pub fn run(self) -> Result<()> {
        let asking = Asking {
            questions: read(&self.canaries)?,
            replies: read(&self.replies)?,
            patrol: self,
        };
        ensure!(!asking.questions.is_empty(), "there is nothing to ask");
        thread::scope(|scope| {
            for stays_open in [false, true] {
                let asking = &asking;
                scope.spawn(move || asking.forever(stays_open));
            }
            let ended = io::stdin().read_to_end(&mut Vec::new());
            // The asking threads never end by themselves.
            std::process::exit(i32::from(ended.is_err()));
        })
    }
}

impl Asking {
    fn forever(&self, stays_open: bool) {
        let mut open = None;
        for question in self.questions.iter().cycle() {
            let (began, is_fresh) = (facts::wall_clock(), open.is_none());
            let asked = open.take().map_or_else(|| self.open(), Ok).and_then(|mut stream| {
                let reply = ask(&mut stream, question)?;
                Ok((stream, reply))
            });
            let (error, is_wrong) = match asked {
                Ok((stream, reply)) => {
                    open = stays_open.then_some(stream);
                    (None, !self.replies.contains(&reply))
                }
                Err(error) => (Some(facts::name(&error)), false),
            };
            crate::print(&json!({
                "stays_open": stays_open, "fresh": is_fresh, "began": began, "ended": facts::wall_clock(),
                "error": error, "wrong": is_wrong,
            }));
            thread::sleep(Duration::from_millis(self.patrol.pause_ms));
        }
    }

    fn open(&self) -> io::Result<TcpStream> {
        let timeout = Duration::from_millis(self.patrol.timeout_ms);
        let stream = TcpStream::connect_timeout(&self.patrol.to, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(stream)
    }
}

fn ask(stream: &mut TcpStream, question: &Canary) -> io::Result<Canary> {
    stream.write_all(question)?;
    let mut reply = [0; 32];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}

fn read(path: &PathBuf) -> Result<Vec<Canary>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(bytes.as_chunks::<32>().0.to_vec())
}
