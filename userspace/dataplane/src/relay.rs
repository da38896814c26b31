//! Between an application and a lane, both directions in one task.
//!
//! Nothing is read from one side while the other has not taken what was read before: TCP's own
//! flow control is the only one there is, from one application to the other.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::BufMut as _;
use martlet_model::Closed;
use martlet_policy::Permit;
use tokio::{io::AsyncWrite as _, net::TcpStream};

use crate::{
    frame::{Frame, FrameError, HEADER_BYTES, data_header},
    lane::{Lane, LaneError, Word},
    limits::{CHUNK_BYTES, FAREWELL_TIMEOUT},
};

/// How a relayed connection ended, seen from this side.
#[derive(Debug)]
pub enum End {
    /// Both directions were finished; the lane can carry another connection.
    Finished,
    /// Our application reset it; the far side has been told.
    ResetHere,
    /// The far application reset it.
    ResetThere,
    /// The far side refused it.
    Refused { reason: Closed, policy: String },
    /// The lane's transport ended; the error is there if it was one.
    Broken(Option<io::Error>),
    /// The far side broke the protocol.
    Violation(Violation),
}

#[derive(Debug, thiserror::Error)]
pub enum Violation {
    #[error(transparent)]
    Framing(FrameError),
    #[error("a frame that has no place in this state")]
    OutOfOrder,
}

/// How many application bytes went which way.
#[derive(Debug, Default, Clone, Copy)]
pub struct Bytes {
    /// From our application.
    pub sent: u64,
    /// To our application.
    pub received: u64,
}

/// Which side of the lane we are: only the called side may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Caller,
    Callee,
}

/// Relays until the connection has ended. `greeting` is sent first, together with what the
/// application has sent already.
pub async fn relay(
    application: &mut TcpStream,
    lane: &mut Lane,
    side: Side,
    greeting: Option<&Frame>,
    _permit: &Permit,
    bytes: &mut Bytes,
) -> End {
    let mut outgoing = Vec::new();
    if let Some(greeting) = greeting {
        greeting.write(&mut outgoing);
    }
    let mut relay = Relay {
        application,
        lane,
        side,
        bytes,
        outgoing,
        sent: 0,
        flushed: false,
        finished_here: false,
        finished_there: false,
    };
    let end = std::future::poll_fn(|context| relay.poll(context)).await;
    if matches!(end, End::ResetHere) {
        Frame::Reset.write(&mut relay.outgoing);
        let farewell = std::future::poll_fn(|context| relay.poll_send(context));
        // Without it the far side finds the lane broken, and resets too.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
    }
    end
}

struct Relay<'a> {
    application: &'a mut TcpStream,
    lane: &'a mut Lane,
    side: Side,
    bytes: &'a mut Bytes,
    /// Frames on their way to the lane: `outgoing[sent..]`.
    outgoing: Vec<u8>,
    sent: usize,
    flushed: bool,
    finished_here: bool,
    finished_there: bool,
}

impl Relay<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        // A pending direction has left its waker; an ended one ends both.
        if let Poll::Ready(Err(end)) = self.poll_up(context) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(Err(end)) = self.poll_down(context) {
            return Poll::Ready(end);
        }
        match self.finished_here && self.finished_there && self.is_sent() {
            true => Poll::Ready(End::Finished),
            false => Poll::Pending,
        }
    }

    fn is_sent(&self) -> bool {
        self.outgoing.is_empty() && self.flushed
    }

    /// From the application to the lane.
    fn poll_up(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        loop {
            let mut blocked = self.finished_here;
            if !blocked && self.sent == 0 && self.outgoing.len() < CHUNK_BYTES {
                match self.poll_take(context) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(End::ResetHere)),
                    Poll::Pending => blocked = true,
                }
            }
            match self.poll_send(context) {
                Poll::Ready(Ok(())) if blocked => {
                    // An idle connection holds no buffer.
                    self.outgoing = Vec::new();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Broken(Some(error)))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes what the application has sent, as one frame.
    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.application.poll_read_ready(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(ready) => ready?,
        }
        let start = self.outgoing.len();
        self.outgoing.extend_from_slice(&data_header(0));
        self.outgoing.reserve(CHUNK_BYTES);
        let read = self.application.try_read_buf(&mut (&mut self.outgoing).limit(CHUNK_BYTES));
        let length = match read {
            Ok(length) if length > 0 => length,
            nothing => {
                self.outgoing.truncate(start);
                match nothing {
                    // Readiness was stale; asking again leaves the waker.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return self.application.poll_read_ready(context);
                    }
                    other => other?,
                }
            }
        };
        self.flushed = false;
        if length == 0 {
            Frame::Finish.write(&mut self.outgoing);
            self.finished_here = true;
            return Poll::Ready(Ok(()));
        }
        self.outgoing[start..start + HEADER_BYTES].copy_from_slice(&data_header(length));
        self.bytes.sent += length as u64;
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.outgoing.len() {
            match self.lane.poll_write(context, &self.outgoing[self.sent..]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(written)) => self.sent += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        if !self.flushed {
            match self.lane.poll_flush(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result?,
            }
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// From the lane to the application.
    fn poll_down(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        while !self.finished_there {
            if !self.lane.data().is_empty() {
                let data = self.lane.data();
                match Pin::new(&mut *self.application).poll_write(context, data) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(written)) => {
                        self.lane.delivered(written);
                        self.bytes.received += written as u64;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(End::ResetHere)),
                }
                continue;
            }
            let word = match self.lane.poll_word(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(word) => word,
            };
            if let Err(end) = self.hear(context, word) {
                return Poll::Ready(Err(end));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn hear(
        &mut self,
        context: &mut Context<'_>,
        word: Result<Word, LaneError>,
    ) -> Result<(), End> {
        match word {
            Ok(Word::Data) => Ok(()),
            Ok(Word::Control(Frame::Finish)) => {
                self.finished_there = true;
                // An application that is gone already shows itself when it is read.
                let _ = Pin::new(&mut *self.application).poll_shutdown(context);
                Ok(())
            }
            Ok(Word::Control(Frame::Reset)) => Err(End::ResetThere),
            Ok(Word::Control(Frame::Refused { reason, policy })) if self.side == Side::Caller => {
                Err(End::Refused { reason, policy })
            }
            Ok(Word::Control(_)) => Err(End::Violation(Violation::OutOfOrder)),
            Ok(Word::End) => Err(End::Broken(None)),
            Err(LaneError::Transport(error)) => Err(End::Broken(Some(error))),
            Err(LaneError::Violation(error)) => Err(End::Violation(Violation::Framing(error))),
        }
    }
}

/// Lets the application see a reset instead of an orderly end, when its socket is dropped.
pub fn reset(application: &TcpStream) {
    let zero = Some(std::time::Duration::ZERO);
    if let Err(error) = socket2::SockRef::from(application).set_linger(zero) {
        tracing::debug!(%error, "a connection could not be reset");
    }
}
