//! Each pod's quotas in the kernel's maps: over them it is refused, its neighbor is not, and what
//! was used is given back.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use anyhow::{Context as _, Result};
use martlet_kernel::{
    Node, Used,
    limits::{IN_FLIGHT, PLAIN, PORTS},
};
use martlet_lab::wait_for;
use martlet_tests_kernel::{
    Lab, Place, members,
    packets::{Ip, SYN, TCP, tcp_between},
    raw, relay,
};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// How far over the quota an aggressor goes.
const OVER: usize = 64;
/// The kernel compares before it counts: each processor can be between the two.
const INEXACT: u64 = 16;

fn counter(node: &Node, hook: &str, verdict: &str) -> u64 {
    let counters = node.counters().expect("counters can be read");
    let found = counters.iter().find(|c| c.hook == hook && c.verdict == verdict);
    found.expect("the counter exists").count
}

fn used(node: &Node, place: &Place) -> Result<Used> {
    node.used(&place.netns)?.context("the pod is enrolled")
}

fn given_back(node: &Node, place: &Place, number: fn(&Used) -> u64) -> Result<()> {
    let what = "all that was used to be given back";
    wait_for(what, PATIENCE, || Ok((number(&used(node, place)?) == 0).then_some(())))
}

/// A word each way.
async fn greet(caller: &mut TcpStream, callee: &mut TcpStream) -> Result<()> {
    let mut word = [0; 4];
    caller.write_all(b"ping").await?;
    timeout(PATIENCE, callee.read_exact(&mut word)).await??;
    callee.write_all(b"pong").await?;
    timeout(PATIENCE, caller.read_exact(&mut word)).await??;
    Ok(())
}

async fn is_answered(from: &Place, listener: &TcpListener) -> Result<()> {
    let mut caller = timeout(PATIENCE, from.connect(listener.local_addr()?)).await??;
    caller.write_all(b"ping").await?;
    let mut word = [0; 4];
    let mut callee = loop {
        let (mut callee, _) = timeout(PATIENCE, listener.accept()).await??;
        // What somebody began and gave up arrives too.
        if timeout(PATIENCE, callee.read_exact(&mut word)).await?.is_ok() {
            break callee;
        }
    };
    callee.write_all(b"pong").await?;
    timeout(PATIENCE, caller.read_exact(&mut word)).await??;
    Ok(())
}

/// Begins to connect, and says at once whether that failed.
fn begin(to: SocketAddr) -> Result<Socket, ErrorKind> {
    let begin = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            // A refusal comes over the loopback device, before `connect` returns.
            _ => socket.take_error()?.map_or(Ok(socket), Err),
        }
    };
    begin().map_err(|error| error.kind())
}

/// A queue of connections that fills up soon.
fn short_queues(place: &Place) -> Result<()> {
    place.pod.netns().set_sysctls(&[("core/somaxconn", "16")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_in_flight_over_the_quota_are_refused_and_a_neighbors_are_not() -> Result<()> {
    let lab = Lab::new()?;
    let (bad, good, web) = (lab.place("bad-0")?, lab.place("good-0")?, lab.place("web-0")?);
    short_queues(&bad)?;
    let node = Node::start(&lab.settings)?;
    members(&node, &[&bad, &good, &web])?;
    let listener = web.listen(SocketAddr::new(web.v4, 8080))?;
    // Nobody accepts here until later.
    let (pod, held) = bad.enroll(&node, true)?;
    for place in [&good, &web] {
        let (pod, listeners) = place.enroll(&node, true)?;
        relay(pod.dialer(), listeners);
    }
    let to = listener.local_addr()?;
    let count = IN_FLIGHT as usize + OVER + 17;
    let begun: Vec<Result<Socket, ErrorKind>> =
        bad.netns.run(|| Ok((0..count).map(|_| begin(to)).collect()))?;
    let refused = begun.iter().filter(|one| one.is_err()).count();
    assert!(begun.iter().flatten().count() >= IN_FLIGHT as usize);
    assert!(
        begun.iter().all(|one| !matches!(one, Err(kind) if *kind != ErrorKind::ConnectionRefused))
    );
    assert!((OVER - 1..=OVER + 2).contains(&refused), "{refused} over the quota");
    assert!(used(&node, &bad)?.opening.abs_diff(IN_FLIGHT) <= INEXACT, "{:?}", used(&node, &bad)?);
    assert_eq!(counter(&node, "establish", "refused_in_flight_quota"), refused as u64);
    is_answered(&good, &listener).await.context("the neighbor")?;
    assert_eq!(used(&node, &good)?.opening, 0);

    drop(begun);
    given_back(&node, &bad, |used| used.opening)?;
    relay(pod.dialer(), held);
    is_answered(&bad, &listener).await.context("afterwards")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_to_an_application_over_the_quota_are_refused_and_a_neighbors_are_not() -> Result<()>
{
    let lab = Lab::new()?;
    let (bad, good) = (lab.place("bad-0")?, lab.place("good-0")?);
    short_queues(&bad)?;
    let node = Node::start(&lab.settings)?;
    members(&node, &[&bad, &good])?;
    let (slow, quick) =
        (bad.listen(SocketAddr::new(bad.v4, 8080))?, good.listen(SocketAddr::new(good.v4, 8080))?);
    let ((pod, _held), (neighbor, _too)) = (bad.enroll(&node, true)?, good.enroll(&node, true)?);
    let shown = Some("10.9.9.9:999".parse()?);
    let to = slow.local_addr()?;
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT as usize + OVER + 17 {
        let dialer = pod.dialer();
        dials.spawn(async move { dialer.connect(to, shown).await });
    }
    wait_for("the quota to be used", PATIENCE, || {
        let refused = counter(&node, "connect", "refused_dial_quota");
        Ok((refused + 2 >= OVER as u64).then_some(()))
    })?;
    assert!(used(&node, &bad)?.dialed.abs_diff(IN_FLIGHT) <= INEXACT, "{:?}", used(&node, &bad)?);
    assert_eq!(used(&node, &bad)?.opening, 0, "the pod's own are another matter");
    let dialed = timeout(PATIENCE, neighbor.dialer().connect(quick.local_addr()?, shown)).await??;
    let (accepted, seen) = timeout(PATIENCE, quick.accept()).await??;
    assert_eq!(Some(seen), shown);
    drop((dialed, accepted));

    dials.shutdown().await;
    given_back(&node, &bad, |used| used.dialed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_over_the_quota_are_not_reached_and_a_neighbors_are() -> Result<()> {
    let lab = Lab::new()?;
    let (caller, bad, good) = (lab.place("cart-0")?, lab.place("bad-0")?, lab.place("good-0")?);
    let node = Node::start(&lab.settings)?;
    members(&node, &[&caller, &bad, &good])?;
    for place in [&caller, &bad, &good] {
        let (pod, listeners) = place.enroll(&node, true)?;
        relay(pod.dialer(), listeners);
    }
    let port = |number: usize| SocketAddr::new(bad.v4, 10_000 + number as u16);
    let count = PORTS as usize + OVER;
    let listen = |number| StdListener::bind(port(number));
    let mut listening: Vec<_> = bad.netns.run(|| (0..count).map(listen).collect())?;
    assert_eq!(used(&node, &bad)?.ports, PORTS);
    assert_eq!(counter(&node, "establish", "listen_quota"), OVER as u64);
    let mut last = caller.connect(port(count - 1)).await?;
    let read = timeout(PATIENCE, last.read(&mut [0])).await?;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    is_answered(&caller, &good.listen(SocketAddr::new(good.v4, 8080))?).await?;

    // A place that is given back is there for the next.
    let first = listening.swap_remove(0);
    drop(listening);
    wait_for("the ports to be given back", PATIENCE, || {
        Ok((used(&node, &bad)?.ports == 1).then_some(()))
    })?;
    drop(first);
    given_back(&node, &bad, |used| used.ports)?;
    is_answered(&caller, &bad.listen(port(count - 1))?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_syns_makes_the_guard_forget_nothing_about_a_neighbor() -> Result<()> {
    let lab = Lab::new()?;
    let (bad, good, other) = (lab.place("bad-0")?, lab.place("good-0")?, lab.place("other-0")?);
    let node = Node::start(&lab.settings)?;
    members(&node, &[&bad, &good])?;
    for place in [&bad, &good] {
        let (pod, listeners) = place.enroll(&node, false)?;
        relay(pod.dialer(), listeners);
    }
    let listener = other.listen(SocketAddr::new(other.v4, 8080))?;
    let mut caller = good.connect(listener.local_addr()?).await?;
    let (mut callee, _) = listener.accept().await?;
    // More than any one map for all pods has had room for.
    bad.netns.run(|| {
        for number in 0..24 * PLAIN {
            let segment = tcp_between(number as u16, 1000 + (number >> 16) as u16, SYN, b"");
            let packet = Ip::new(bad.v4, other.v4, TCP, &segment).bytes();
            raw::send_packet(other.v4, &packet)?;
        }
        Ok(())
    })?;
    // Its peer is enrolled meanwhile: it passes only because it is remembered.
    members(&node, &[&bad, &good, &other])?;
    greet(&mut caller, &mut callee).await?;
    assert!(counter(&node, "guard", "passed_older_connection") > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_withdrawn_pod_used_does_not_count_when_it_comes_back() -> Result<()> {
    let lab = Lab::new()?;
    let (bad, web) = (lab.place("bad-0")?, lab.place("web-0")?);
    short_queues(&bad)?;
    let node = Node::start(&lab.settings)?;
    members(&node, &[&bad, &web])?;
    let (pod, held) = bad.enroll(&node, true)?;
    let to = SocketAddr::new(web.v4, 8080);
    let begun: Vec<Result<Socket, ErrorKind>> =
        bad.netns.run(|| Ok((0..100).map(|_| begin(to)).collect()))?;
    assert!(used(&node, &bad)?.opening > 0);
    pod.withdraw()?;
    drop(held);
    assert_eq!(node.used(&bad.netns)?, None);
    let (_pod, _held) = bad.enroll(&node, true)?;
    assert_eq!(used(&node, &bad)?, Used::default());
    drop(begun);
    drop(bad.netns.run(|| Ok(begin(to)))?);
    given_back(&node, &bad, |used| used.opening)
}
