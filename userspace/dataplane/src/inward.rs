//! From a lane to an application.
//!
//! Payload is written to the application's socket from where it was decrypted. Only what the
//! socket does not take is kept, and then nothing more is read from the lane.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use martlet_model::Closed;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    frame::{Frame, Part},
    lane::{Lane, Violation, name},
    limits::CHUNKS_PER_TURN,
    scratch,
};

/// Which side of the lane we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Caller,
    Callee,
}

/// What the far side can do to a connection.
#[derive(Debug)]
pub enum Interruption {
    /// Our own application does not take bytes any more.
    Application,
    Reset(Closed),
    Refused {
        reason: Closed,
        text: String,
    },
    Violation(Violation),
    /// The transport ended in an orderly way, though the connection had not.
    Ended,
    Failed(io::Error),
}

/// How far the far side has come. It only ever goes down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    Nothing,
    Bytes,
    /// The far application has sent everything.
    Finish,
    /// And has taken everything: the last word about this connection.
    Done,
}

#[derive(Debug)]
pub struct Inward {
    side: Side,
    pub heard: Heard,
    /// The application did not take what it was offered last.
    pub is_stalled: bool,
}

impl Inward {
    pub fn new(side: Side) -> Self {
        Self { side, heard: Heard::Nothing, is_stalled: false }
    }

    /// Goes on until the connection is interrupted, or has had its last word.
    pub fn poll<A, L>(
        &mut self,
        context: &mut Context<'_>,
        lane: &mut Lane<L>,
        application: &mut A,
        outward_finished: bool,
        count: &AtomicU64,
        chunk: usize,
    ) -> Poll<Result<(), Interruption>>
    where
        A: AsyncWrite + Unpin,
        L: AsyncRead + AsyncWrite + Unpin,
    {
        for _ in 0..CHUNKS_PER_TURN {
            if self.heard == Heard::Done {
                return Poll::Ready(Ok(()));
            }
            if !lane.unread.is_empty() {
                let mut unread = std::mem::take(&mut lane.unread);
                let mut input = unread.bytes();
                let used =
                    self.poll_use(context, lane, &mut input, application, outward_finished, count);
                let taken = unread.bytes().len() - input.len();
                unread.take(taken);
                lane.unread = unread;
                ready!(used)?;
                continue;
            }
            ready!(scratch::with(|buffer| {
                let filled = match ready!(lane.poll_fill(context, &mut buffer[..chunk])) {
                    Err(error) => return Poll::Ready(Err(Interruption::Failed(error))),
                    Ok(0) => return Poll::Ready(Err(Interruption::Ended)),
                    Ok(filled) => filled,
                };
                let mut input = &buffer[..filled];
                let used =
                    self.poll_use(context, lane, &mut input, application, outward_finished, count);
                lane.unread.push(input);
                used
            }))?;
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when `input` is used up or the connection has had its last word.
    fn poll_use<A, L>(
        &mut self,
        context: &mut Context<'_>,
        lane: &mut Lane<L>,
        input: &mut &[u8],
        application: &mut A,
        outward_finished: bool,
        count: &AtomicU64,
    ) -> Poll<Result<(), Interruption>>
    where
        A: AsyncWrite + Unpin,
    {
        self.is_stalled = false;
        while self.heard != Heard::Done {
            let part = match lane.decoder.next(input) {
                Ok(Some(part)) => part,
                Ok(None) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(Interruption::Violation(error.into()))),
            };
            if let Part::Bytes(bytes) = part {
                if self.heard >= Heard::Finish {
                    return Poll::Ready(Err(out_of_order("DATA after FINISH")));
                }
                self.heard = Heard::Bytes;
                let wrote = match Pin::new(&mut *application).poll_write(context, bytes) {
                    Poll::Ready(Ok(wrote)) if wrote > 0 => wrote,
                    Poll::Ready(_) => return Poll::Ready(Err(Interruption::Application)),
                    Poll::Pending => {
                        self.is_stalled = true;
                        return Poll::Pending;
                    }
                };
                count.fetch_add(wrote as u64, Ordering::Relaxed);
                lane.decoder.take(input, wrote);
                continue;
            }
            self.hear(part, outward_finished)?;
            if self.heard >= Heard::Finish {
                // On a socket this never waits; that the application is gone shows elsewhere.
                let _ = Pin::new(&mut *application).poll_shutdown(context);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn hear(&mut self, part: Part<'_>, outward_finished: bool) -> Result<(), Interruption> {
        let caller = self.side == Side::Caller;
        match part {
            Part::Frame(Frame::Finish) if self.heard < Heard::Finish => {
                self.heard = Heard::Finish;
                Ok(())
            }
            // Only an answer to our own FINISH makes sense.
            Part::Frame(Frame::Done) if caller && outward_finished => {
                self.heard = Heard::Done;
                Ok(())
            }
            Part::Frame(Frame::Reset(reason)) => Err(Interruption::Reset(reason)),
            Part::Frame(Frame::Refused { reason, text })
                if caller && self.heard == Heard::Nothing =>
            {
                Err(Interruption::Refused { reason, text })
            }
            other => Err(out_of_order(name(&other))),
        }
    }

    /// The lane cannot be written to: what the far side said before it ended counts more than
    /// that. Never waits; throws application bytes away, since the connection is lost.
    pub fn last_words<L>(&mut self, context: &mut Context<'_>, lane: &mut Lane<L>) -> Interruption
    where
        L: AsyncRead + AsyncWrite + Unpin,
    {
        let unread = std::mem::take(&mut lane.unread);
        if let Some(said) = self.search(lane, unread.bytes()) {
            return said;
        }
        scratch::with(|buffer| {
            loop {
                match lane.poll_fill(context, buffer) {
                    Poll::Pending | Poll::Ready(Ok(0)) => return Interruption::Ended,
                    Poll::Ready(Err(error)) => return Interruption::Failed(error),
                    Poll::Ready(Ok(filled)) => {
                        if let Some(said) = self.search(lane, &buffer[..filled]) {
                            return said;
                        }
                    }
                }
            }
        })
    }

    fn search<L>(&mut self, lane: &mut Lane<L>, mut input: &[u8]) -> Option<Interruption> {
        loop {
            match lane.decoder.next(&mut input) {
                Ok(None) => return None,
                Err(error) => return Some(Interruption::Violation(error.into())),
                Ok(Some(Part::Bytes(bytes))) => {
                    let length = bytes.len();
                    lane.decoder.take(&mut input, length);
                }
                Ok(Some(Part::Frame(Frame::Finish | Frame::Done))) => {}
                Ok(Some(other)) => return self.hear(other, false).err(),
            }
        }
    }
}

fn out_of_order(what: &'static str) -> Interruption {
    Interruption::Violation(Violation::OutOfOrder(what))
}
