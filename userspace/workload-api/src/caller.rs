//! A connection, with what the kernel said about who opened it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::OwnedSemaphorePermit,
};
use tonic::transport::server::Connected;

/// Asks the kernel whether whoever opened this connection belongs to the workload. An error is a no.
pub type Admission = Arc<dyn Fn(&UnixStream) -> io::Result<bool> + Send + Sync>;

/// Whether the kernel has admitted the caller.
#[derive(Debug, Clone, Copy)]
pub struct Admitted(pub bool);

/// Holds its place among the connections of the workload.
pub struct Connection {
    stream: UnixStream,
    admitted: Admitted,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    pub fn new(stream: UnixStream, admitted: Admitted, place: OwnedSemaphorePermit) -> Self {
        Self { stream, admitted, _place: place }
    }
}

impl Connected for Connection {
    type ConnectInfo = Admitted;

    fn connect_info(&self) -> Admitted {
        self.admitted
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
