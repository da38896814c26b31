//! `openssl s_client` as the caller, and `s_server` as the called.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use martlet_identity::originate;
use martlet_model::Closed;
use tokio::net::TcpStream;

use crate::fixture::{GREETING, Mesh, PROTOCOL, id};

const TICKET: &str = "Post-Handshake New Session Ticket arrived";

fn s_client<'a>(address: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let common = ["s_client", "-connect", address, "-CAfile", "root.crt", "-ign_eof"];
    [&common, more].concat()
}

const CERTIFICATE: &[&str] = &["-cert", "peer.crt", "-key", "peer.key"];
const WITH_PROTOCOL: &[&str] = &["-alpn", PROTOCOL];

#[tokio::test]
async fn openssl_sees_tls_1_3_our_protocol_and_no_ticket() {
    let mesh = Mesh::new();
    let (address, called) = mesh.called(2).await;
    let address = address.to_string();
    for name in [&["-noservername"][..], &["-servername", "anything.example"]] {
        let arguments = s_client(&address, &[CERTIFICATE, WITH_PROTOCOL, name].concat());
        let (_, said) = mesh.run("openssl", &arguments).await;
        for fact in [
            GREETING,
            "New, TLSv1.3, Cipher is TLS_",
            "Verification: OK",
            "ALPN protocol: martlet-lane/1",
        ] {
            assert!(said.contains(fact), "{fact}: {said}");
        }
        assert!(!said.contains(TICKET) && !said.contains("Reused"), "{said}");
    }
    for outcome in called.await.unwrap() {
        let (facts, peer) = outcome.unwrap();
        assert_eq!((&*facts.version, peer), ("TLSv1.3", id("cart")));
        assert_eq!(facts.key_exchange, "X25519");
    }
}

/// A server of openssl, at a port that it picks.
pub struct Server {
    process: Child,
    /// Kept open, as it prints more later.
    _said: Lines<BufReader<ChildStdout>>,
    pub address: String,
}

impl Server {
    pub fn start(mesh: &Mesh, more: &[&str]) -> Self {
        let arguments =
            ["s_server", "-accept", "127.0.0.1:0", "-cert", "peer.crt", "-key", "peer.key"];
        let mut command = Command::new("openssl");
        command.args(arguments).args(more).current_dir(mesh.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = said.find_map(|line| Some(line.unwrap().strip_prefix("ACCEPT ")?.to_owned()));
        Self { process, _said: said, address: port.expect("it listens") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn openssl_would_print_a_ticket_if_there_were_one() {
    let mesh = Mesh::new();
    let server = Server::start(&mesh, &["-www"]);
    let mut client = Command::new("openssl");
    client.args(["s_client", "-ign_eof", "-connect", &server.address]);
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut client = client.spawn().unwrap();
    client.stdin.take().unwrap().write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let said = client.wait_with_output().unwrap().stdout;
    assert!(String::from_utf8_lossy(&said).contains(TICKET));
}

#[tokio::test]
async fn a_called_openssl_is_refused_with_tls_1_2_and_accepted_with_1_3() {
    let mesh = Mesh::new();
    let own = mesh.credentials("web");
    for (version, expected) in [("-tls1_3", None), ("-tls1_2", Some(Closed::RefusedByPeer))] {
        let server = Server::start(
            &mesh,
            &["-Verify", "1", "-CAfile", "root.crt", "-alpn", PROTOCOL, version],
        );
        let stream = TcpStream::connect(&server.address).await.unwrap();
        let outcome = originate(stream, &own, &id("cart")).await;
        assert_eq!(outcome.as_ref().err().map(|error| error.closed()), expected, "{version}");
    }
}

#[tokio::test]
async fn openssl_is_refused_with_older_versions_without_certificate_and_without_our_protocol() {
    let mesh = Mesh::new();
    let cases: [(&[&[&str]], Closed, &str); 5] = [
        (
            &[CERTIFICATE, WITH_PROTOCOL, &["-tls1_2"]],
            Closed::HandshakeFailed,
            "alert protocol version",
        ),
        (
            &[CERTIFICATE, WITH_PROTOCOL, &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]],
            Closed::HandshakeFailed,
            "alert handshake failure",
        ),
        (&[WITH_PROTOCOL], Closed::PeerWithoutCertificate, "certificate required"),
        (
            &[CERTIFICATE, &["-alpn", "h2,http/1.1"]],
            Closed::PeerWithoutProtocol,
            "no application protocol",
        ),
        (&[CERTIFICATE], Closed::PeerWithoutProtocol, ""),
    ];
    let (address, called) = mesh.called(cases.len()).await;
    let address = address.to_string();
    for (arguments, _, alert) in &cases {
        let (_, said) = mesh.run("openssl", &s_client(&address, &arguments.concat())).await;
        assert!(said.contains(alert), "{alert}: {said}");
        assert!(!said.contains(GREETING), "{said}");
    }
    for ((arguments, expected, _), outcome) in cases.iter().zip(called.await.unwrap()) {
        assert_eq!(outcome.unwrap_err().closed(), *expected, "{arguments:?}");
    }
}
