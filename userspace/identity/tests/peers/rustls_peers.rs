//! Peers made of rustls with other parameters, as caller and as called; and our ClientHello, read
//! from the wire.

use std::sync::Arc;

use martlet_identity::{HandshakeError, originate};
use martlet_model::{Closed, TlsFacts};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, aws_lc_rs::kx_group},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    fixture::{Called, GREETING, Mesh, PROTOCOL, id},
    hello::{self, Hello},
};

type Change<T> = fn(&mut T);

fn provider(change: Change<CryptoProvider>) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    change(&mut provider);
    Arc::new(provider)
}

/// Verifies nothing: what is looked at is how our side behaves.
fn credulous() -> Arc<dyn ServerCertVerifier> {
    #[derive(Debug)]
    struct Credulous;
    impl ServerCertVerifier for Credulous {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
    Arc::new(Credulous)
}

fn client(mesh: &Mesh, crypto: Change<CryptoProvider>) -> ClientConfig {
    let (chain, key) = mesh.plain("cart");
    let mut config = ClientConfig::builder_with_provider(provider(crypto))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(credulous())
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![PROTOCOL.as_bytes().to_vec()];
    config
}

struct Seen {
    greeting: Vec<u8>,
    tickets: u32,
}

/// Calls our side and listens to the end.
async fn call(address: std::net::SocketAddr, config: Arc<ClientConfig>) -> Seen {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("web.example").unwrap();
    let Ok(mut stream) = TlsConnector::from(config).connect(name, stream).await else {
        return Seen { greeting: Vec::new(), tickets: 0 };
    };
    let mut greeting = Vec::new();
    let _ = stream.read_to_end(&mut greeting).await;
    let tickets = stream.get_ref().1.tls13_tickets_received();
    Seen { greeting, tickets }
}

async fn calling(crypto: Change<CryptoProvider>, config: Change<ClientConfig>) -> Called {
    let mesh = Mesh::new();
    let (address, called) = mesh.called(1).await;
    let mut changed = client(&mesh, crypto);
    config(&mut changed);
    let seen = call(address, Arc::new(changed)).await;
    let outcome = called.await.unwrap().remove(0);
    assert_eq!(seen.greeting == GREETING.as_bytes(), outcome.is_ok());
    outcome
}

fn group(outcome: Called) -> String {
    outcome.unwrap().0.key_exchange.into_owned()
}

#[tokio::test]
async fn the_post_quantum_exchange_is_chosen_where_the_caller_prefers_it() {
    assert_eq!(group(calling(|_| {}, |_| {}).await), "X25519MLKEM768");
    let only = |provider: &mut CryptoProvider| provider.kx_groups = vec![kx_group::X25519MLKEM768];
    assert_eq!(group(calling(only, |_| {}).await), "X25519MLKEM768");
    // Who prefers another group, and shows a share of that alone, gets it: agents never do.
    let last = |provider: &mut CryptoProvider| {
        provider.kx_groups = vec![kx_group::X25519, kx_group::X25519MLKEM768];
    };
    assert_eq!(group(calling(last, |_| {}).await), "X25519");
    let without = |provider: &mut CryptoProvider| {
        provider.kx_groups = vec![kx_group::SECP384R1, kx_group::SECP256R1, kx_group::X25519];
    };
    let fallen_back = group(calling(without, |_| {}).await);
    assert!(["secp256r1", "X25519"].contains(&fallen_back.as_str()), "{fallen_back}");
    let foreign = |provider: &mut CryptoProvider| provider.kx_groups = vec![kx_group::SECP384R1];
    let refused = calling(foreign, |_| {}).await.unwrap_err();
    assert_eq!(refused.closed(), Closed::HandshakeFailed);
}

#[tokio::test]
async fn every_suite_of_tls_1_3_is_served() {
    for name in
        ["TLS13_AES_128_GCM_SHA256", "TLS13_AES_256_GCM_SHA384", "TLS13_CHACHA20_POLY1305_SHA256"]
    {
        let mesh = Mesh::new();
        let (address, called) = mesh.called(1).await;
        let mut crypto = aws_lc_rs::default_provider();
        crypto.cipher_suites.retain(|suite| format!("{:?}", suite.suite()) == name);
        let (chain, key) = mesh.plain("cart");
        let mut config = ClientConfig::builder_with_provider(Arc::new(crypto))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(credulous())
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![PROTOCOL.as_bytes().to_vec()];
        call(address, Arc::new(config)).await;
        let (TlsFacts { cipher, .. }, _) = called.await.unwrap().remove(0).unwrap();
        assert_eq!(cipher, name);
    }
}

#[tokio::test]
async fn a_caller_gets_no_ticket_and_proves_itself_again_each_time() {
    let mesh = Mesh::new();
    let (address, called) = mesh.called(3).await;
    let config = Arc::new(client(&mesh, |_| {}));
    for _ in 0..3 {
        let seen = call(address, config.clone()).await;
        assert_eq!(seen.greeting, GREETING.as_bytes());
        assert_eq!(seen.tickets, 0);
    }
    for outcome in called.await.unwrap() {
        assert_eq!(outcome.unwrap().1, id("cart"));
    }
}

#[tokio::test]
async fn no_server_name_is_needed_and_our_protocol_is() {
    assert!(calling(|_| {}, |config| config.enable_sni = false).await.is_ok());
    let without: Change<ClientConfig> = |config| config.alpn_protocols.clear();
    let other: Change<ClientConfig> = |config| config.alpn_protocols = vec![b"h2".to_vec()];
    for protocols in [without, other] {
        let refused = calling(|_| {}, protocols).await.unwrap_err();
        assert_eq!(refused.closed(), Closed::PeerWithoutProtocol);
    }
}

/// A called peer that keeps sessions and gives tickets, if we took them.
fn server(mesh: &Mesh, protocols: &[&str]) -> ServerConfig {
    let (chain, key) = mesh.plain("web");
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(mesh.path().join("root.crt")).unwrap();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let crypto = Arc::new(aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto.clone());
    let mut config = ServerConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.send_tls13_tickets = 4;
    config.max_early_data_size = 1000;
    config
}

/// Our side calls a peer with this configuration, twice; the facts or error, and our ClientHello.
async fn call_twice(
    config: ServerConfig,
    mesh: &Mesh,
) -> Vec<(Result<TlsFacts, HandshakeError>, Hello)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (acceptor, own) = (TlsAcceptor::from(Arc::new(config)), mesh.credentials("cart"));
    let mut seen = Vec::new();
    for _ in 0..2 {
        let peer = async {
            let (stream, _) = listener.accept().await.unwrap();
            let hello = peek(&stream).await;
            if let Ok(mut stream) = acceptor.accept(stream).await {
                // Fails where our side refuses the peer.
                let _ = stream.write_all(GREETING.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
            hello
        };
        let ours = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut stream = originate(stream, &own, &id("web")).await?;
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, GREETING.as_bytes());
            Ok(stream.facts().clone())
        };
        let (outcome, hello) = tokio::join!(ours, peer);
        seen.push((outcome, hello));
    }
    seen
}

/// The ClientHello, left where it is.
async fn peek(stream: &TcpStream) -> Hello {
    let mut record = vec![0; 16 * 1024];
    loop {
        stream.readable().await.unwrap();
        let there = stream.peek(&mut record).await.unwrap();
        let length = 5 + usize::from(u16::from_be_bytes([record[3], record[4]]));
        if there >= 5 && there >= length {
            return Hello::read(&record[5..length]);
        }
    }
}

#[tokio::test]
async fn our_client_hello_says_what_we_claim_also_after_tickets_were_given() {
    let mesh = Mesh::new();
    for (outcome, hello) in call_twice(server(&mesh, &[PROTOCOL]), &mesh).await {
        let facts = outcome.unwrap();
        assert_eq!(facts.version, "TLSv1.3");
        assert_eq!(facts.key_exchange, "X25519MLKEM768");
        assert_eq!(hello.extensions[&hello::SUPPORTED_VERSIONS], [2, 3, 4]);
        // The empty renegotiation signal is no suite.
        let suites: Vec<_> = hello.suites.iter().filter(|suite| **suite != 0x00ff).collect();
        assert_eq!(suites, [&0x1301, &0x1302, &0x1303]);
        assert_eq!(hello.groups().first(), Some(&hello::X25519MLKEM768));
        assert_eq!(hello.shares(), [hello::X25519MLKEM768, hello::X25519]);
        let alpn = [&[0, 15, 14][..], PROTOCOL.as_bytes()].concat();
        assert_eq!(hello.extensions[&hello::ALPN], alpn);
        for absent in
            [hello::SERVER_NAME, hello::SESSION_TICKET, hello::PRE_SHARED_KEY, hello::EARLY_DATA]
        {
            assert!(!hello.extensions.contains_key(&absent), "{absent}: {hello:?}");
        }
    }
}

#[tokio::test]
async fn a_called_peer_without_our_protocol_is_refused() {
    let mesh = Mesh::new();
    for (outcome, _) in call_twice(server(&mesh, &[]), &mesh).await {
        assert_eq!(outcome.unwrap_err().closed(), Closed::PeerWithoutProtocol);
    }
    for (outcome, _) in call_twice(server(&mesh, &["h2"]), &mesh).await {
        let closed = outcome.unwrap_err().closed();
        assert!([Closed::RefusedByPeer, Closed::PeerWithoutProtocol].contains(&closed), "{closed}");
    }
}
