//! A lane: one mTLS connection between two workloads, which carries one application connection at
//! a time.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::SystemTime,
};

use martlet_identity::Secured;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::{
    frame::{Decoder, Frame, FrameError, Open, Part},
    inward::Side,
    limits::{FAREWELL_BYTES, FAREWELL_TIMEOUT},
    scratch::{self, Waiting},
    socket::Socket,
};

/// A lane whose peer is proven: [`Secured`] comes only from a finished handshake.
pub type MutualLane = Lane<Secured<Socket>>;

pub struct Lane<S> {
    pub stream: S,
    pub decoder: Decoder,
    /// Plaintext that was read and could not be used yet.
    pub unread: Waiting,
    /// The transport's end, seen behind bytes that had to be used first.
    end: Option<io::Result<()>>,
}

/// What can come instead of an `OPEN`.
#[derive(Debug)]
pub enum NotOpened {
    /// The lane ends, as it may.
    Ended(io::Result<()>),
    /// The caller has asked whether a lane can be used that is to be left: nothing is lost if it is.
    Asked,
    Violation(Violation),
}

/// What a caller can say between connections.
enum Said {
    Open(Open),
    Ping,
}

/// How a peer can break the protocol.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    #[error(transparent)]
    Framing(#[from] FrameError),
    #[error("{0} has no place here")]
    OutOfOrder(&'static str),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lane<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, decoder: Decoder::default(), unread: Waiting::default(), end: None }
    }

    /// Reads whatever has come, as much as the buffer takes; 0 is the end.
    pub fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buffer);
        while self.end.is_none() && read.remaining() > 0 {
            let before = read.filled().len();
            match Pin::new(&mut self.stream).poll_read(context, &mut read) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => self.end = Some(Err(error)),
                Poll::Ready(Ok(())) if read.filled().len() == before => self.end = Some(Ok(())),
                Poll::Ready(Ok(())) => {}
            }
        }
        match (read.filled().len(), self.end.take()) {
            (0, None) => Poll::Pending,
            (0, Some(end)) => Poll::Ready(end.map(|()| 0)),
            (count, end) => {
                self.end = end;
                Poll::Ready(Ok(count))
            }
        }
    }

    /// The called side waits here between connections; `leaving` is cancelled when it wants no more
    /// than one.
    pub async fn next_open(&mut self, leaving: &CancellationToken) -> Result<Open, NotOpened> {
        loop {
            match std::future::poll_fn(|context| self.poll_said(context)).await? {
                Said::Open(open) => return Ok(open),
                Said::Ping if leaving.is_cancelled() => return Err(NotOpened::Asked),
                Said::Ping => {
                    self.say(&Frame::Pong).await.map_err(|error| NotOpened::Ended(Err(error)))?;
                }
            }
        }
    }

    async fn say(&mut self, frame: &Frame) -> io::Result<()> {
        self.stream.write_all(&frame.to_bytes()).await?;
        self.stream.flush().await
    }

    fn poll_said(&mut self, context: &mut Context<'_>) -> Poll<Result<Said, NotOpened>> {
        let unread = std::mem::take(&mut self.unread);
        if let Some(said) = self.said_in(unread.bytes()) {
            return Poll::Ready(said);
        }
        scratch::with(|buffer| {
            loop {
                match ready!(self.poll_fill(context, buffer)) {
                    Err(error) => return Poll::Ready(Err(NotOpened::Ended(Err(error)))),
                    Ok(0) => return Poll::Ready(Err(self.ended_before_open())),
                    Ok(count) => {
                        if let Some(said) = self.said_in(&buffer[..count]) {
                            return Poll::Ready(said);
                        }
                    }
                }
            }
        })
    }

    /// What follows an OPEN belongs to the connection, and waits for it.
    fn said_in(&mut self, mut input: &[u8]) -> Option<Result<Said, NotOpened>> {
        let said = match self.decoder.next(&mut input) {
            Ok(None) => return None,
            Ok(Some(Part::Frame(Frame::Open(open)))) => Ok(Said::Open(open)),
            Ok(Some(Part::Frame(Frame::Ping))) => Ok(Said::Ping),
            // The caller's farewell crossed our DONE: its application was late.
            Ok(Some(Part::Frame(Frame::Reset(_)))) => Err(NotOpened::Ended(Ok(()))),
            Ok(Some(part)) => Err(out_of_order(name(&part))),
            Err(error) => Err(NotOpened::Violation(error.into())),
        };
        self.unread.push(input);
        Some(said)
    }

    /// Asks the called side of an idle lane whether it is there, and waits until it has said so, and
    /// nothing else. Anything but `true` means that the lane is of no use.
    pub async fn is_answered(&mut self) -> io::Result<bool> {
        self.say(&Frame::Ping).await?;
        std::future::poll_fn(|context| {
            scratch::with(|buffer| {
                loop {
                    let count = ready!(self.poll_fill(context, buffer))?;
                    let mut input = &buffer[..count];
                    match self.decoder.next(&mut input) {
                        Ok(None) if count > 0 => {}
                        Ok(Some(Part::Frame(Frame::Pong))) => {
                            return Poll::Ready(Ok(input.is_empty()));
                        }
                        _ => return Poll::Ready(Ok(false)),
                    }
                }
            })
        })
        .await
    }

    fn ended_before_open(&self) -> NotOpened {
        match self.decoder.is_between_frames() {
            true => NotOpened::Ended(Ok(())),
            false => out_of_order("an end"),
        }
    }

    /// Says one last thing and ends the lane. `unsent` is the rest of frames that were begun.
    pub async fn farewell(&mut self, side: Side, unsent: Waiting, last: &Frame) -> io::Result<()> {
        match tokio::time::timeout(FAREWELL_TIMEOUT, self.take_leave(side, unsent, last)).await {
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
            Ok(left) => left,
        }
    }

    /// The same, however long the far side takes to close.
    ///
    /// The called side lets the caller close first: who does keeps its port for a minute (TIME-WAIT,
    /// RFC 9293 section 3.6.1), and here that is the application's.
    pub async fn take_leave(
        &mut self,
        side: Side,
        unsent: Waiting,
        last: &Frame,
    ) -> io::Result<()> {
        self.stream.write_all(unsent.bytes()).await?;
        self.stream.write_all(&last.to_bytes()).await?;
        match side {
            Side::Caller => self.stream.shutdown().await?,
            Side::Callee => self.stream.flush().await?,
        }
        self.await_end().await
    }

    /// Throws away what the far side says until it closes.
    pub async fn await_end(&mut self) -> io::Result<()> {
        // Closing with unread bytes would send a RST, which may overtake what was just said.
        let stream = tokio::io::AsyncReadExt::take(&mut self.stream, FAREWELL_BYTES);
        let mut stream = tokio::io::BufReader::with_capacity(16 * 1024, stream);
        tokio::io::copy_buf(&mut stream, &mut tokio::io::sink()).await.map(|_| ())
    }

    /// Whether the far side has said nothing since the last connection; if not, `waker` is woken
    /// when it does.
    pub fn is_silent(&mut self, waker: &Waker) -> bool {
        let mut context = Context::from_waker(waker);
        self.unread.is_empty()
            && self.decoder.is_between_frames()
            && scratch::with(|buffer| self.poll_fill(&mut context, buffer)).is_pending()
    }
}

impl MutualLane {
    /// Whether an idle lane can carry another connection: made with the credentials of today, to a
    /// peer whose certificate is good, and with nothing said on it, not even goodbye; when something
    /// is said, `waker` is woken.
    pub fn is_usable(&mut self, generation: u64, now: SystemTime, waker: &Waker) -> bool {
        self.stream.generation() == generation
            && self.stream.peer().not_after() > now
            && self.stream.get_ref().is_quiet()
            && self.is_silent(waker)
    }
}

fn out_of_order(what: &'static str) -> NotOpened {
    NotOpened::Violation(Violation::OutOfOrder(what))
}

pub fn name(part: &Part<'_>) -> &'static str {
    match part {
        Part::Bytes(_) => "DATA",
        Part::Frame(Frame::Open(_)) => "OPEN",
        Part::Frame(Frame::Finish) => "FINISH",
        Part::Frame(Frame::Done) => "DONE",
        Part::Frame(Frame::Reset(_)) => "RESET",
        Part::Frame(Frame::Refused { .. }) => "REFUSED",
        Part::Frame(Frame::Ping) => "PING",
        Part::Frame(Frame::Pong) => "PONG",
    }
}

#[cfg(test)]
mod tests;
