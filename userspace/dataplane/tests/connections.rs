//! What an application sees of a connection over a lane, and what is recorded about it.

#![allow(clippy::unwrap_used)]

mod world;

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use martlet_dataplane::Staying;
use martlet_identity::originate;
use martlet_model::{Closed, Protection, Service};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::world::{
    PATIENCE, Setup, closed, greet, listener, read_all, reset, service, set_policies, world,
    world_of,
};

#[tokio::test]
async fn a_server_may_speak_first_and_each_side_may_finish_alone() {
    let mut world = world().await;
    let (mut caller, mut callee) = world.open().await;
    let source = caller.local_addr().unwrap();
    callee.write_all(b"220 ready").await.unwrap();
    let mut greeting = [0; 9];
    timeout(PATIENCE, caller.read_exact(&mut greeting)).await.unwrap().unwrap();
    caller.write_all(b"question").await.unwrap();
    caller.shutdown().await.unwrap();
    assert_eq!(read_all(&mut callee).await.unwrap(), b"question");
    callee.write_all(b"answer after the half-close").await.unwrap();
    drop(callee);
    assert_eq!(read_all(&mut caller).await.unwrap(), b"answer after the half-close");
    let (here, there) = world.records().await;
    assert_eq!(
        *world.roads_there.shown.lock().unwrap(),
        Some(source),
        "the application sees the caller"
    );
    assert_eq!((here.closed, there.closed), (Closed::Finished, Closed::Finished));
    assert_eq!(here.id, there.id);
    assert_eq!(here.protection, Protection::MutualTls);
    assert_eq!((here.bytes_sent, here.bytes_received), (8, 36));
    assert_eq!((there.bytes_sent, there.bytes_received), (8, 36));
    assert_eq!(here.destination.identity, Some(world.web.workload.identity.clone()));
    assert_eq!(there.source.identity.unwrap().as_str(), "spiffe://prod.example/ns/shop/sa/cart");
    assert_eq!(there.tls.unwrap().key_exchange, "X25519MLKEM768");
}

#[tokio::test]
async fn a_lane_is_used_again_after_a_clean_end() {
    let mut world = world().await;
    for round in 0..3 {
        let (mut caller, mut callee) = world.open().await;
        caller.write_all(b"ping").await.unwrap();
        caller.shutdown().await.unwrap();
        assert_eq!(read_all(&mut callee).await.unwrap(), b"ping");
        drop(callee);
        assert_eq!(read_all(&mut caller).await.unwrap(), b"");
        let (here, there) = world.records().await;
        assert_eq!((here.warm, there.warm), (round > 0, round > 0), "round {round}");
    }
    assert_eq!(world.here.idle_lanes(), 1);
}

#[tokio::test]
async fn new_credentials_are_used_at_once() {
    let mut world = world().await;
    for _ in 0..2 {
        let (caller, callee) = world.open().await;
        drop((caller, callee));
        let (here, _) = world.records().await;
        assert!(!here.warm);
        world.cart.credentials.set_trust(world.cart.credentials.trust());
    }
}

#[tokio::test]
async fn a_reset_stays_a_reset_in_both_directions() {
    let mut world = world().await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    reset(caller);
    assert_eq!(read_all(&mut callee).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::ResetByCaller, Closed::ResetByCaller));
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    reset(callee);
    assert_eq!(read_all(&mut caller).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::ResetByCallee, Closed::ResetByCallee));
    assert_eq!(world.here.idle_lanes(), 0, "such lanes are not kept");
}

#[tokio::test]
async fn the_far_agent_refuses_and_names_the_rule_at_both_ends() {
    let mut world = world().await;
    set_policies(&world.view_there, closed());
    let mut caller = world.call().await;
    caller.write_all(b"let me in").await.unwrap();
    assert_eq!(read_all(&mut caller).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::Denied, Closed::Denied));
    assert_eq!(here.policy.as_deref(), Some("shop/closed: nobody"));
    assert_eq!(there.policy.as_deref(), Some("shop/closed: nobody"));
    assert_eq!(there.bytes_sent, 0);
}

#[tokio::test]
async fn somebody_else_at_the_address_gets_no_byte() {
    let mut world = world_of(Setup { web_is: "impostor", ..Setup::default() }).await;
    let mut caller = world.call().await;
    caller.write_all(b"a secret").await.unwrap();
    assert_eq!(read_all(&mut caller).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (here, there) = world.records().await;
    assert_eq!(here.closed, Closed::PeerUnexpected);
    assert_eq!(there.closed, Closed::RefusedByPeer);
    assert_eq!(here.bytes_sent, 0);
}

#[tokio::test]
async fn an_application_that_does_not_listen_is_a_reset_for_the_caller() {
    let mut world = world().await;
    let (unused, _) = listener().await;
    drop(std::mem::replace(&mut world.application, unused));
    let mut caller = world.call().await;
    assert_eq!(read_all(&mut caller).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (here, there) = world.records().await;
    let refused = Closed::ApplicationRefused;
    assert_eq!((here.closed, there.closed), (refused, refused));
}

/// A byte stream that is cheap to make and to check.
fn pattern(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bytes_arrive_unchanged_both_ways_at_once() {
    const TOTAL: usize = 24 << 20;
    let mut world = world().await;
    let (caller, callee) = world.open().await;
    let work = |stream: TcpStream| async move {
        let (mut reader, mut writer) = stream.into_split();
        let write = async move {
            let mut at = 0;
            while at < TOTAL {
                let length = (at % 70_001 + 1).min(TOTAL - at);
                writer.write_all(&pattern(at, length)).await.unwrap();
                at += length;
            }
        };
        let read = async move {
            let (mut at, mut buffer) = (0, vec![0; 50_000]);
            loop {
                let length = reader.read(&mut buffer).await.unwrap();
                if length == 0 {
                    break at;
                }
                assert!(buffer[..length] == pattern(at, length), "different after {at}");
                at += length;
            }
        };
        tokio::join!(write, read).1
    };
    let both = async { tokio::join!(work(caller), work(callee)) };
    assert_eq!(timeout(Duration::from_secs(120), both).await.unwrap(), (TOTAL, TOTAL));
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::Finished, Closed::Finished));
    assert_eq!((here.bytes_sent, here.bytes_received), (TOTAL as u64, TOTAL as u64));
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer() {
    const FAR_TOO_MUCH: usize = 256 << 20;
    let world = world().await;
    let (caller, _callee) = world.open().await;
    let chunk = vec![7; 64 * 1024];
    let mut written = 0;
    // Nothing is taken for a second: the writer waits.
    while let Ok(ready) = timeout(Duration::from_secs(1), caller.writable()).await {
        ready.unwrap();
        written += caller.try_write(&chunk).unwrap_or(0);
        assert!(written < FAR_TOO_MUCH, "{written} bytes were taken and not delivered");
    }
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_cut_off() {
    let mut world = world().await;
    for bytes in [
        &[9, 0, 0, 0][..],                                             // unknown type
        &[2, 0, 0, 4, 1, 2, 3, 4],                                     // data before open
        &[3, 0, 0, 0],                                                 // finish before open
        &[2, 4, 0, 1],                                                 // data over the limit
        &[1, 0, 0, 3, 0, 0, 0],                                        // a short open
        &[1, 0, 0, 10, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 5, 0, 0, 1, 19], // a refusal by the caller
        &[1, 0, 0, 10, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 10, 0, 80, 0, 0, 0, 0, 0, 0, 0, 2],
    ] {
        let transport = TcpStream::connect(world.gate).await.unwrap();
        let mut lane = originate(transport, &world.cart.credentials, &world.web.workload.identity)
            .await
            .unwrap();
        lane.write_all(bytes).await.unwrap();
        lane.flush().await.unwrap();
        let record = world.record_there().await;
        assert_eq!(record.closed, Closed::LaneViolation, "{bytes:?}");
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, lane.read_to_end(&mut rest)).await.unwrap();
        // Told so, if a connection was open.
        assert!(rest.is_empty() || rest == [4, 0, 0, 1, 65], "{rest:?}");
    }
}

#[tokio::test]
async fn a_peer_that_opens_nothing_after_its_handshake_is_let_go() {
    let mut world = world().await;
    let transport = TcpStream::connect(world.gate).await.unwrap();
    let web = &world.web.workload.identity;
    let mut lane = originate(transport, &world.cart.credentials, web).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, lane.read_to_end(&mut rest)).await.expect("an end");
    let record = world.record_there().await;
    assert_eq!(record.closed, Closed::HandshakeTimedOut);
    assert_eq!(record.source.identity.as_ref(), Some(&world.cart.workload.identity));
}

const ENDPOINTS: [&str; 4] = ["10.0.0.3:1", "10.0.0.3:2", "10.0.0.3:3", "10.0.0.3:4"];

/// Which endpoint a caller reaches that another process has said to stay with `endpoint`.
async fn reached(endpoint: Option<&str>) -> SocketAddr {
    let origin = "10.9.0.1:80";
    let mut service = Service::clone(&service(origin, &ENDPOINTS));
    service.choice.affinity = Some(Duration::from_secs(60));
    let services = vec![Arc::new(service)];
    let mut world = world_of(Setup { origin: Some(origin), services, ..Setup::default() }).await;
    let caller = world.cart.workload.name.clone();
    let staying = endpoint.map(|endpoint| Staying {
        caller,
        service: origin.parse().unwrap(),
        endpoint: endpoint.parse().unwrap(),
        lasts: Duration::from_secs(60),
    });
    world.here.keep_stayings(staying);
    let (mut caller, callee) = world.open().await;
    caller.shutdown().await.unwrap();
    drop(callee);
    assert_eq!(read_all(&mut caller).await.unwrap(), b"");
    let (record, _) = world.records().await;
    let reached = record.destination.address.unwrap();
    let said: Vec<_> = world.here.stayings().into_iter().map(|one| one.endpoint).collect();
    assert_eq!(said, [reached], "it is said to the next one");
    reached
}

#[tokio::test]
async fn a_caller_stays_where_another_process_has_said_and_chooses_anew_if_that_is_gone() {
    let anew = reached(None).await;
    for endpoint in ENDPOINTS {
        assert_eq!(reached(Some(endpoint)).await, endpoint.parse().unwrap());
    }
    assert_eq!(reached(Some("10.0.0.3:9")).await, anew);
}
