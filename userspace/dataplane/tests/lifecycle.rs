//! Routes, limits, what is taken back, and how the data plane stops.

#![allow(clippy::unwrap_used)]

mod world;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use martlet_dataplane::View;
use martlet_identity::originate;
use martlet_model::{Closed, Directory, Protection, Reporter};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::world::{
    PATIENCE, Setup, closed, greet, is_reset, listener, read_all, reset, service, set_policies,
    until, warm, world, world_of,
};

#[tokio::test]
async fn an_endpoint_outside_the_mesh_is_reached_in_plaintext_and_said_to_be() {
    let services = vec![service("10.9.0.1:80", &["192.0.2.7:9000"])];
    let origin = Some("10.9.0.1:80");
    let mut world = world_of(Setup { services, origin, ..Setup::default() }).await;
    let (outside, at) = listener().await;
    world.roads_here.to.lock().unwrap().insert("192.0.2.7:9000".parse().unwrap(), at);
    let mut caller = world.call().await;
    let (mut server, _) = outside.accept().await.unwrap();
    caller.write_all(b"hello").await.unwrap();
    caller.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await.unwrap(), b"hello");
    server.write_all(b"good day").await.unwrap();
    drop(server);
    assert_eq!(read_all(&mut caller).await.unwrap(), b"good day");
    let record = world.record_here().await;
    assert_eq!((record.closed, record.protection), (Closed::Finished, Protection::Plaintext));
    assert_eq!((record.bytes_sent, record.bytes_received), (5, 8));
    assert_eq!(record.destination.address, Some("192.0.2.7:9000".parse().unwrap()));

    let mut caller = world.call().await;
    let (mut server, _) = outside.accept().await.unwrap();
    greet(&mut caller, &mut server).await;
    reset(server);
    is_reset(&mut caller).await;
    assert_eq!(world.record_here().await.closed, Closed::ResetByCallee);
    let mut caller = world.call().await;
    let (mut server, _) = outside.accept().await.unwrap();
    greet(&mut caller, &mut server).await;
    reset(caller);
    is_reset(&mut server).await;
    assert_eq!(world.record_here().await.closed, Closed::ResetByCaller);
}

#[tokio::test]
async fn a_workload_reaches_itself_without_a_lane() {
    let services = vec![service("10.9.0.1:80", &["127.0.0.1:9000"])];
    let origin = Some("10.9.0.1:80");
    let mut world = world_of(Setup { services, origin, ..Setup::default() }).await;
    let (own, at) = listener().await;
    world.roads_here.to.lock().unwrap().insert("127.0.0.1:9000".parse().unwrap(), at);
    let mut caller = world.call().await;
    let (mut server, _) = own.accept().await.unwrap();
    let source = caller.local_addr().unwrap();
    assert_eq!(*world.roads_here.shown.lock().unwrap(), Some(source));
    greet(&mut caller, &mut server).await;
    drop((caller, server));
    let record = world.record_here().await;
    assert_eq!((record.closed, record.protection), (Closed::Finished, Protection::Internal));
    assert_eq!(record.destination.identity, record.source.identity);
}

#[tokio::test]
async fn another_endpoint_is_tried_where_one_does_not_answer() {
    let services = vec![service("10.9.0.1:80", &["192.0.2.7:9000", "10.0.0.3:8080"])];
    let origin = Some("10.9.0.1:80");
    let mut world = world_of(Setup { services, origin, ..Setup::default() }).await;
    let (unused, nobody) = listener().await;
    drop(unused);
    world.roads_here.to.lock().unwrap().insert("192.0.2.7:9000".parse().unwrap(), nobody);
    for _ in 0..8 {
        let (caller, callee) = world.open().await;
        drop((caller, callee));
        let (here, _) = world.records().await;
        assert_eq!((here.closed, here.protection), (Closed::Finished, Protection::MutualTls));
        assert_eq!(here.origin, Some("10.9.0.1:80".parse().unwrap()));
    }
    world.roads_here.to.lock().unwrap().insert("10.0.0.3:8080".parse().unwrap(), nobody);
    world.cart.credentials.set_trust(world.cart.credentials.trust());
    is_reset(&mut world.call().await).await;
    assert_eq!(world.record_here().await.closed, Closed::DialRefused);
}

#[tokio::test]
async fn what_leads_nowhere_is_refused_and_recorded() {
    for (origin, reason) in [
        (None, Closed::NoOrigin),
        (Some("10.77.0.1:80"), Closed::NoRoute),
        (Some("10.9.0.1:81"), Closed::NoRoute),
        (Some("10.9.0.1:80"), Closed::NoEndpoint),
    ] {
        let services = vec![service("10.9.0.1:80", &[])];
        let mut world = world_of(Setup { services, origin, ..Setup::default() }).await;
        is_reset(&mut world.call().await).await;
        let record = world.record_here().await;
        assert_eq!((record.closed, record.protection), (reason, Protection::None));
        assert_eq!(world.here.stats().ended(Reporter::Source, reason), 1);
    }
}

#[tokio::test]
async fn our_own_policy_refuses_before_anything_is_dialed() {
    let mut world = world().await;
    set_policies(&world.view_here, closed());
    is_reset(&mut world.call().await).await;
    let record = world.record_here().await;
    assert_eq!(record.closed, Closed::Denied);
    assert_eq!(record.policy.as_deref(), Some("shop/closed: nobody"));
    assert!(world.records_there.is_empty());
}

#[tokio::test]
async fn open_connections_are_listed_with_their_bytes() {
    let world = world().await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    let source = caller.local_addr().unwrap();
    for (dataplane, reporter) in
        [(&world.here, Reporter::Source), (&world.there, Reporter::Destination)]
    {
        let [report] = &dataplane.connections()[..] else { panic!("one connection") };
        assert_eq!((report.reporter, report.source.address), (reporter, Some(source)));
        assert_eq!((report.bytes_sent, report.bytes_received), (1, 0));
        assert_eq!(report.protection, Protection::MutualTls);
    }
    drop((caller, callee));
    until("nothing is open", || world.here.open() + world.there.open() == 0).await;
}

#[tokio::test]
async fn a_slow_reader_of_records_holds_nothing_up_and_the_loss_is_counted() {
    let world = world_of(Setup { record_capacity: 1, ..Setup::default() }).await;
    for _ in 0..3 {
        let (caller, callee) = world.open().await;
        drop((caller, callee));
    }
    let dropped = || world.here.stats().records_dropped.load(Ordering::Relaxed);
    until("two records are lost", || dropped() == 2).await;
    assert_eq!(world.here.stats().ended(Reporter::Source, Closed::Finished), 3);
}

#[tokio::test]
async fn an_application_that_gives_up_is_noticed_while_the_far_side_does_not_read() {
    let mut world = world().await;
    let (caller, mut callee) = world.open().await;
    let chunk = vec![7; 64 * 1024];
    // Until nobody takes any more.
    while timeout(Duration::from_millis(500), caller.writable()).await.is_ok() {
        let _ = caller.try_write(&chunk);
    }
    reset(caller);
    assert_eq!(world.record_here().await.closed, Closed::ResetByCaller);
    assert!(read_all(&mut callee).await.is_err(), "a reset, not an end");
}

#[tokio::test]
async fn an_idle_lane_that_the_far_side_closes_is_not_used() {
    let mut world = world().await;
    warm(&mut world).await;
    world.there.shutdown(PATIENCE).await;
    until("the lane is swept away", || world.here.idle_lanes() == 0).await;
}

#[tokio::test]
async fn idle_lanes_leave_a_deserted_port_and_the_next_call_gets_a_new_one() {
    let mut world = world().await;
    let at = "10.0.0.3:8080".parse().unwrap();
    for round in 1..=3 {
        warm(&mut world).await;
        assert_eq!(world.there.standing_at(8080), [at]);
        world.there.desert(at);
        assert!(world.there.standing_at(8080).is_empty());
        until("the lane has left", || world.here.idle_lanes() == 0).await;
        let made = world.here.stats().handshakes_originated.load(Ordering::Relaxed);
        assert_eq!(made, round, "none is used again");
    }
}

#[tokio::test]
async fn a_busy_lane_at_a_deserted_port_carries_what_it_carries_to_its_end() {
    let mut world = world().await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    world.there.desert("10.0.0.3:8080".parse().unwrap());
    greet(&mut caller, &mut callee).await;
    caller.shutdown().await.unwrap();
    callee.write_all(b"bye").await.unwrap();
    drop(callee);
    assert_eq!(read_all(&mut caller).await.unwrap(), b"bye");
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::Finished, Closed::Finished));
}

#[tokio::test]
async fn a_workload_that_leaves_takes_its_lanes_along() {
    let mut world = world().await;
    warm(&mut world).await;
    world.here.retire(&world.cart);
    assert_eq!(world.here.idle_lanes(), 0);
    is_reset(&mut world.call().await).await;
    assert_eq!(world.record_here().await.closed, Closed::Draining);
}

#[tokio::test]
async fn a_shutdown_waits_for_what_is_open_and_refuses_what_is_new() {
    let mut world = world().await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    let stopping = tokio::spawn({
        let here = world.here.clone();
        async move { here.shutdown(PATIENCE).await }
    });
    // It closes its entrance before it waits for the first time.
    tokio::task::yield_now().await;
    is_reset(&mut world.call().await).await;
    assert_eq!(world.record_here().await.closed, Closed::Draining);
    greet(&mut caller, &mut callee).await;
    assert!(!stopping.is_finished());
    drop((caller, callee));
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
    assert_eq!(world.record_here().await.closed, Closed::Finished);
}

#[tokio::test]
async fn a_shutdown_ends_what_does_not_end_by_itself() {
    let mut world = world().await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    world.here.shutdown(Duration::from_millis(10)).await;
    is_reset(&mut caller).await;
    is_reset(&mut callee).await;
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::Draining, Closed::Draining));
}

#[tokio::test]
async fn a_lane_to_an_address_that_is_not_the_workloads_is_refused() {
    let mut world = world().await;
    let (gate, at) = listener().await;
    world.roads_here.to.lock().unwrap().insert("10.0.0.3:8080".parse().unwrap(), at);
    let (there, web) = (world.there.clone(), world.web.clone());
    tokio::spawn(async move {
        let (stream, from) = gate.accept().await.unwrap();
        there.inbound(web, stream, from, "10.0.0.4:8080".parse().unwrap());
    });
    is_reset(&mut world.call().await).await;
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::NoRoute, Closed::NoRoute));
}

#[tokio::test]
async fn whoever_speaks_no_tls_gets_nothing_and_is_recorded() {
    let mut world = world().await;
    let mut stranger = TcpStream::connect(world.gate).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stranger.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.len() < 16, "an alert at most");
    let record = world.record_there().await;
    assert_eq!((record.closed, record.protection), (Closed::HandshakeFailed, Protection::None));
    assert_eq!(world.there.open(), 0);
}

#[tokio::test]
async fn a_directory_that_changes_is_used_by_the_next_connection() {
    let mut world = world().await;
    let directory = Arc::new(Directory::default());
    world.view_here.store(Arc::new(View { directory, policies: Arc::default() }));
    is_reset(&mut world.call().await).await;
    assert_eq!(world.record_here().await.closed, Closed::NoRoute);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_does_not_hold_up_a_shutdown() {
    let mut world = world().await;
    let transport = TcpStream::connect(world.gate).await.unwrap();
    let web = &world.web.workload.identity;
    let mut lane = originate(transport, &world.cart.credentials, web).await.unwrap();
    lane.write_all(&[1, 0, 0, 10, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1]).await.unwrap();
    lane.flush().await.unwrap();
    let (callee, _) = timeout(PATIENCE, world.application.accept()).await.unwrap().unwrap();
    let chunk = vec![7; 64 * 1024];
    while timeout(Duration::from_millis(500), callee.writable()).await.is_ok() {
        let _ = callee.try_write(&chunk);
    }
    let stopping = world.there.shutdown(Duration::from_millis(10));
    timeout(Duration::from_secs(5), stopping).await.expect("in time");
    assert_eq!(world.record_there().await.closed, Closed::Draining);
    assert_eq!(world.there.open(), 0);
    drop(lane);
}
