//! A peer made of plain rustls that presents whatever it is given, believes everybody, and signs
//! with any key; and credentials of our own side that are valid at any time.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use martlet_identity::{Chain, Credentials, SigningKey, Svid, TrustBundle};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureAlgorithm, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    sign::{self, CertifiedKey, Signer, SingleCertAndKey},
};
use tokio::io::DuplexStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

const PROTOCOL: &[u8] = b"martlet-lane/1";

pub async fn connect(
    transport: DuplexStream,
    presented: CertifiedKey,
) -> io::Result<client::TlsStream<DuplexStream>> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(presented)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    let name = ServerName::try_from("nobody.example").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, transport).await
}

pub async fn accept(
    transport: DuplexStream,
    presented: CertifiedKey,
) -> io::Result<server::TlsStream<DuplexStream>> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(presented)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    TlsAcceptor::from(Arc::new(config)).accept(transport).await
}

/// Signs with the key, or with nonsense where the library refuses to: the certificate is judged
/// before the signature.
pub fn signer(key: &PrivateKeyDer<'_>) -> Arc<dyn sign::SigningKey> {
    aws_lc_rs::sign::any_supported_type(key).unwrap_or_else(|_| Arc::new(Nonsense))
}

#[derive(Debug)]
struct Nonsense;

impl sign::SigningKey for Nonsense {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(Nonsense))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Nonsense {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(vec![0; 64])
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Ours: what is to be judged is the peer, who believes this one.
pub fn credentials(trust: Arc<TrustBundle>, now: SystemTime) -> Credentials {
    let identity = "spiffe://prod.example/ns/shop/sa/own".parse().unwrap();
    let key = SigningKey::generate().unwrap();
    let csr = key.csr().unwrap().0;
    let mut request = CertificateSigningRequestParams::from_der(&csr.as_slice().into()).unwrap();
    let name = "spiffe://prod.example/ns/shop/sa/own".try_into().unwrap();
    request.params.subject_alt_names = vec![SanType::URI(name)];
    request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    request.params.not_before = (now - Duration::from_secs(60)).into();
    request.params.not_after = (now + Duration::from_secs(3600)).into();
    let issuer = KeyPair::generate().unwrap();
    let made = request.signed_by(&Issuer::new(CertificateParams::default(), issuer)).unwrap();
    let credentials = Credentials::new(identity, trust);
    let chain = Chain(vec![made.der().to_vec()]);
    credentials.install(Svid::new(&key, chain, credentials.identity()).unwrap());
    credentials
}
