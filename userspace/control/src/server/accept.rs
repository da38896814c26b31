//! Connections, and who is at their other ends.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use martlet_identity::{Credentials, HandshakeError, Peer, Secured, control};
use martlet_model::Part;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc::Sender},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{
    NodeCaller,
    crowd::{Crowd, Place},
};
use crate::limits;

/// The longest life of a connection, whatever its certificate says.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who calls.
#[derive(Debug, Clone)]
pub enum Caller {
    Node(NodeCaller),
    Nobody,
}

/// How many there may be.
#[derive(Debug, Clone)]
pub struct Bounds {
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    nobodies: Arc<Semaphore>,
    handshakes_of_one: Arc<Crowd>,
    nobodies_of_one: Arc<Crowd>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS)),
            handshakes: Arc::new(Semaphore::new(limits::HANDSHAKES)),
            nobodies: Arc::new(Semaphore::new(limits::NOBODIES)),
            handshakes_of_one: Crowd::new(limits::HANDSHAKES_OF_ONE),
            nobodies_of_one: Crowd::new(limits::NOBODIES_OF_ONE),
        }
    }
}

/// A connection that ends when its certificate does; one of nobody ends soon.
pub struct Connection {
    stream: Secured<TcpStream, Option<Peer>>,
    caller: Caller,
    end: Pin<Box<Sleep>>,
    _places: Places,
}

/// What is given back at its end.
struct Places {
    _connection: OwnedSemaphorePermit,
    _nobody: Option<(OwnedSemaphorePermit, Place)>,
}

/// Until the receiver is gone.
pub async fn accept(
    listener: TcpListener,
    credentials: Arc<Credentials>,
    bounds: Bounds,
    connections: Sender<io::Result<Connection>>,
) {
    let mut failing = false;
    while !connections.is_closed() {
        let Ok(place) = bounds.connections.clone().acquire_owned().await else { return };
        let Ok(handshake) = bounds.handshakes.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok((stream, address)) => (stream, address.ip()),
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "connection of an agent not accepted");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        let Some(of_one) = bounds.handshakes_of_one.enter(address) else {
            debug!(%address, "too many handshakes of one address");
            continue;
        };
        let (credentials, connections) = (credentials.clone(), connections.clone());
        let bounds = bounds.clone();
        tokio::spawn(async move {
            let met = meet(stream, address, &credentials, &bounds, place).await;
            drop((handshake, of_one));
            match met {
                Ok(connection) => drop(connections.send(Ok(connection)).await),
                Err(error) => debug!(%error, "connection of an agent refused"),
            }
        });
    }
}

async fn meet(
    stream: TcpStream,
    address: IpAddr,
    credentials: &Credentials,
    bounds: &Bounds,
    connection: OwnedSemaphorePermit,
) -> Result<Connection, HandshakeError> {
    let _ = stream.set_nodelay(true);
    let stream = control::answer(stream, credentials).await?;
    let caller = stream.peer().as_ref().and_then(node).map_or(Caller::Nobody, Caller::Node);
    let nobody = match caller {
        Caller::Node(_) => None,
        Caller::Nobody => {
            let busy = || HandshakeError::Io(io::Error::other("too many want to join"));
            let of_one = bounds.nobodies_of_one.enter(address).ok_or_else(busy)?;
            let nobody = bounds.nobodies.clone().try_acquire_owned().map_err(|_| busy())?;
            Some((nobody, of_one))
        }
    };
    let (places, lifetime) =
        (Places { _connection: connection, _nobody: nobody }, lifetime(&caller));
    Ok(Connection { stream, caller, end: Box::pin(sleep(lifetime)), _places: places })
}

fn node(peer: &Peer) -> Option<NodeCaller> {
    let Some(Part::Node(node)) = Part::of(peer.identity()) else { return None };
    let certificate_expires = peer.not_after();
    Some(NodeCaller { node, key: peer.key().clone(), certificate_expires })
}

fn lifetime(caller: &Caller) -> Duration {
    match caller {
        Caller::Nobody => limits::NOBODY_LIFETIME,
        Caller::Node(node) => {
            let left = node.certificate_expires.duration_since(SystemTime::now());
            left.unwrap_or_default().min(LONGEST)
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
