//! TLS of bundle endpoints, where trust domains publish their roots (SPIFFE Federation, section 5).
//!
//! The called side proves itself, the caller does not: whoever likes may read public keys.
//! There are two profiles: `https_web`, where the name in the URL is proven by the web's
//! authorities, and `https_spiffe`, where a SPIFFE ID is proven by a bundle that the caller holds.
//! A collector of traces is called like the former, for gRPC ([`call_http2`]).

use std::{sync::Arc, time::SystemTime};

use martlet_model::SpiffeId;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{
    Credentials, HandshakeError, IdentityError, TrustBundle,
    expected::{Expected, Roots},
    handshake::{usable, within_time},
    parameters::{self, provider},
    verify::Verifier,
};

/// The authorities that prove names of the web.
#[derive(Debug, Clone)]
pub struct WebRoots(Arc<RootCertStore>);

/// A key and a chain that prove a name of the web.
#[derive(Debug, Clone)]
pub struct WebCertificate(Arc<CertifiedKey>);

/// How the called side has to prove itself.
#[derive(Debug)]
pub enum Proof {
    /// Its host's name.
    Web(WebRoots),
    Spiffe(SpiffeId, Arc<TrustBundle>),
}

impl WebRoots {
    /// Of PEM. What is no certificate of an authority is passed over, as collections of systems
    /// have odd ones; there must be one that is.
    pub fn from_pem(text: &[u8]) -> Result<Self, IdentityError> {
        let mut store = RootCertStore::empty();
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let certificates = certificates.map_err(|error| IdentityError::Web(error.to_string()))?;
        match store.add_parsable_certificates(certificates) {
            (0, _) => Err(IdentityError::Web("no certificate of an authority".to_owned())),
            _ => Ok(Self(Arc::new(store))),
        }
    }
}

impl WebCertificate {
    /// Of PEM: the chain, leaf first, and its key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let web = |error: &dyn std::fmt::Display| IdentityError::Web(error.to_string());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|error| web(&error))?;
        if chain.is_empty() {
            return Err(IdentityError::EmptyChain);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| web(&error))?;
        let key = any_supported_type(&key).map_err(|error| web(&error))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| IdentityError::WrongKey)?;
        Ok(Self(Arc::new(certified)))
    }
}

/// Calls an endpoint at `host`, a name or an address, without proving anything.
pub async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    host: &str,
    proof: Proof,
) -> Result<client::TlsStream<S>, HandshakeError> {
    let verifier: Arc<dyn ServerCertVerifier> = match proof {
        Proof::Web(roots) => web(roots)?,
        Proof::Spiffe(identity, trust) => {
            Arc::new(Verifier::new(Roots::Bundle(trust), Expected::Exactly(identity)))
        }
    };
    connect(transport, host, parameters::WEB_PROTOCOL, verifier).await
}

/// Calls a server of gRPC at `host`, a name or an address that is proven by these authorities, without
/// proving anything.
pub async fn call_http2<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    host: &str,
    roots: WebRoots,
) -> Result<client::TlsStream<S>, HandshakeError> {
    connect(transport, host, parameters::CONTROL_PROTOCOL, web(roots)?).await
}

fn web(WebRoots(roots): WebRoots) -> Result<Arc<dyn ServerCertVerifier>, HandshakeError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
    let other = |error| rustls::Error::General(format!("{error}"));
    Ok(verifier.map_err(|error| HandshakeError::Configuration(other(error)))?)
}

async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    host: &str,
    protocol: &[u8],
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<client::TlsStream<S>, HandshakeError> {
    let configuration = HandshakeError::Configuration;
    let config = parameters::web_client(protocol, verifier, SystemTime::now());
    let config = config.map_err(configuration)?;
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| configuration(rustls::Error::General(error.to_string())))?;
    within_time(TlsConnector::from(Arc::new(config)).connect(name, transport)).await
}

/// Answers whoever calls, with the profile `https_spiffe`.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    own: &Credentials,
) -> Result<server::TlsStream<S>, HandshakeError> {
    let now = SystemTime::now();
    accept(transport, usable(own, now)?.certified.clone(), now).await
}

/// Answers whoever calls, with the profile `https_web`.
pub async fn answer_web<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    own: &WebCertificate,
) -> Result<server::TlsStream<S>, HandshakeError> {
    accept(transport, own.0.clone(), SystemTime::now()).await
}

async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    own: Arc<CertifiedKey>,
    now: SystemTime,
) -> Result<server::TlsStream<S>, HandshakeError> {
    let config = parameters::web_server(own, now).map_err(HandshakeError::Configuration)?;
    within_time(TlsAcceptor::from(Arc::new(config)).accept(transport)).await
}
