//! The agent that lives already, as one that starts finds it.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{Claim, Received, Word, channel::Channel};
use crate::limits::{STOP_LOOK, TAKEOVER_ANSWER, TAKEOVER_FIND, TAKEOVER_LOOK, TAKEOVER_TIMEOUT};

/// One that gives way.
pub struct Predecessor {
    door: PathBuf,
    claim: Claim,
    instance: Option<String>,
}

/// What was handed over by one that still serves; nothing, by one that has ended since it was found.
pub struct Taking {
    /// `None` if it has ended.
    channel: Option<Channel>,
    pub received: Received,
    /// What starts it again, if that has a name.
    pub before: Option<String>,
    door: PathBuf,
}

/// A predecessor that carries what is open to its end.
pub struct Drains(Option<Channel>);

/// How an agent answers.
pub(super) enum Answer {
    Yes {
        instance: Option<String>,
    },
    Layout {
        layout: u32,
        instance: Option<String>,
    },
    /// Nobody is there.
    Nobody,
    /// It has ended, or has handed over to another one.
    Ended,
}

/// Finds the agent that lives on this node. One that does not give way is an error; one whose maps have
/// another layout can't be taken over from, and is waited for.
pub async fn find(door: &Path, claim: &Claim) -> Result<Option<Predecessor>> {
    let deadline = Instant::now() + TAKEOVER_FIND;
    let mut is_said = false;
    loop {
        match ask(door, claim).await? {
            Answer::Nobody => return Ok(None),
            Answer::Yes { instance } => {
                info!("another agent lives on this node, and gives way");
                let (door, claim) = (door.to_owned(), claim.clone());
                return Ok(Some(Predecessor { door, claim, instance }));
            }
            Answer::Layout { layout, .. } => {
                if !std::mem::replace(&mut is_said, true) {
                    let own = claim.layout;
                    warn!(
                        own,
                        layout,
                        "the agent that lives on this node has another layout of the kernel's maps, so that it can't be taken over from: waiting until it is stopped"
                    );
                }
            }
            Answer::Ended if Instant::now() > deadline => {
                bail!("another agent lives on this node, and does not answer");
            }
            Answer::Ended => {}
        }
        sleep(STOP_LOOK).await;
    }
}

pub(super) async fn ask(door: &Path, claim: &Claim) -> Result<Answer> {
    let asking = "asking the agent that lives on this node";
    let mut channel = match knock(door).await.context(asking)? {
        Knocked::In(channel) => channel,
        Knocked::Nobody => return Ok(Answer::Nobody),
        Knocked::Closing => return Ok(Answer::Ended),
    };
    if channel.say(&Word::Ask(claim.clone()), &[]).await.is_err() {
        return Ok(Answer::Ended);
    }
    Ok(match channel.hear(TAKEOVER_TIMEOUT).await.context(asking)? {
        Some(Word::Yes { instance }) => Answer::Yes { instance },
        Some(Word::Layout { layout, instance }) => Answer::Layout { layout, instance },
        Some(Word::No(why)) => bail!("another agent lives on this node and keeps its place: {why}"),
        Some(word) => bail!("another agent lives on this node and says {word:?}"),
        None => Answer::Ended,
    })
}

enum Knocked {
    In(Channel),
    /// Nobody listens.
    Nobody,
    /// Whoever has listened is ending just now.
    Closing,
}

async fn knock(door: &Path) -> Result<Knocked> {
    match UnixStream::connect(door).await {
        Ok(stream) => Channel::new(stream).map(Knocked::In),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(Knocked::Nobody),
            io::ErrorKind::ConnectionReset => Ok(Knocked::Closing),
            _ => Err(error).with_context(|| door.display().to_string()),
        },
    }
}

/// The kernel closes an agent's door with it, and not necessarily at first.
async fn is_gone(door: &Path) -> Result<bool> {
    let deadline = Instant::now() + TAKEOVER_ANSWER;
    loop {
        match knock(door).await? {
            Knocked::Nobody => return Ok(true),
            _ if Instant::now() > deadline => return Ok(false),
            _ => sleep(TAKEOVER_LOOK).await,
        }
    }
}

impl Predecessor {
    /// Takes what it hands over. It serves on, and changes nothing in the kernel.
    pub async fn take(self) -> Result<Taking> {
        let (received, before, door) = (Received::default(), self.instance, self.door);
        let mut taking = Taking { channel: None, received, before, door };
        let Knocked::In(mut channel) = knock(&taking.door).await? else { return Ok(taking) };
        if channel.say(&Word::Take(self.claim), &[]).await.is_err() {
            return Ok(taking);
        }
        match channel.hear(TAKEOVER_TIMEOUT).await? {
            Some(Word::Yes { .. }) => {}
            None => return Ok(taking),
            Some(word) => return Err(not_given(word)),
        }
        loop {
            // Before the first of them it finishes what it was asked.
            match channel.hear(TAKEOVER_TIMEOUT).await? {
                Some(Word::Handed { pieces, is_last, stayings }) => {
                    let (given, received) = (channel.take(pieces.len())?, &mut taking.received);
                    pieces.iter().zip(given).for_each(|(name, piece)| received.take(name, piece));
                    received.stay(stayings);
                    if is_last {
                        taking.channel = Some(channel);
                        return Ok(taking);
                    }
                }
                // It has died: there is what it has handed over until then.
                None => return Ok(taking),
                Some(word) => return Err(not_given(word)),
            }
        }
    }
}

fn not_given(word: Word) -> anyhow::Error {
    match word {
        Word::No(why) => anyhow!("the other agent keeps its place: {why}"),
        Word::TakenBack(why) => anyhow!("the other agent has taken its place back: {why}"),
        word => anyhow!("the other agent says {word:?}"),
    }
}

impl Taking {
    /// This agent can do without the other one from now on. After an error the other one goes on, and
    /// this one must not.
    pub async fn finish(self, metrics: bool) -> Result<Drains> {
        if let Some(mut channel) = self.channel {
            let heard = match channel.say(&Word::Ready { metrics }, &[]).await {
                Ok(()) => channel.hear(TAKEOVER_TIMEOUT).await?,
                // What it has said last may still be there to be read.
                Err(_) => channel.hear(TAKEOVER_ANSWER).await?,
            };
            match heard {
                Some(Word::Yours) => return Ok(Drains(Some(channel))),
                Some(word) => return Err(not_given(word)),
                None => {}
            }
        }
        ensure!(is_gone(&self.door).await?, "an agent that has not given its place lives");
        warn!("the agent that was to be taken over from has died");
        Ok(Drains(None))
    }
}

impl Drains {
    /// How many connections it carries still, when it says so again; `None` when it has ended.
    pub async fn open(&mut self) -> Option<usize> {
        match self.0.as_mut()?.next().await {
            Ok(Some(Word::Draining(open))) => Some(open),
            _ => None,
        }
    }
}
