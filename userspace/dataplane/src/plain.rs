//! Relays without a lane: inside a pod, or to an endpoint outside the mesh.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use martlet_model::Closed;
use martlet_policy::Permit;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    limits::CHUNKS_PER_TURN,
    live::Live,
    scratch::{self, Waiting},
    share::Account,
    socket::Socket,
};

/// Relays until both directions are finished, or one end is reset.
pub async fn plain(
    _permit: &Permit,
    application: &mut Socket,
    endpoint: &mut Socket,
    live: &Live,
    account: &Account,
) -> Closed {
    let mut application_failed = pin!(application.clone().failed());
    let mut endpoint_failed = pin!(endpoint.clone().failed());
    let mut stopped = pin!(live.stopped());
    let (mut there, mut back) = (Pump::default(), Pump::default());
    std::future::poll_fn(|context| {
        if let Poll::Ready(reason) = stopped.as_mut().poll(context) {
            return Poll::Ready(reason);
        }
        let chunk = account.chunk_bytes();
        let sent = there.poll(context, application, endpoint, &live.sent, chunk);
        let received = back.poll(context, endpoint, application, &live.received, chunk);
        let closed = match (&sent, &received) {
            (Poll::Ready(Err(Failed::Source)), _) | (_, Poll::Ready(Err(Failed::Sink))) => {
                Closed::ResetByCaller
            }
            (Poll::Ready(Err(Failed::Sink)), _) | (_, Poll::Ready(Err(Failed::Source))) => {
                Closed::ResetByCallee
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Closed::Finished,
            _ if there.ignores_source() && application_failed.as_mut().poll(context).is_ready() => {
                Closed::ResetByCaller
            }
            _ if back.ignores_source() && endpoint_failed.as_mut().poll(context).is_ready() => {
                Closed::ResetByCallee
            }
            _ => return Poll::Pending,
        };
        Poll::Ready(closed)
    })
    .await
}

/// Which of a direction's two sides failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    Source,
    Sink,
}

/// One direction.
#[derive(Debug, Default)]
struct Pump {
    waiting: Waiting,
    finished: bool,
}

impl Pump {
    fn ignores_source(&self) -> bool {
        self.finished || !self.waiting.is_empty()
    }

    fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        source: &mut R,
        sink: &mut W,
        count: &AtomicU64,
        chunk: usize,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..CHUNKS_PER_TURN {
            while !self.waiting.is_empty() {
                match ready!(Pin::new(&mut *sink).poll_write(context, self.waiting.bytes())) {
                    Ok(wrote) if wrote > 0 => self.waiting.take(wrote),
                    _ => return Poll::Ready(Err(Failed::Sink)),
                }
            }
            if self.finished {
                return Poll::Ready(Ok(()));
            }
            ready!(scratch::with(|buffer| {
                self.poll_chunk(context, source, sink, count, &mut buffer[..chunk])
            }))?;
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_chunk<R, W>(
        &mut self,
        context: &mut Context<'_>,
        source: &mut R,
        sink: &mut W,
        count: &AtomicU64,
        buffer: &mut [u8],
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut read = ReadBuf::new(buffer);
        if ready!(Pin::new(source).poll_read(context, &mut read)).is_err() {
            return Poll::Ready(Err(Failed::Source));
        }
        let mut bytes = read.filled();
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if bytes.is_empty() {
            self.finished = true;
            // On a socket this never waits; that the far end is gone shows when it is read.
            let _: Poll<io::Result<()>> = Pin::new(&mut *sink).poll_shutdown(context);
        }
        while !bytes.is_empty() {
            match Pin::new(&mut *sink).poll_write(context, bytes) {
                Poll::Ready(Ok(wrote)) if wrote > 0 => bytes = &bytes[wrote..],
                Poll::Ready(_) => return Poll::Ready(Err(Failed::Sink)),
                Poll::Pending => {
                    self.waiting.push(bytes);
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
