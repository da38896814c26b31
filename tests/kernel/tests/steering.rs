//! The kernel half on this kernel, without TLS: who is steered, who is refused, who sees what.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use martlet_kernel::{Feature, Membership, Node, Terms, missing_features};
use martlet_tests_kernel::{Lab, Place, leave_outside, members, relay};
use socket2::Protocol;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn counter(node: &Node, hook: &str, verdict: &str) -> u64 {
    let counters = node.counters().expect("counters can be read");
    let found = counters.iter().find(|c| c.hook == hook && c.verdict == verdict);
    found.expect("the counter exists").count
}

/// Sends a word each way; gives the caller's and the callee's sockets.
async fn greet(
    from: &Place,
    listener: &TcpListener,
    to: SocketAddr,
) -> Result<(TcpStream, TcpStream, SocketAddr)> {
    let mut caller = timeout(PATIENCE, from.connect(to)).await??;
    let (mut callee, seen) = timeout(PATIENCE, listener.accept()).await.context("accepting")??;
    let mut word = [0; 4];
    callee.write_all(b"here").await?;
    timeout(PATIENCE, caller.read_exact(&mut word)).await??;
    assert_eq!(&word, b"here");
    caller.write_all(b"ping").await?;
    timeout(PATIENCE, callee.read_exact(&mut word)).await??;
    assert_eq!(&word, b"ping");
    Ok((caller, callee, seen))
}

fn family(place: &Place, v6: bool) -> IpAddr {
    if v6 { place.v6 } else { place.v4 }
}

async fn both_ends_see_each_other(v6: bool) -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    members(&node, &[&a, &b])?;
    let to = SocketAddr::new(family(&b, v6), 8080);
    let listener = b.listen(to)?;
    let (pod_a, listeners_a) = a.enroll(&node, true)?;
    let (pod_b, listeners_b) = b.enroll(&node, true)?;
    relay(pod_a.dialer(), listeners_a);
    relay(pod_b.dialer(), listeners_b);
    let (caller, callee, seen) = greet(&a, &listener, to).await?;
    assert_eq!(caller.peer_addr()?, to, "the caller sees what it asked for");
    assert_eq!(caller.local_addr()?.ip(), family(&a, v6), "and its own address");
    assert_eq!(seen.ip(), family(&a, v6), "accept shows the real caller");
    assert_eq!(callee.peer_addr()?, seen);
    assert_eq!(callee.local_addr()?, to);
    assert_eq!(counter(&node, "connect", "steered"), 1);
    assert_eq!(counter(&node, "lookup", "to_outbound"), 1);
    assert_eq!(counter(&node, "lookup", "to_inbound"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steered_connection_looks_untouched_to_both_applications_v4() -> Result<()> {
    both_ends_see_each_other(false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steered_connection_looks_untouched_to_both_applications_v6() -> Result<()> {
    both_ends_see_each_other(true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_v4_mapped_destination_is_steered() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    members(&node, &[&a, &b])?;
    let listener = b.listen(SocketAddr::new(b.v4, 8080))?;
    let (pod_a, listeners_a) = a.enroll(&node, true)?;
    let (pod_b, listeners_b) = b.enroll(&node, true)?;
    relay(pod_a.dialer(), listeners_a);
    relay(pod_b.dialer(), listeners_b);
    let IpAddr::V4(v4) = b.v4 else { anyhow::bail!("the first address is IPv4") };
    let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), 8080);
    let (caller, _callee, seen) = greet(&a, &listener, mapped).await?;
    assert_eq!(caller.peer_addr()?, mapped);
    assert_eq!(seen.ip(), a.v4);
    assert_eq!(counter(&node, "connect", "steered"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_not_enrolled_is_not_touched() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    let listener = b.listen(SocketAddr::new(b.v4, 8080))?;
    let (caller, _callee, seen) = greet(&a, &listener, SocketAddr::new(b.v4, 8080)).await?;
    assert_eq!(seen, caller.local_addr()?);
    assert_eq!(counter(&node, "connect", "steered"), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_is_refused_when_strict_and_let_in_when_permissive() -> Result<()> {
    let lab = Lab::new()?;
    let (stranger, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    leave_outside(&node, &[&stranger])?;
    members(&node, &[&b])?;
    let to = SocketAddr::new(b.v4, 8080);
    let listener = b.listen(to)?;
    let (pod, _listeners) = b.enroll(&node, true)?;
    let refused = stranger.connect(to).await.expect_err("strict refuses plaintext");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(counter(&node, "lookup", "refused_plaintext"), 1);
    pod.set_terms(Terms { strict: false, ..b.terms() })?;
    let (caller, _callee, seen) = greet(&stranger, &listener, to).await?;
    assert_eq!(seen, caller.local_addr()?, "permissive does not touch it");
    assert_eq!(counter(&node, "lookup", "passed_plaintext"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_nobody_listens_on_is_refused_by_the_kernel() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    leave_outside(&node, &[&a])?;
    members(&node, &[&a, &b])?;
    let (pod, _listeners) = b.enroll(&node, false)?;
    let to = SocketAddr::new(b.v4, 8080);
    let refused = a.connect(to).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(counter(&node, "lookup", "to_inbound"), 0);
    assert_eq!(counter(&node, "lookup", "refused_nobody_listens"), 1);
    // Listening is seen when it begins, and when it ends.
    let listener = b.listen(to)?;
    assert_eq!(counter(&node, "establish", "listen_seen"), 1);
    let _waiting = a.connect(to).await?;
    assert_eq!(counter(&node, "lookup", "to_inbound"), 1);
    drop(listener);
    assert_eq!(counter(&node, "establish", "listen_ended"), 1);
    pod.set_terms(Terms { strict: true, ..b.terms() })?;
    a.connect(to).await.expect_err("nobody listens any more");
    assert_eq!(counter(&node, "lookup", "refused_nobody_listens"), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_agent_enrolled_pods_are_refused_and_all_else_flows() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b, outside) = (lab.place("cart-0")?, lab.place("web-0")?, lab.place("other-0")?);
    let to = SocketAddr::new(b.v4, 8080);
    let _listener = b.listen(to)?;
    let elsewhere = outside.listen(SocketAddr::new(outside.v4, 8080))?;
    {
        let node = Node::start(&lab.settings)?;
        members(&node, &[&a, &b])?;
        a.enroll(&node, false)?;
        b.enroll(&node, false)?;
    }
    let refused = a.connect(to).await.expect_err("there is no agent");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    greet(&a, &elsewhere, SocketAddr::new(outside.v4, 8080)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_adopts_what_is_pinned_and_serves() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let to = SocketAddr::new(b.v4, 8080);
    let listener = b.listen(to)?;
    let first = Node::start(&lab.settings)?;
    assert!(first.hooks().iter().all(|hook| hook.attached && !hook.adopted));
    members(&first, &[&a, &b])?;
    a.enroll(&first, true)?;
    b.enroll(&first, true)?;
    drop(first);
    let second = Node::start(&lab.settings)?;
    assert!(second.hooks().iter().all(|hook| hook.attached && hook.adopted));
    let (pod_a, listeners_a) = a.enroll(&second, true)?;
    let (pod_b, listeners_b) = b.enroll(&second, true)?;
    relay(pod_a.dialer(), listeners_a);
    relay(pod_b.dialer(), listeners_b);
    greet(&a, &listener, to).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_agent_left_for_other_pods_is_forgotten() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let to = SocketAddr::new(b.v4, 8080);
    let listener = b.listen(to)?;
    let first = Node::start(&lab.settings)?;
    members(&first, &[&a, &b])?;
    a.enroll(&first, true)?;
    b.enroll(&first, true)?;
    drop(first);
    let second = Node::start(&lab.settings)?;
    second.set_members(std::iter::empty())?;
    second.retain(&[])?;
    greet(&a, &listener, to).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawn_pod_is_as_it_was() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let sysctl = |place: &Place| {
        let path = "/proc/sys/net/ipv4/tcp_tw_reuse";
        place.netns.run(|| std::fs::read_to_string(path)).map(|text| text.trim().to_owned())
    };
    let before = sysctl(&b)?;
    let to = SocketAddr::new(b.v4, 8080);
    let listener = b.listen(to)?;
    let node = Node::start(&lab.settings)?;
    leave_outside(&node, &[&a])?;
    members(&node, &[&a, &b])?;
    let (pod, listeners) = b.enroll(&node, true)?;
    assert_eq!(sysctl(&b)?, "1");
    pod.withdraw()?;
    drop(listeners);
    assert_eq!(sysctl(&b)?, before);
    let (caller, _callee, seen) = greet(&a, &listener, to).await?;
    assert_eq!(seen, caller.local_addr()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_bound_to_a_device_is_steered_too() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    members(&node, &[&a, &b])?;
    let to = SocketAddr::new(b.v4, 8080);
    let listener = b.listen(to)?;
    let (pod_a, listeners_a) = a.enroll(&node, true)?;
    let (pod_b, listeners_b) = b.enroll(&node, true)?;
    relay(pod_a.dialer(), listeners_a);
    relay(pod_b.dialer(), listeners_b);
    let caller =
        a.connect_with(to, Protocol::TCP, |socket| socket.bind_device(Some(b"eth0"))).await?;
    let (_callee, seen) = timeout(PATIENCE, listener.accept()).await??;
    assert_eq!(caller.peer_addr()?, to);
    assert_eq!(seen.ip(), a.v4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_uses_mptcp_is_steered() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    members(&node, &[&a, &b])?;
    let to = SocketAddr::new(b.v4, 8080);
    let listener = b.listen(to)?;
    for place in [&a, &b] {
        let (pod, listeners) = place.enroll(&node, true)?;
        relay(pod.dialer(), listeners);
    }
    let mut caller = a.connect_with(to, Protocol::MPTCP, |_| Ok(())).await?;
    let (mut callee, seen) = timeout(PATIENCE, listener.accept()).await??;
    assert_eq!(seen.ip(), a.v4);
    caller.write_all(b"ping").await?;
    let mut word = [0; 4];
    timeout(PATIENCE, callee.read_exact(&mut word)).await??;
    assert_eq!(&word, b"ping");
    assert_eq!(counter(&node, "connect", "steered"), 1);
    assert_eq!(counter(&node, "lookup", "to_outbound"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_was_not_declared_is_refused_when_strict() -> Result<()> {
    let lab = Lab::new()?;
    let (stranger, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    node.set_members(std::iter::once((b.v4, Membership::workload(b.party()))))?;
    let undeclared = SocketAddr::new(b.v6, 8080);
    let listener = b.listen(undeclared)?;
    let pod = node.enroll(&b.netns, &[b.v4], Terms { strict: true, ..b.terms() })?;
    let refused = stranger.connect(undeclared).await.expect_err("strict refuses plaintext");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(counter(&node, "lookup", "refused_undeclared_address"), 1);
    // What the pod does within itself is its own business.
    greet(&b, &listener, undeclared).await?;
    pod.set_terms(Terms { strict: false, ..b.terms() })?;
    greet(&stranger, &listener, undeclared).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_bound_to_a_second_address_is_steered() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    a.pod.ip("addr add 10.1.0.200/32 dev eth0\n")?;
    let second: IpAddr = "10.1.0.200".parse()?;
    let node = Node::start(&lab.settings)?;
    members(&node, &[&a, &b])?;
    let to = SocketAddr::new(b.v4, 8080);
    let listener = b.listen(to)?;
    let mut pod =
        node.enroll(&a.netns, &[a.v4, a.v6, second], Terms { strict: true, ..a.terms() })?;
    relay(pod.dialer(), pod.take_listeners().context("listeners")?);
    let (pod_b, listeners_b) = b.enroll(&node, true)?;
    relay(pod_b.dialer(), listeners_b);
    let bind = move |socket: &socket2::Socket| socket.bind(&SocketAddr::new(second, 0).into());
    let caller = a.connect_with(to, Protocol::TCP, bind).await?;
    timeout(PATIENCE, listener.accept()).await??;
    assert_eq!((caller.local_addr()?.ip(), caller.peer_addr()?), (second, to));
    assert_eq!(counter(&node, "lookup", "to_outbound"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_connection_to_its_own_low_port_stays_its_own() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.place("cart-0")?;
    let node = Node::start(&lab.settings)?;
    members(&node, &[&a])?;
    let _enrolled = a.enroll(&node, true)?;
    // One of the ports that steered connections go to.
    let to = SocketAddr::new(a.v4, 873);
    let listener = a.listen(to)?;
    let (caller, _callee, seen) = greet(&a, &listener, to).await?;
    assert_eq!(seen, caller.local_addr()?);
    assert_eq!(counter(&node, "establish", "published_own"), 1);
    assert_eq!(counter(&node, "lookup", "to_outbound"), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_failed_lends_its_caller_to_no_later_connection() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.place("cart-0")?;
    let node = Node::start(&lab.settings)?;
    members(&node, &[&a])?;
    let to = SocketAddr::new(a.v4, 8080);
    let (pod, _listeners) = a.enroll(&node, true)?;
    // Only one source port, so that both connections have the same.
    a.pod.netns().set_sysctls(&[("ipv4/ip_local_port_range", "40000 40000")])?;
    let caller = "10.9.9.9:1234".parse()?;
    pod.dialer().connect(to, Some(caller)).await.expect_err("nobody listens");
    assert_eq!(counter(&node, "establish", "published_client"), 1);
    let listener = a.listen(to)?;
    let (own, _callee, seen) = greet(&a, &listener, to).await?;
    assert_eq!(own.local_addr()?.port(), 40_000);
    assert_eq!(seen, own.local_addr()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_used_again_shows_its_real_peer() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    leave_outside(&node, &[&a])?;
    members(&node, &[&a, &b])?;
    let (failing, working) = (SocketAddr::new(b.v4, 9999), SocketAddr::new(b.v4, 8080));
    let _listener = b.listen(working)?;
    let (pod, listeners) = a.enroll(&node, true)?;
    // Nobody accepts: steered, and then refused since the listeners are gone.
    drop(listeners);
    let socket = a.netns.run(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        let refused = socket.connect(&failing.into()).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        Ok(socket)
    })?;
    assert_eq!(counter(&node, "connect", "steered"), 1);
    pod.withdraw()?;
    socket.connect(&working.into())?;
    assert_eq!(socket.peer_addr()?.as_socket(), Some(working));
    Ok(())
}

#[test]
fn a_missing_feature_is_named() -> Result<()> {
    let mut lab = Lab::new()?;
    assert_eq!(missing_features(&lab.settings), []);
    lab.settings.without = vec![Feature::SkLookup];
    let missing = missing_features(&lab.settings);
    assert_eq!(missing.len(), 1);
    assert!(missing[0].to_string().contains("sk-lookup"), "{}", missing[0]);
    lab.settings.without = vec![];
    lab.settings.cgroup = "/proc".into();
    let missing = missing_features(&lab.settings);
    assert!(missing[0].to_string().contains("cgroup-v2"), "{}", missing[0]);
    Ok(())
}
