//! One address that connects far more often than it may.

use std::net::{Ipv4Addr, SocketAddr};

use martlet_identity::{RootPin, control};
use tokio::net::{TcpSocket, TcpStream};

use super::{
    strangers::raw,
    world::{Agent, Controller, Host, domain, eventually},
};
use crate::limits;

/// Not the address from which everybody else calls.
const FLOODING: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

async fn call(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((FLOODING, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_floods_with_silent_connections_is_bounded_and_keeps_nobody_out() {
    let controller = Controller::start().await;
    let flood = limits::HANDSHAKES_OF_ONE + 200;
    let mut silent = Vec::new();
    for _ in 0..flood {
        silent.push(call(controller.address).await);
    }
    eventually("what is too much is closed", || {
        silent.iter().filter(|stream| is_closed(stream)).count() >= 200
    })
    .await;
    // As many as may be are still in their handshakes, and others get through.
    let mut client = raw(&controller, "one").await;
    let reached = client.renew(crate::proto::RenewRequest { csr: Vec::new() }).await.unwrap_err();
    assert_eq!(reached.code(), tonic::Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_has_no_certificate_and_stays_keeps_nobody_from_joining() {
    let controller = Controller::start().await;
    let pins = vec![RootPin::of(&controller.office().authority.roots()[0])];
    let mut staying = Vec::new();
    for _ in 0..limits::NOBODIES {
        let stream = call(controller.address).await;
        // The server judges after the client: one too many is closed after its handshake.
        staying.extend(control::call_pinned(stream, &domain(), pins.clone()).await.ok());
    }
    let host = Host::new("one").with_token(&controller.token("one"));
    let agent = Agent::start(&host, controller.address);
    agent.until_connected().await;
}
