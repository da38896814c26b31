//! Dialing from inside a workload's network, and what a failure to dial means.

use std::{future::Future, io, net::SocketAddr, pin::Pin};

use martlet_model::Closed;
use tokio::{net::TcpStream, time::timeout};

use crate::limits::{APPLICATION_TIMEOUT, DIAL_TIMEOUT};

/// A connection in the making.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

/// Implemented by a pod's network namespace, and by the network that a process is in.
pub trait Dial: Send + Sync + 'static {
    /// `shown_as` is whom the application that accepts shall see as its peer.
    fn dial(&self, to: SocketAddr, shown_as: Option<SocketAddr>) -> Dialing<'_>;
}

/// Dials in the network that this process is in. Nobody is shown as somebody else.
#[derive(Debug, Clone, Copy)]
pub struct HostNetwork;

impl Dial for HostNetwork {
    fn dial(&self, to: SocketAddr, _shown_as: Option<SocketAddr>) -> Dialing<'_> {
        Box::pin(TcpStream::connect(to))
    }
}

/// Dials another pod, or an endpoint outside the mesh.
pub async fn endpoint(dial: &dyn Dial, to: SocketAddr) -> Result<TcpStream, Closed> {
    match timeout(DIAL_TIMEOUT, dial.dial(to, None)).await {
        Err(_) => Err(Closed::DialTimedOut),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(match error.kind() {
            io::ErrorKind::ConnectionRefused => Closed::DialRefused,
            io::ErrorKind::TimedOut => Closed::DialTimedOut,
            _ if is_exhausted(&error) => Closed::LimitReached,
            _ => Closed::DialUnreachable,
        }),
    }
}

/// Dials the application in the same pod, which sees `caller` as its peer.
pub async fn application(
    dial: &dyn Dial,
    to: SocketAddr,
    caller: SocketAddr,
) -> Result<TcpStream, Closed> {
    match timeout(APPLICATION_TIMEOUT, dial.dial(to, Some(caller))).await {
        Err(_) => Err(Closed::ApplicationTimedOut),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if is_exhausted(&error) => Err(Closed::LimitReached),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Err(Closed::ApplicationTimedOut)
        }
        // It has accepted, and has been faster than we were to look.
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
            Err(Closed::ResetByCallee)
        }
        Ok(Err(_)) => Err(Closed::ApplicationRefused),
    }
}

/// No file descriptor or no source port is left: ours to mend, not the far side's.
fn is_exhausted(error: &io::Error) -> bool {
    // EMFILE and ENFILE have no stable kind.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    // EPERM: the kernel programs count what is in flight.
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied)
        || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(io::ErrorKind);

    impl Dial for Fails {
        fn dial(&self, _: SocketAddr, _: Option<SocketAddr>) -> Dialing<'_> {
            let error = io::Error::from(self.0);
            Box::pin(async { Err(error) })
        }
    }

    struct Never;

    impl Dial for Never {
        fn dial(&self, _: SocketAddr, _: Option<SocketAddr>) -> Dialing<'_> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_to_dial_has_its_reason() {
        let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
        for (kind, far, own) in [
            (io::ErrorKind::ConnectionRefused, Closed::DialRefused, Closed::ApplicationRefused),
            (io::ErrorKind::TimedOut, Closed::DialTimedOut, Closed::ApplicationTimedOut),
            (io::ErrorKind::HostUnreachable, Closed::DialUnreachable, Closed::ApplicationRefused),
            (io::ErrorKind::ConnectionReset, Closed::DialUnreachable, Closed::ResetByCallee),
            (io::ErrorKind::AddrNotAvailable, Closed::LimitReached, Closed::LimitReached),
            (io::ErrorKind::PermissionDenied, Closed::LimitReached, Closed::LimitReached),
        ] {
            assert_eq!(endpoint(&Fails(kind), to).await.unwrap_err(), far);
            assert_eq!(application(&Fails(kind), to, to).await.unwrap_err(), own);
        }
        assert_eq!(endpoint(&Never, to).await.unwrap_err(), Closed::DialTimedOut);
        assert_eq!(application(&Never, to, to).await.unwrap_err(), Closed::ApplicationTimedOut);
    }
}
