//! A lane: one mTLS connection between two workloads, which carries one application connection at
//! a time.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use bytes::{Buf as _, BytesMut};
use martlet_identity::Secured;
use socket2::{SockRef, TcpKeepalive};
use tokio::{io::AsyncWrite as _, net::TcpStream};
use tokio_util::io::poll_read_buf;

use crate::{
    frame::{Frame, FrameError, HEADER_BYTES, Header},
    limits::LANE_READ_BYTES,
};

pub struct Lane {
    pub stream: Secured<TcpStream>,
    /// Plaintext that has been read and not used yet.
    input: BytesMut,
    /// How many bytes of the current `DATA` are still to come.
    data_left: usize,
}

/// The next thing that the far side says.
#[derive(Debug)]
pub enum Word {
    /// Application bytes are in [`Lane::data`].
    Data,
    Control(Frame),
    /// The transport ended.
    End,
}

/// Why a lane cannot be read any further.
#[derive(Debug)]
pub enum LaneError {
    Transport(io::Error),
    Violation(FrameError),
}

impl Lane {
    pub fn new(stream: Secured<TcpStream>) -> Self {
        Self { stream, input: BytesMut::new(), data_left: 0 }
    }

    /// Application bytes that wait to be delivered.
    pub fn data(&self) -> &[u8] {
        &self.input[..self.input.len().min(self.data_left)]
    }

    pub fn delivered(&mut self, bytes: usize) {
        self.input.advance(bytes);
        self.data_left -= bytes;
    }

    pub fn poll_word(&mut self, context: &mut Context<'_>) -> Poll<Result<Word, LaneError>> {
        loop {
            if let Some(word) = self.word().map_err(LaneError::Violation)? {
                return Poll::Ready(Ok(word));
            }
            let read = ready!(self.poll_fill(context)).map_err(LaneError::Transport)?;
            if read == 0 {
                return Poll::Ready(Ok(Word::End));
            }
        }
    }

    /// What can be said from the bytes at hand.
    fn word(&mut self) -> Result<Option<Word>, FrameError> {
        if self.data_left > 0 {
            return Ok((!self.data().is_empty()).then_some(Word::Data));
        }
        let Some((header, rest)) = self.input.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        match Header::parse(*header)? {
            Header::Data(length) => {
                self.input.advance(HEADER_BYTES);
                self.data_left = length;
                Ok((!self.data().is_empty()).then_some(Word::Data))
            }
            Header::Control { kind, length } => {
                let Some(payload) = rest.get(..length) else { return Ok(None) };
                let frame = Frame::parse(kind, payload)?;
                self.input.advance(HEADER_BYTES + length);
                Ok(Some(Word::Control(frame)))
            }
        }
    }

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(LANE_READ_BYTES);
        let polled = poll_read_buf(Pin::new(&mut self.stream), context, &mut self.input);
        if polled.is_pending() && self.input.is_empty() {
            // An idle lane holds no buffer.
            self.input = BytesMut::new();
        }
        polled
    }

    pub fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Whether an idle lane can carry another connection: its peer's certificate is good, and the
    /// far side has said nothing, not even goodbye.
    pub fn is_usable(&mut self, generation: u64, now: SystemTime) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        self.stream.generation() == generation
            && self.stream.peer().not_after() > now
            && self.poll_word(&mut context).is_pending()
    }
}

/// Notices a peer that is gone. No TCP_USER_TIMEOUT: it also ends connections whose receiver is
/// slow but alive, while its window is zero (tcp(7)).
pub fn prepare(transport: &TcpStream) -> io::Result<()> {
    transport.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    SockRef::from(transport).set_tcp_keepalive(&keepalive)
}
