//! From an application into a lane.
//!
//! What the application has sent is read behind room for its header, and goes to the lane in one
//! write: many TLS records at once. Nothing more is read until all of that has left this process,
//! so what one connection can hold is bounded by one chunk and the lane's own buffer.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    frame::{Frame, HEADER_BYTES, Open, data_header},
    limits::{CHUNK_BYTES, CHUNKS_PER_TURN},
    scratch::{self, SCRATCH_BYTES, Waiting},
};

/// Whose fault it is that bytes stopped moving.
#[derive(Debug)]
pub enum Fault {
    Application,
    Lane(io::Error),
}

#[derive(Debug, Default)]
pub struct Outward {
    /// Goes before everything else, with the first bytes of the application if there are any yet.
    opening: Option<Open>,
    pub waiting: Waiting,
    unflushed: bool,
    /// The application has sent everything, and the frame that says so is written or waiting.
    pub finished: bool,
}

impl Outward {
    pub fn new(opening: Option<Open>) -> Self {
        Self { opening, ..Self::default() }
    }

    /// Whether the application is not being read, so that its failure must be watched for.
    pub fn ignores_application(&self) -> bool {
        self.finished || self.unflushed || !self.waiting.is_empty()
    }

    pub fn push(&mut self, frames: &[Frame]) {
        self.waiting.push(&bytes_of(frames));
    }

    /// Ready when the application has finished and everything has left. `last` says it has.
    pub fn poll<A, L>(
        &mut self,
        context: &mut Context<'_>,
        application: &mut A,
        lane: &mut L,
        last: &[Frame],
        count: &AtomicU64,
        chunk: usize,
    ) -> Poll<Result<(), Fault>>
    where
        A: AsyncRead + Unpin,
        L: AsyncWrite + Unpin,
    {
        for _ in 0..CHUNKS_PER_TURN {
            ready!(self.poll_send(context, lane)).map_err(Fault::Lane)?;
            if self.finished {
                return Poll::Ready(Ok(()));
            }
            let moved = scratch::with(|buffer| {
                let buffer = &mut buffer[..SCRATCH_BYTES - CHUNK_BYTES + chunk];
                self.poll_chunk(context, application, lane, last, count, buffer)
            });
            ready!(moved)?;
        }
        // Others have their turn.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// What waits, and what the lane itself still holds.
    fn poll_send<L: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        lane: &mut L,
    ) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            self.unflushed = true;
            let wrote = ready!(Pin::new(&mut *lane).poll_write(context, self.waiting.bytes()))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.take(wrote);
        }
        if self.unflushed {
            ready!(Pin::new(lane).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_chunk<A, L>(
        &mut self,
        context: &mut Context<'_>,
        application: &mut A,
        lane: &mut L,
        last: &[Frame],
        count: &AtomicU64,
        buffer: &mut [u8],
    ) -> Poll<Result<(), Fault>>
    where
        A: AsyncRead + Unpin,
        L: AsyncWrite + Unpin,
    {
        let opening = self.opening.take();
        let mut length = 0;
        if let Some(open) = &opening {
            let bytes = open.bytes();
            buffer[..bytes.len()].copy_from_slice(&bytes);
            length = bytes.len();
        }
        // A whole buffer has room for a whole chunk.
        let chunk = buffer.len() - (SCRATCH_BYTES - CHUNK_BYTES);
        let room = length + HEADER_BYTES..length + HEADER_BYTES + chunk;
        let mut read = ReadBuf::new(&mut buffer[room]);
        match Pin::new(application).poll_read(context, &mut read) {
            Poll::Pending if opening.is_none() => return Poll::Pending,
            // A server may speak first: it must hear of the connection now.
            Poll::Pending => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Application)),
            Poll::Ready(Ok(())) if read.filled().is_empty() => {
                self.finished = true;
                let last = bytes_of(last);
                buffer[length..length + last.len()].copy_from_slice(&last);
                length += last.len();
            }
            Poll::Ready(Ok(())) => {
                let bytes = read.filled().len();
                buffer[length..length + HEADER_BYTES].copy_from_slice(&data_header(bytes));
                length += HEADER_BYTES + bytes;
                count.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        }
        Poll::Ready(self.write(context, lane, &buffer[..length]).map_err(Fault::Lane))
    }

    /// Writes what the lane takes now; the rest waits.
    fn write<L: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        lane: &mut L,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        self.unflushed = true;
        while !bytes.is_empty() {
            match Pin::new(&mut *lane).poll_write(context, bytes) {
                Poll::Pending => {
                    self.waiting.push(bytes);
                    break;
                }
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => bytes = &bytes[count..],
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::to_bytes).collect()
}
