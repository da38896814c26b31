//! A TCP socket as the data plane needs it: readable and writable through a shared reference, and
//! watched for its end while nobody reads it.
//!
//! Tokio's own halves cannot be read by one party while another waits for the socket to fail. The
//! reads and writes here keep its rule (`PollEvented::poll_read`): a read that does not fill the
//! buffer has emptied the socket, so readiness is cleared without asking the kernel again.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    net::Shutdown,
    os::fd::AsFd as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{SockRef, Socket as RawSocket, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::limits::{KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, KEEPALIVE_TIME};

/// Clones are the same socket.
#[derive(Debug, Clone)]
pub struct Socket(Arc<TcpStream>);

impl Socket {
    /// To an application on this node, dialed: when it dies, the kernel says so.
    ///
    /// The other way around as well: until [`Socket::end_in_order`], the application sees a reset
    /// when the socket is closed, also by the kernel because this process was killed. An orderly
    /// end would make it take a part for the whole.
    pub fn to_application(stream: TcpStream) -> Self {
        let socket = Self(Arc::new(undelayed(stream)));
        socket.reset_on_close();
        socket
    }

    /// From an application on this node. The same holds, by what the socket has inherited from its
    /// listener, so that there is no moment without it; nor does that delay what it sends.
    pub fn from_application(stream: TcpStream) -> Self {
        debug_assert_eq!(SockRef::from(&stream).linger().ok().flatten(), Some(Duration::ZERO));
        debug_assert!(stream.nodelay().unwrap_or(true));
        Self(Arc::new(stream))
    }

    /// Over the network, where a peer can vanish without a word. No TCP_USER_TIMEOUT: it would also
    /// end connections whose receiver is alive but slow, since a zero window counts (tcp(7)).
    pub fn over_network(stream: TcpStream) -> Self {
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
            tracing::debug!(%error, "keepalive could not be set");
        }
        Self(Arc::new(undelayed(stream)))
    }

    /// From now on the threads that call this are woken by it, instead of those that have made it.
    pub fn come_here(&mut self) -> io::Result<()> {
        let same = self.0.as_fd().try_clone_to_owned()?;
        self.0 = Arc::new(TcpStream::from_std(same.into())?);
        Ok(())
    }

    /// Lets the far end see a reset instead of an orderly end when the socket is dropped.
    pub fn reset_on_close(&self) {
        if let Err(error) = SockRef::from(&*self.0).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a connection could not be reset");
        }
    }

    /// Both directions are finished: what was not sent yet is sent also after the socket is dropped.
    pub fn end_in_order(&self) {
        if let Err(error) = SockRef::from(&*self.0).set_linger(None) {
            tracing::debug!(%error, "a connection is reset instead of ended in order");
        }
    }

    /// Completes when the connection has failed: reset, or lost. Orderly ends are not failures.
    pub async fn failed(self) {
        if self.0.ready(Interest::ERROR).await.is_err() {
            // The runtime is shutting down.
            std::future::pending::<()>().await;
        }
    }

    /// Whether the far end has said nothing at all, not even goodbye. Asks the kernel: tokio may
    /// not have heard of it yet.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = SockRef::from(&*self.0).peek(&mut byte);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn poll_io(
        &self,
        context: &mut Context<'_>,
        interest: Interest,
        full: usize,
        mut operation: impl FnMut(&RawSocket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match interest.is_readable() {
                true => ready!(self.0.poll_read_ready(context))?,
                false => ready!(self.0.poll_write_ready(context))?,
            }
            let mut outcome = None;
            let _ = self.0.try_io(interest, || {
                match operation(&SockRef::from(&*self.0)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
                    done => outcome = Some(done),
                }
                match outcome {
                    Some(Ok(count)) if 0 < count && count < full => {
                        Err(io::ErrorKind::WouldBlock.into())
                    }
                    _ => Ok(()),
                }
            });
            if let Some(outcome) = outcome {
                return Poll::Ready(outcome);
            }
        }
    }
}

fn undelayed(stream: TcpStream) -> TcpStream {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    stream
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let space = buffer.initialize_unfilled();
        let full = space.len();
        let read = |mut raw: &RawSocket| raw.read(space);
        let count = ready!(self.poll_io(context, Interest::READABLE, full, read))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = |mut raw: &RawSocket| raw.write(bytes);
        self.poll_io(context, Interest::WRITABLE, bytes.len(), write)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let full = slices.iter().map(|slice| slice.len()).sum();
        let write = |mut raw: &RawSocket| raw.write_vectored(slices);
        self.poll_io(context, Interest::WRITABLE, full, write)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match SockRef::from(&*self.0).shutdown(Shutdown::Write) {
            // Gone already: whoever reads or writes next finds out.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn streams() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // As the kernel crate does with listeners for applications.
        SockRef::from(&listener).set_linger(Some(Duration::ZERO)).unwrap();
        SockRef::from(&listener).set_tcp_nodelay(true).unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (dialed, accepted) = tokio::join!(connecting, listener.accept());
        (dialed.unwrap(), accepted.unwrap().0)
    }

    async fn pair() -> (Socket, Socket) {
        let (here, there) = streams().await;
        (Socket::to_application(here), Socket::over_network(there))
    }

    async fn pair_from_application() -> (Socket, Socket) {
        let (there, here) = streams().await;
        (Socket::from_application(here), Socket::over_network(there))
    }

    #[tokio::test]
    async fn many_small_pieces_arrive_without_a_lost_wakeup() {
        let (mut here, mut there) = pair().await;
        let echo = tokio::spawn(async move {
            let mut byte = [0; 64];
            loop {
                let count = there.read(&mut byte).await.unwrap();
                if count == 0 {
                    return;
                }
                there.write_all(&byte[..count]).await.unwrap();
            }
        });
        for round in 0..2000_u32 {
            here.write_all(&round.to_be_bytes()).await.unwrap();
            let back = timeout(PATIENCE, here.read_u32()).await.unwrap().unwrap();
            assert_eq!(back, round);
        }
        here.shutdown().await.unwrap();
        timeout(PATIENCE, echo).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_application_sees_an_orderly_end_only_if_there_was_one() {
        for (dialed, in_order) in [(true, false), (true, true), (false, false), (false, true)] {
            let pair = if dialed { pair().await } else { pair_from_application().await };
            let (here, mut there) = pair;
            if in_order {
                here.end_in_order();
            }
            // As the kernel does when the process is killed.
            drop(here);
            let read = timeout(PATIENCE, there.read(&mut [0; 1])).await.unwrap();
            match in_order {
                true => assert_eq!(read.unwrap(), 0),
                false => assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset),
            }
        }
    }

    #[tokio::test]
    async fn a_reset_is_noticed_by_who_does_not_read_and_an_orderly_end_is_not() {
        let (here, mut there) = pair().await;
        let mut failed = tokio::spawn(here.clone().failed());
        assert!(here.is_quiet());
        there.write_all(b"unread").await.unwrap();
        there.shutdown().await.unwrap();
        assert!(!here.is_quiet());
        assert!(timeout(Duration::from_millis(50), &mut failed).await.is_err());
        there.reset_on_close();
        drop(there);
        timeout(PATIENCE, failed).await.unwrap().unwrap();
    }
}
