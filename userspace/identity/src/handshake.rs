//! The two handshakes of a lane: `originate` as the caller, `terminate` as the called workload. Those
//! of the control plane, in `control`, are made of the same pieces.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use martlet_model::{Bearer, SpiffeId, TlsFacts};
use rustls::{CertificateError, CommonState, Error, ProtocolVersion, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::{
    Credentials, HandshakeError, KeyDigest, LANE_PROTOCOL, PeerProblem, RootKey, Svid,
    expected::{Expected, Roots},
    flight::Flight,
    limits::{HANDSHAKE_TIMEOUT, SEND_BUFFER_BYTES},
    parameters,
    verified::VerifiedChain,
    verify::Verifier,
};

/// Who is at the other end, proven.
#[derive(Debug, Clone)]
pub struct Peer(Arc<VerifiedChain>);

/// A stream over TLS whose peer is known: as `P`, which is an `Option` where a peer may be nobody.
#[derive(Debug)]
pub struct Secured<S, P = Peer> {
    stream: TlsStream<Flight<S>>,
    peer: P,
    facts: TlsFacts,
    generation: u64,
}

impl Peer {
    pub fn identity(&self) -> &SpiffeId {
        &self.0.leaf.bearer.identity
    }

    /// Its identity, and which pod on which node its authority says it is.
    pub fn bearer(&self) -> &Arc<Bearer> {
        &self.0.leaf.bearer
    }

    /// The certificate's subject: pod and node, for people.
    pub fn subject(&self) -> &str {
        &self.0.leaf.subject
    }

    /// Of the key that it holds.
    pub fn key(&self) -> &KeyDigest {
        &self.0.leaf.key
    }

    pub fn not_after(&self) -> SystemTime {
        self.0.leaf.not_after
    }

    /// What its chain led to.
    pub fn root(&self) -> &RootKey {
        &self.0.root
    }
}

/// Calls a peer that must be `expected`.
///
/// The called side judges our certificate after this has returned (RFC 8446, section 4.4.2): if it
/// refuses us, the first read fails, and [`refused_by_peer`] knows why.
pub async fn originate<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    credentials: &Credentials,
    expected: &SpiffeId,
) -> Result<Secured<S>, HandshakeError> {
    originate_at(transport, credentials, expected, SystemTime::now()).await
}

/// [`originate`], judging certificates as of `now`.
pub async fn originate_at<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    credentials: &Credentials,
    expected: &SpiffeId,
    now: SystemTime,
) -> Result<Secured<S>, HandshakeError> {
    originate_saying(transport, credentials, expected, &[], now).await
}

/// [`originate_at`], saying `first` in the flight that ends the handshake: who is called need not wait
/// for another one. Nothing of that flight is sent before the peer is proven and has taken the protocol.
pub async fn originate_saying<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    credentials: &Credentials,
    expected: &SpiffeId,
    first: &[u8],
    now: SystemTime,
) -> Result<Secured<S>, HandshakeError> {
    let generation = credentials.generation();
    let own = usable(credentials, now)?;
    let roots = Roots::Bundle(credentials.trust());
    let verifier = Verifier::new(roots, Expected::Workload(expected.clone()));
    connect(transport, LANE_PROTOCOL, Some(own), verifier, generation, first, now).await
}

/// Answers a caller; any identity of a trusted domain is let through to authorization.
pub async fn terminate<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    credentials: &Credentials,
) -> Result<Secured<S>, HandshakeError> {
    terminate_at(transport, credentials, SystemTime::now()).await
}

/// [`terminate`], judging certificates as of `now`.
pub async fn terminate_at<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Secured<S>, HandshakeError> {
    let generation = credentials.generation();
    let own = usable(credentials, now)?;
    let verifier = Verifier::new(Roots::Bundle(credentials.trust()), Expected::AnyWorkload);
    let secured = accept(transport, LANE_PROTOCOL, &own, verifier, generation, now).await?;
    secured.proven()
}

pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    protocol: &[u8],
    own: Option<Arc<Svid>>,
    verifier: Verifier,
    generation: u64,
    first: &[u8],
    now: SystemTime,
) -> Result<Secured<S>, HandshakeError> {
    let verifier = Arc::new(verifier);
    let own = own.map(|own| own.certified.clone());
    let config = parameters::client(protocol, own, verifier.clone(), now)
        .map_err(HandshakeError::Configuration)?;
    // Not sent, and not looked at: the verifier compares SPIFFE IDs.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let connector = TlsConnector::from(Arc::new(config));
    let connecting = async {
        let connected = connector.connect(name, Flight::new(transport, true)).into_fallible();
        let stream = match connected.await {
            Ok(stream) => stream,
            Err((error, mut flight)) => {
                // The peer hears why, if it can.
                flight.let_go();
                let _ = flight.flush().await;
                return Err(error);
            }
        };
        let secured = Secured::new(TlsStream::Client(stream), protocol, generation, &verifier);
        let mut secured = match secured.and_then(Secured::proven) {
            Ok(secured) => secured,
            Err(error) => return Ok(Err(error)),
        };
        secured.write_all(first).await?;
        secured.stream.get_mut().0.let_go();
        secured.flush().await?;
        Ok(Ok(secured))
    };
    within_time(connecting).await?
}

/// Whoever has no certificate is nobody, if the verifier lets nobody through.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    protocol: &[u8],
    own: &Svid,
    verifier: Verifier,
    generation: u64,
    now: SystemTime,
) -> Result<Secured<S, Option<Peer>>, HandshakeError> {
    let verifier = Arc::new(verifier);
    let config = parameters::server(protocol, own.certified.clone(), verifier.clone(), now)
        .map_err(HandshakeError::Configuration)?;
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(Flight::new(transport, false));
    let stream = within_time(accepting).await?;
    Secured::new(TlsStream::Server(stream), protocol, generation, &verifier)
}

/// Whether an error of a read or write is the peer's refusal of our certificate.
pub fn refused_by_peer(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::AlertReceived(_)))
}

pub(crate) fn usable(
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Arc<Svid>, HandshakeError> {
    let own = credentials.current().ok_or(HandshakeError::OwnMissing)?;
    if own.not_after() <= now {
        return Err(HandshakeError::OwnExpired);
    }
    match credentials.quarantine() {
        Some(quarantine) => Err(HandshakeError::OwnQuarantined(quarantine)),
        None => Ok(own),
    }
}

pub(crate) async fn within_time<T>(
    handshake: impl Future<Output = io::Result<T>>,
) -> Result<T, HandshakeError> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Err(_) => Err(HandshakeError::TimedOut),
        Ok(Err(error)) => Err(classify(error)),
        Ok(Ok(stream)) => Ok(stream),
    }
}

fn classify(error: io::Error) -> HandshakeError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned();
    match inner {
        None => HandshakeError::Io(error),
        Some(Error::InvalidCertificate(CertificateError::Other(other))) => {
            match other.0.downcast_ref::<PeerProblem>() {
                Some(problem) => HandshakeError::Peer(problem.clone()),
                None => HandshakeError::Peer(PeerProblem::Chain(other.to_string())),
            }
        }
        Some(Error::InvalidCertificate(problem)) => {
            HandshakeError::Peer(PeerProblem::Chain(problem.to_string()))
        }
        Some(Error::NoCertificatesPresented) => HandshakeError::NoCertificate,
        Some(Error::NoApplicationProtocol) => HandshakeError::NoProtocol,
        Some(alert @ Error::AlertReceived(_)) => HandshakeError::RefusedByPeer(alert),
        Some(other) => HandshakeError::Tls(other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Secured<S, Option<Peer>> {
    fn new(
        mut stream: TlsStream<Flight<S>>,
        protocol: &[u8],
        generation: u64,
        verifier: &Verifier,
    ) -> Result<Self, HandshakeError> {
        let limit = Some(SEND_BUFFER_BYTES);
        let state: &CommonState = match &mut stream {
            TlsStream::Client(client) => {
                client.get_mut().1.set_buffer_limit(limit);
                client.get_ref().1
            }
            TlsStream::Server(server) => {
                server.get_mut().1.set_buffer_limit(limit);
                server.get_ref().1
            }
        };
        if state.alpn_protocol() != Some(protocol) {
            return Err(HandshakeError::NoProtocol);
        }
        let facts = facts(state);
        let peer = match state.peer_certificates() {
            None => None,
            Some(_) => Some(Peer(verifier.verified().ok_or(HandshakeError::NoCertificate)?)),
        };
        Ok(Self { stream, peer, facts, generation })
    }

    fn proven(self) -> Result<Secured<S>, HandshakeError> {
        let Self { stream, peer, facts, generation } = self;
        let peer = peer.ok_or(HandshakeError::NoCertificate)?;
        Ok(Secured { stream, peer, facts, generation })
    }
}

impl<S, P> Secured<S, P> {
    pub fn peer(&self) -> &P {
        &self.peer
    }

    pub fn facts(&self) -> &TlsFacts {
        &self.facts
    }

    /// The [`Credentials::generation`] that it was made with.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The transport below.
    pub fn get_ref(&self) -> &S {
        self.stream.get_ref().0.transport()
    }

    /// The transport below, to be replaced by itself.
    pub fn get_mut(&mut self) -> &mut S {
        self.stream.get_mut().0.transport_mut()
    }
}

/// The names of what we offer are rustls's own, and cost nothing.
fn facts(state: &CommonState) -> TlsFacts {
    let version = match state.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    };
    let cipher = state.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let group = state.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
    let known = |name: Option<&'static str>| name.unwrap_or_default().into();
    TlsFacts { version: version.into(), cipher: known(cipher), key_exchange: known(group) }
}

impl<S: AsyncRead + AsyncWrite + Unpin, P: Unpin> AsyncRead for Secured<S, P> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, P: Unpin> AsyncWrite for Secured<S, P> {
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
