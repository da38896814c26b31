//! `gnutls-cli` as the caller.

use martlet_model::Closed;

use crate::{
    fixture::{GREETING, Mesh, PROTOCOL, id},
    openssl::Server,
};

const ONLY_1_3: &str = "NORMAL:-VERS-ALL:+VERS-TLS1.3";
const ONLY_1_2: &str = "NORMAL:-VERS-ALL:+VERS-TLS1.2";
const RESUMED: &str = "This is a resumed session";
const CERTIFICATE: &[&str] = &["--x509certfile", "peer.crt", "--x509keyfile", "peer.key"];

async fn gnutls(mesh: &Mesh, port: u16, more: &[&[&str]]) -> String {
    let port = port.to_string();
    let common = ["--port", &port, "--disable-sni", "--no-ca-verification", "--logfile", "log"];
    let arguments = [&common[..], &more.concat(), &["127.0.0.1"]].concat();
    let (_, said) = mesh.run("gnutls-cli", &arguments).await;
    said + &std::fs::read_to_string(mesh.path().join("log")).unwrap_or_default()
}

#[tokio::test]
async fn gnutls_sees_tls_1_3_our_protocol_and_no_resumption() {
    let mesh = Mesh::new();
    // With `--resume` it connects twice, and would use a ticket the second time.
    let (address, called) = mesh.called(2).await;
    let more = [CERTIFICATE, &["--alpn", PROTOCOL, "--priority", ONLY_1_3, "--resume"]];
    let said = gnutls(&mesh, address.port(), &more).await;
    for fact in ["(TLS1.3-X.509)", "Application protocol: martlet-lane/1", GREETING] {
        assert!(said.contains(fact), "{fact}: {said}");
    }
    assert!(!said.contains(RESUMED), "{said}");
    for outcome in called.await.unwrap() {
        let (facts, peer) = outcome.unwrap();
        assert_eq!((&*facts.version, peer), ("TLSv1.3", id("cart")));
    }
}

#[tokio::test]
async fn gnutls_would_say_so_if_it_resumed() {
    let mesh = Mesh::new();
    let server = Server::start(&mesh, &["-www"]);
    let port = server.address.rsplit(':').next().unwrap().parse().unwrap();
    let more = [&["--priority", ONLY_1_3, "--resume", "--waitresumption"][..]];
    let said = gnutls(&mesh, port, &more).await;
    assert!(said.contains(RESUMED), "{said}");
}

#[tokio::test]
async fn gnutls_is_refused_with_older_versions_without_certificate_and_without_our_protocol() {
    let mesh = Mesh::new();
    let (alpn, new, old) =
        (["--alpn", PROTOCOL], ["--priority", ONLY_1_3], ["--priority", ONLY_1_2]);
    let cases: [(&[&[&str]], Closed); 4] = [
        (&[CERTIFICATE, &alpn, &old], Closed::HandshakeFailed),
        (&[&alpn, &new], Closed::PeerWithoutCertificate),
        (&[CERTIFICATE, &["--alpn", "h2"], &new], Closed::PeerWithoutProtocol),
        (&[CERTIFICATE, &new], Closed::PeerWithoutProtocol),
    ];
    let (address, called) = mesh.called(cases.len()).await;
    for (arguments, _) in &cases {
        let said = gnutls(&mesh, address.port(), arguments).await;
        assert!(!said.contains(GREETING), "{said}");
    }
    for ((arguments, expected), outcome) in cases.iter().zip(called.await.unwrap()) {
        assert_eq!(outcome.unwrap_err().closed(), *expected, "{arguments:?}");
    }
}
