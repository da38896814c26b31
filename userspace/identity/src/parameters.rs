//! The one place for TLS parameters: TLS 1.3 only, one cryptographic provider, no resumption.

use std::{
    sync::{Arc, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use rustls::{
    ClientConfig, ServerConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::UnixTime,
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
    version::TLS13,
};

/// The ALPN name (RFC 7301) of the lane protocol and its version.
pub const LANE_PROTOCOL: &[u8] = b"martlet-lane/1";

/// The ALPN name of HTTP/2 over TLS (RFC 9113, section 3.1), over which gRPC runs.
pub const CONTROL_PROTOCOL: &[u8] = b"h2";

/// The ALPN name of HTTP/1.1 (RFC 7301, section 6).
pub const WEB_PROTOCOL: &[u8] = b"http/1.1";

/// AES-128 first: every processor that runs Kubernetes has instructions for it, and it is the
/// faster of the two. X25519MLKEM768 first: what is recorded today stays secret later.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    };
    PROVIDER.get_or_init(make).clone()
}

/// For one handshake: the connection keeps what it is given as long as it lives, so afterwards the
/// key must no longer be in there. Who has no certificate yet calls without one.
pub fn client(
    protocol: &[u8],
    own: Option<Arc<CertifiedKey>>,
    verifier: Arc<dyn ServerCertVerifier>,
    now: SystemTime,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(At(now)))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(Once(ArcSwapOption::new(own))));
    config.alpn_protocols = vec![protocol.to_vec()];
    // The peer is known by its SPIFFE ID; a DNS name would say nothing.
    config.enable_sni = false;
    // A resumed session would skip the verifier.
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

pub fn server(
    protocol: &[u8],
    own: Arc<CertifiedKey>,
    verifier: Arc<dyn ClientCertVerifier>,
    now: SystemTime,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(At(now)))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    config.alpn_protocols = vec![protocol.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// Calls a server of the web, or one that is like it but for its certificate.
pub fn web_client(
    protocol: &[u8],
    verifier: Arc<dyn ServerCertVerifier>,
    now: SystemTime,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(At(now)))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Answers whoever calls: what it serves is public.
pub fn web_server(own: Arc<CertifiedKey>, now: SystemTime) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(At(now)))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    config.alpn_protocols = vec![WEB_PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A handshake takes seconds at most, and is judged as of one instant.
#[derive(Debug)]
struct At(SystemTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// Gives the key away the first time it is asked for; a handshake of TLS 1.3 asks once.
#[derive(Debug)]
struct Once(ArcSwapOption<CertifiedKey>);

impl ResolvesClientCert for Once {
    fn resolve(
        &self,
        _subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.swap(None)
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}
