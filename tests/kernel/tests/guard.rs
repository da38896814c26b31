//! The guard's own life, and what it must let through. What it must not is in `escape.rs`.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use martlet_kernel::{Feature, KernelError, Node, Pod, Settings, Terms};
use martlet_lab::wait_for;
use martlet_tests_kernel::{
    Lab, Place, arrives, members,
    packets::{Ip, PORT, PUSH_ACK, SYN, TCP, tcp, tcp_between},
    raw, relay, tamper,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn counter(node: &Node, verdict: &str) -> u64 {
    let counters = node.counters().expect("counters can be read");
    let found = counters.iter().find(|c| c.hook == "guard" && c.verdict == verdict);
    found.expect("the counter exists").count
}

/// Enrolled, with the relay as their agent.
fn enroll(node: &Node, places: &[&Place], strict: bool) -> Result<Vec<Pod>> {
    members(node, places)?;
    let enroll = |place: &&Place| {
        let (pod, listeners) = place.enroll(node, strict)?;
        relay(pod.dialer(), listeners);
        Ok(pod)
    };
    places.iter().map(enroll).collect()
}

/// Whether plaintext in a packet made by hand arrives.
fn forged_arrives(from: &Place, to: &Place, is_expected: bool) -> Result<bool> {
    arrives(from, to, is_expected, |canary| {
        let payload = tcp(PUSH_ACK, canary);
        let packet = Ip::new(from.v4, to.v4, TCP, &payload).bytes();
        from.netns.run(|| raw::send_packet(to.v4, &packet))
    })
}

/// The names of the guard's pinned links.
fn pinned(settings: &Settings) -> Result<Vec<PathBuf>> {
    let version = fs::read_dir(&settings.pin)?.next().context("a version is pinned")??;
    let links = fs::read_dir(version.path().join("links"))?.flatten().map(|entry| entry.path());
    let mut links: Vec<_> =
        links.filter(|path| path.to_string_lossy().contains("martlet_guard_")).collect();
    links.sort();
    Ok(links)
}

/// Where the guard is attached, of these interfaces of the node and in both directions: by links, or
/// before Linux 6.6 by filters.
fn attached(lab: &Lab, interfaces: &[&str]) -> Result<Vec<PathBuf>> {
    let mut all = pinned(&lab.settings)?;
    for (interface, direction) in
        interfaces.iter().flat_map(|name| [(name, "ingress"), (name, "egress")])
    {
        let shown = tc(lab, &["filter", "show", "dev", interface, direction])?;
        if shown.contains("martlet_guard_") {
            all.push(PathBuf::from(interface).join(direction));
        }
    }
    Ok(all)
}

/// What tc(8) says in the node's network namespace; nothing about an interface that is gone.
fn tc(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let output = lab.node.netns().run(|| Command::new("tc").args(arguments).output())??;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As somebody does who may administer the node's network.
fn detach(lab: &Lab, interfaces: &[&str]) -> Result<()> {
    pinned(&lab.settings)?.iter().try_for_each(|link| tamper::detach(link))?;
    let detach = |name: &&str| tc(lab, &["qdisc", "del", "dev", name, "clsact"]).map(drop);
    interfaces.iter().try_for_each(detach)
}

/// A word each way.
async fn greet(one: &mut TcpStream, other: &mut TcpStream) -> Result<()> {
    let mut word = [0; 4];
    one.write_all(b"ping").await?;
    timeout(PATIENCE, other.read_exact(&mut word)).await??;
    assert_eq!(&word, b"ping");
    other.write_all(b"pong").await?;
    timeout(PATIENCE, one.read_exact(&mut word)).await??;
    assert_eq!(&word, b"pong");
    Ok(())
}

async fn connected(from: &Place, listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let mut caller = timeout(PATIENCE, from.connect(listener.local_addr()?)).await??;
    let (mut callee, _) = timeout(PATIENCE, listener.accept()).await??;
    greet(&mut caller, &mut callee).await?;
    Ok((caller, callee))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_outlives_its_agent_and_leaves_with_its_pod() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let listener = b.listen(SocketAddr::new(b.v4, PORT))?;
    assert!(forged_arrives(&a, &b, true)?, "not enrolled");
    let node = Node::start(&lab.settings)?;
    let pods = enroll(&node, &[&a, &b], true)?;
    let ends = [&a, &b].map(|place| place.pod.host_interface());
    let guards = || attached(&lab, &ends.each_ref().map(|name| name.as_str()));
    let links = guards()?;
    assert_eq!(links.len(), 4, "two pods, two directions: {links:?}");
    assert!(!forged_arrives(&a, &b, false)?, "enrolled");
    drop((pods, node));
    assert!(!forged_arrives(&a, &b, false)?, "without an agent");

    let node = Node::start(&lab.settings)?;
    let pods = enroll(&node, &[&a, &b], true)?;
    assert_eq!(guards()?, links, "taken over");
    assert!(!forged_arrives(&a, &b, false)?);
    let before = counter(&node, "passed_agent");
    connected(&a, &listener).await?;
    assert!(counter(&node, "passed_agent") > before, "it knows the next agent's sockets");
    for pod in pods {
        pod.withdraw()?;
    }
    assert!(guards()?.is_empty());
    assert!(forged_arrives(&a, &b, true)?, "withdrawn");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_somebody_detached_is_put_back() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    let pods = enroll(&node, &[&a, &b], true)?;
    let ends = [&a, &b].map(|place| place.pod.host_interface());
    let ends = ends.each_ref().map(|name| name.as_str());
    detach(&lab, &ends)?;
    assert!(forged_arrives(&a, &b, true)?, "detached");
    for pod in &pods {
        pod.keep_guard()?;
    }
    assert_eq!(attached(&lab, &ends)?.len(), 4);
    assert!(!forged_arrives(&a, &b, false)?, "put back");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_interface_is_guarded_when_it_comes_and_forgotten_when_it_goes() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.place("cart-0")?;
    let node = Node::start(&lab.settings)?;
    let pods = enroll(&node, &[&a], true)?;
    let first = a.pod.host_interface();
    let guards = || attached(&lab, &[&first, "second"]);
    assert_eq!(guards()?.len(), 2);
    let host = lab.node.netns().name();
    a.pod.ip(&format!("link add net1 type veth peer name second netns {host}\n"))?;
    // What stays inside the pod leads nowhere.
    a.pod.ip("link add here type veth peer name there\n")?;
    pods[0].keep_guard()?;
    assert_eq!(guards()?.len(), 4);
    a.pod.ip("link del net1\n")?;
    pods[0].keep_guard()?;
    assert_eq!(guards()?.len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interface_that_leads_elsewhere_is_named_and_the_pod_is_steered_all_the_same()
-> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let listener = b.listen(SocketAddr::new(b.v4, PORT))?;
    // As if the pods were nested in another one.
    let settings = Settings { host: "/proc/self/ns/net".into(), ..lab.settings.clone() };
    let node = Node::start(&settings)?;
    let pods = enroll(&node, &[&a, &b], true)?;
    let error = pods[0].keep_guard().err().context("it can't be guarded")?;
    assert!(matches!(error, KernelError::NotGuarded { .. }), "{error:?}");
    let expected = "its interface eth0 can't be guarded: \
        its other end is not in the agent's network namespace";
    assert_eq!(error.to_string(), expected);
    connected(&a, &listener).await?;
    assert!(pinned(&settings)?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_kernel_has_no_tcx_the_guard_is_a_filter() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let listener = b.listen(SocketAddr::new(b.v4, PORT))?;
    let settings = Settings { without: vec![Feature::Tcx], ..lab.settings.clone() };
    for _ in 0..2 {
        let node = Node::start(&settings)?;
        let pods = enroll(&node, &[&a, &b], true)?;
        pods.iter().try_for_each(Pod::keep_guard)?;
        assert!(pinned(&settings)?.is_empty(), "no tcx link");
        assert!(!forged_arrives(&a, &b, false)?, "with an agent");
        connected(&a, &listener).await?;
        drop((pods, node));
        assert!(!forged_arrives(&a, &b, false)?, "without an agent");
    }
    let node = Node::start(&settings)?;
    for pod in enroll(&node, &[&a, &b], true)? {
        pod.withdraw()?;
    }
    assert!(forged_arrives(&a, &b, true)?, "withdrawn");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_that_began_by_right_goes_on_until_the_pod_is_strict() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let listener = b.listen(SocketAddr::new(b.v4, PORT))?;
    let (mut older_a, mut older_b) = connected(&a, &listener).await?;
    let node = Node::start(&lab.settings)?;
    members(&node, &[&a])?;
    let (pod_a, listeners) = a.enroll(&node, false)?;
    relay(pod_a.dialer(), listeners);
    // Begun by an enrolled pod with one that is not enrolled yet.
    let (mut later_a, mut later_b) = connected(&a, &listener).await?;
    members(&node, &[&a, &b])?;
    let (pod_b, listeners) = b.enroll(&node, false)?;
    relay(pod_b.dialer(), listeners);
    greet(&mut older_a, &mut older_b).await?;
    greet(&mut later_a, &mut later_b).await?;
    assert!(counter(&node, "passed_older_connection") > 0);
    assert!(!forged_arrives(&a, &b, false)?, "nobody else gains by it");

    pod_b.set_terms(Terms { strict: true, ..b.terms() })?;
    for stream in [&older_a, &later_a] {
        let sent = arrives(&a, &b, false, |canary| stream.try_write(canary).map(drop))?;
        assert!(!sent, "strict: what was plaintext ends");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_pod_gets_answers_from_outside_the_mesh_and_nothing_else() -> Result<()> {
    let lab = Lab::new()?;
    let (a, outside) = (lab.place("cart-0")?, lab.place("shop-0")?);
    let listener = outside.listen(SocketAddr::new(outside.v4, PORT))?;
    let (mut older, mut old) = connected(&a, &listener).await?;
    let node = Node::start(&lab.settings)?;
    let _pods = enroll(&node, &[&a], true)?;
    connected(&a, &listener).await?;
    greet(&mut older, &mut old).await?;
    assert!(counter(&node, "passed_own_connection") > 0);
    assert!(!forged_arrives(&outside, &a, false)?, "not asked for");

    // A connection without a socket in the pod: of a machine or a namespace inside it.
    let (here, there) = (SocketAddr::new(a.v4, 7777), SocketAddr::new(outside.v4, 6666));
    let send = |from: &Place, source: SocketAddr, to: SocketAddr, flags, payload: &[u8]| {
        let segment = tcp_between(source.port(), to.port(), flags, payload);
        let packet = Ip::new(source.ip(), to.ip(), TCP, &segment).bytes();
        from.netns.run(|| raw::send_packet(to.ip(), &packet))
    };
    let answer = |canary: &[u8]| send(&outside, there, here, PUSH_ACK, canary);
    assert!(!arrives(&outside, &a, false, answer)?, "not opened yet");
    send(&a, here, there, SYN, b"")?;
    assert!(arrives(&outside, &a, true, answer)?, "opened by the pod");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_with_the_same_addresses_and_ports_inherits_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let listener = b.listen(SocketAddr::new(b.v4, PORT))?;
    let node = Node::start(&lab.settings)?;
    let _pods = enroll(&node, &[&a, &b], true)?;
    let (caller, callee) = connected(&a, &listener).await?;
    let lanes = || -> io::Result<Vec<u16>> {
        let IpAddr::V4(to) = b.v4 else { return Err(io::Error::other("IPv4 is first")) };
        let wanted = format!("{:08X}:{PORT:04X}", u32::from_ne_bytes(to.octets()));
        let table = a.netns.run(|| fs::read_to_string("/proc/thread-self/net/tcp"))?;
        let lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        let established = lines.filter(|fields| fields[2] == wanted && fields[3] == "01");
        let port = |fields: Vec<&str>| u16::from_str_radix(fields[1].split_once(':')?.1, 16).ok();
        Ok(established.filter_map(port).collect())
    };
    let port = *lanes()?.first().context("there is a lane")?;
    let forge = |canary: &[u8]| {
        let segment = tcp_between(port, PORT, PUSH_ACK, canary);
        let packet = Ip::new(a.v4, b.v4, TCP, &segment).bytes();
        a.netns.run(|| raw::send_packet(b.v4, &packet))
    };
    assert!(arrives(&a, &b, true, forge)?, "a pod can disturb its own lane");
    drop((caller, callee));
    wait_for("the lane to end", PATIENCE, || Ok(lanes()?.is_empty().then_some(())))?;
    assert!(!arrives(&a, &b, false, forge)?, "the lane has ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrow_path_is_discovered_under_the_guard() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    let _pods = enroll(&node, &[&a, &b], true)?;
    // Only the node's end: the pods' own ends promise more.
    let end = b.pod.host_interface();
    lab.node.command("ip").args(["link", "set", &end, "mtu", "1280"]).run()?.success()?;
    for ip in b.addresses() {
        let listener = b.listen(SocketAddr::new(ip, PORT))?;
        let (mut caller, mut callee) = connected(&a, &listener).await?;
        let bulk = vec![7; 1 << 20];
        let sending = tokio::spawn(async move {
            caller.write_all(&bulk).await?;
            caller.shutdown().await
        });
        let mut received = Vec::new();
        timeout(PATIENCE, callee.read_to_end(&mut received)).await??;
        assert_eq!(received.len(), 1 << 20, "{ip}");
        sending.await??;
    }
    assert!(counter(&node, "passed_control") > 0, "somebody was told of the path");
    Ok(())
}
