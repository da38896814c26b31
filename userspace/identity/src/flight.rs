//! A transport that sends what is written during a handshake when an answer to it is waited for, and
//! not before: the last flight, which nothing answers, waits for what is to go with it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug)]
pub struct Flight<S> {
    transport: S,
    /// What is held; empty and without memory as soon as the handshake has ended.
    held: Vec<u8>,
    holds: bool,
}

impl<S> Flight<S> {
    /// `holds` is for the side that ends the handshake.
    pub fn new(transport: S, holds: bool) -> Self {
        Self { transport, held: Vec::new(), holds }
    }

    /// The next flush sends everything.
    pub fn let_go(&mut self) {
        self.holds = false;
    }

    pub fn transport(&self) -> &S {
        &self.transport
    }

    pub fn transport_mut(&mut self) -> &mut S {
        &mut self.transport
    }
}

impl<S: AsyncWrite + Unpin> Flight<S> {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.transport).poll_write(context, &self.held))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..sent);
        }
        self.held = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Whether what is written now goes the same way as what was held before.
    fn is_holding(&self) -> bool {
        self.holds || !self.held.is_empty()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Flight<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.transport).poll_read(context, buffer);
        if read.is_pending() && !self.held.is_empty() {
            // Whether it is sent or not, it is the read that is waited for.
            if let Poll::Ready(Err(error)) = self.poll_send(context) {
                return Poll::Ready(Err(error));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flight<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_holding() {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.transport).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_holding() {
            slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.transport).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.holds {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.transport).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.transport).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_written_leaves_when_an_answer_is_waited_for_or_it_is_let_go() {
        let (here, mut there) = tokio::io::duplex(1024);
        let mut here = Flight::new(here, true);
        let mut word = [0; 5];
        here.write_all(b"hel").await.unwrap();
        here.write_all(b"lo").await.unwrap();
        here.flush().await.unwrap();
        let waiting = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut there).poll_read(context, &mut ReadBuf::new(&mut [0; 5])))
        });
        assert!(waiting.await.is_pending(), "nobody has waited for an answer");
        let mut answer = [0; 2];
        tokio::join!(async { here.read_exact(&mut answer).await.unwrap() }, async {
            there.read_exact(&mut word).await.unwrap();
            there.write_all(b"ok").await.unwrap();
        });
        assert_eq!((&word, &answer), (b"hello", b"ok"));
        here.write_all(b"la").await.unwrap();
        here.let_go();
        here.write_all(b"st!").await.unwrap();
        here.flush().await.unwrap();
        there.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"last!");
        assert!(here.held.capacity() == 0);
    }

    #[tokio::test]
    async fn who_holds_nothing_is_not_there() {
        let (here, mut there) = tokio::io::duplex(1024);
        let mut here = Flight::new(here, false);
        here.write_all(b"hello").await.unwrap();
        let mut word = [0; 5];
        there.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"hello");
    }
}
