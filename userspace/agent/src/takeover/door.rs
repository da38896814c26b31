//! Where a living agent hears of a successor, and what it does with one.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use martlet_telemetry::{AdminSocket, FileStays, bind_socket, replace_socket};
use tokio::{net::UnixStream, time::sleep};
use tracing::{info, warn};

use super::{Claim, Given, Word, channel::Channel};
use crate::limits::{ACCEPT_PAUSE, TAKEOVER_ANSWER, TAKEOVER_TIMEOUT};

/// A socket for root alone. Nobody is heard while nobody waits for [`Door::successor`].
pub struct Door {
    socket: AdminSocket,
    claim: Claim,
    /// The instance that this agent has taken over from, or has stopped.
    before: Option<String>,
}

/// An agent that wants the place of this one, and may have it.
pub struct Successor {
    channel: Channel,
    pub version: String,
}

impl Door {
    /// Of an agent that has no predecessor.
    pub fn open(path: &Path, claim: Claim, before: Option<String>) -> Result<Self> {
        Ok(Self { socket: bind_socket(path)?, claim, before })
    }

    /// In the place of the predecessor's.
    pub fn replace(path: &Path, claim: Claim, before: Option<String>) -> Result<Self> {
        Ok(Self { socket: replace_socket(path)?, claim, before })
    }

    /// By this the socket's file is left to the successor.
    pub fn stays(&self) -> FileStays {
        self.socket.stays()
    }

    /// The next that wants the place. Whoever may not have it, or only asks, is answered here. May be
    /// dropped at any time: whoever is not answered asks again.
    pub async fn successor(&self) -> Successor {
        loop {
            let asked = match self.socket.accept().await {
                Ok(stream) => self.ask(stream).await,
                Err(error) => {
                    warn!(%error, "no successor can ask");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match asked {
                Ok(Some(successor)) => return successor,
                Ok(None) => {}
                Err(error) => warn!(error = format!("{error:#}"), "a successor was not understood"),
            }
        }
    }

    async fn ask(&self, stream: UnixStream) -> Result<Option<Successor>> {
        let mut channel = Channel::new(stream)?;
        let (claim, takes) = match channel.hear(TAKEOVER_ANSWER).await? {
            Some(Word::Ask(claim)) => (claim, false),
            Some(Word::Take(claim)) => (claim, true),
            // It has only looked whether somebody is here.
            None => return Ok(None),
            Some(word) => bail!("it begins with {word:?}"),
        };
        let answer = self.claim.answer(&claim, self.before.as_deref());
        channel.say(&answer, &[]).await?;
        let version = claim.version;
        match answer {
            Word::Yes { .. } if takes => return Ok(Some(Successor { channel, version })),
            Word::Yes { .. } => info!(version, "an agent asks to take over"),
            Word::No(why) => warn!(version, why, "another agent was told that it can't take over"),
            other => warn!(version, ?other, "another agent was told that it can't take over"),
        }
        Ok(None)
    }
}

impl Successor {
    /// Hands everything over, and waits until the successor can do without this agent; whether it serves
    /// the listener for metrics then.
    pub async fn hand(&mut self, given: &Given<'_>) -> Result<bool> {
        for (word, fds) in given.words() {
            self.channel.say(&word, &fds).await?;
        }
        match self.channel.hear(TAKEOVER_TIMEOUT).await? {
            Some(Word::Ready { metrics }) => Ok(metrics),
            None => bail!("it has ended"),
            Some(word) => bail!("it says {word:?}"),
        }
    }

    /// This agent goes on; the other one may hear why it can't.
    pub async fn take_back(mut self, why: &str) {
        let _ = self.channel.say(&Word::TakenBack(why.to_owned()), &[]).await;
    }

    /// It has the place. One that does not hear it, because it has died just now, had it too.
    pub async fn has_it(&mut self) {
        if let Err(error) = self.channel.say(&Word::Yours, &[]).await {
            warn!(
                error = format!("{error:#}"),
                "the successor does not hear that it has taken over"
            );
        }
    }

    /// Says again and again how many connections are open still, as long as anybody hears it.
    pub async fn told_of(mut self, open: impl Fn() -> usize, pause: Duration) {
        while self.channel.say(&Word::Draining(open()), &[]).await.is_ok() {
            sleep(pause).await;
        }
    }
}
