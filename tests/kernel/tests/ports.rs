//! What the kernel half knows of the ports on which applications listen: a steered caller is let
//! through to the agent as long as one socket listens, and refused at once when none does.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use anyhow::{Context, Result};
use martlet_kernel::{Desertion, Listeners, Node, Pod};
use martlet_tests_kernel::{Lab, Place, leave_outside, members};
use socket2::{Domain, Socket, Type};

const PORT: u16 = 8080;

/// Listens with SO_REUSEPORT, so that several sockets can have the port.
fn listen_shared(place: &Place, at: IpAddr, only_v6: bool) -> Result<TcpListener> {
    let address = SocketAddr::new(at, PORT);
    let socket = place.netns.run(|| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if at.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        socket.bind(&address.into())?;
        socket.listen(16)?;
        Ok::<_, io::Error>(socket)
    })?;
    Ok(socket.into())
}

fn untold(node: &Node) -> Result<u64> {
    let counters = node.counters()?;
    let untold = counters.iter().find(|counter| counter.verdict == "listen_end_untold");
    Ok(untold.context("the counter exists")?.count)
}

/// A pod that others call; nobody serves its agent's listeners, so a connection that reaches them
/// stays open.
struct Called {
    node: Node,
    caller: Place,
    callee: Place,
}

impl Called {
    fn new(lab: &Lab) -> Result<Self> {
        let (caller, callee) = (lab.place("cart-0")?, lab.place("web-0")?);
        let node = Node::start(&lab.settings)?;
        leave_outside(&node, &[&caller])?;
        members(&node, &[&caller, &callee])?;
        Ok(Self { node, caller, callee })
    }

    fn enroll(&self) -> Result<(Pod, Listeners)> {
        self.callee.enroll(&self.node, false)
    }

    async fn is_reached(&self, at: IpAddr) -> Result<bool> {
        match self.caller.connect(SocketAddr::new(at, PORT)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_listened_on_until_its_last_socket_ends() -> Result<()> {
    let lab = Lab::new()?;
    let called = Called::new(&lab)?;
    let _enrolled = called.enroll()?;
    let v4 = called.callee.v4;
    let first = listen_shared(&called.callee, v4, false)?;
    let second = listen_shared(&called.callee, v4, false)?;
    assert!(called.is_reached(v4).await?);
    drop(first);
    assert!(called.is_reached(v4).await?, "one of two sockets still listens");
    drop(second);
    assert!(!called.is_reached(v4).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_counted_across_a_restart_of_the_agent() -> Result<()> {
    let lab = Lab::new()?;
    let mut called = Called::new(&lab)?;
    let enrolled = called.enroll()?;
    let v4 = called.callee.v4;
    let first = listen_shared(&called.callee, v4, false)?;
    let second = listen_shared(&called.callee, v4, false)?;
    drop(enrolled);
    let Called { node, caller, callee } = called;
    drop(node);
    // Nobody runs, but the programs watch.
    let third = listen_shared(&callee, v4, false)?;
    drop(first);
    called = Called { node: Node::start(&lab.settings)?, caller, callee };
    let _enrolled = called.enroll()?;
    assert!(called.is_reached(v4).await?);
    drop(second);
    assert!(called.is_reached(v4).await?, "the third socket still listens");
    drop(third);
    assert!(!called.is_reached(v4).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_older_than_the_enrollment_outlives_a_younger_one() -> Result<()> {
    let lab = Lab::new()?;
    let called = Called::new(&lab)?;
    let v4 = called.callee.v4;
    let _older = listen_shared(&called.callee, v4, false)?;
    let _enrolled = called.enroll()?;
    let younger = listen_shared(&called.callee, v4, false)?;
    drop(younger);
    assert!(called.is_reached(v4).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_while_nobody_watched_is_forgotten_by_the_next_agent() -> Result<()> {
    let lab = Lab::new()?;
    let called = Called::new(&lab)?;
    let v4 = called.callee.v4;
    let older = listen_shared(&called.callee, v4, false)?;
    let enrolled = called.enroll()?;
    assert!(called.is_reached(v4).await?);
    drop((older, enrolled));
    let _enrolled = called.enroll()?;
    assert!(!called.is_reached(v4).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_bound_to_any_address_is_reached_at_each_of_its_family() -> Result<()> {
    let lab = Lab::new()?;
    let called = Called::new(&lab)?;
    let _enrolled = called.enroll()?;
    let (v4, v6) = (called.callee.v4, called.callee.v6);
    let any4 = listen_shared(&called.callee, Ipv4Addr::UNSPECIFIED.into(), false)?;
    assert_eq!((called.is_reached(v4).await?, called.is_reached(v6).await?), (true, false));
    drop(any4);
    let any6 = listen_shared(&called.callee, Ipv6Addr::UNSPECIFIED.into(), false)?;
    assert_eq!((called.is_reached(v4).await?, called.is_reached(v6).await?), (true, true));
    drop(any6);
    let only6 = listen_shared(&called.callee, v6, true)?;
    assert_eq!((called.is_reached(v4).await?, called.is_reached(v6).await?), (false, true));
    drop(only6);
    let _loopback = listen_shared(&called.callee, Ipv4Addr::LOCALHOST.into(), false)?;
    assert_eq!((called.is_reached(v4).await?, called.is_reached(v6).await?), (false, false));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_pod_is_enrolled_again_without_a_moment_of_refusal() -> Result<()> {
    let lab = Lab::new()?;
    let called = Called::new(&lab)?;
    let v4 = called.callee.v4;
    let older = listen_shared(&called.callee, v4, false)?;
    let first = called.enroll()?;
    let (to, caller) = (SocketAddr::new(v4, PORT), called.caller.netns.clone());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let calling = std::thread::spawn(move || {
        let mut made = 0_u64;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            caller.run(|| std::net::TcpStream::connect(to).map(drop))?;
            made += 1;
        }
        Ok::<_, io::Error>(made)
    });
    // Of each enrollment the listeners are kept: another agent process would have closed them, and
    // then a refusal is right.
    let mut kept = vec![first];
    for _ in 0..50 {
        kept.push(called.enroll()?);
    }
    stop.send(())?;
    let made = calling.join().expect("the caller does not panic")?;
    assert!(made > 0);
    older.set_nonblocking(true)?;
    let met = older.accept().map_err(|error| error.kind());
    assert_eq!(met.err(), Some(io::ErrorKind::WouldBlock), "none reached the application itself");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_can_listen_again_while_lanes_are_open() -> Result<()> {
    let lab = Lab::new()?;
    let called = Called::new(&lab)?;
    let (_pod, listeners) = called.enroll()?;
    let to = SocketAddr::new(called.callee.v4, PORT);
    // As std does for every listener: with SO_REUSEADDR.
    let listener = called.callee.listen(to)?;
    let _caller = called.caller.connect(to).await?;
    let (_lane, _) = listeners.inbound[0].accept().await?;
    drop(listener);
    // Who does not set it depends on the agent, which has not heard of it here.
    let bare = called.callee.netns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&to.into())
    });
    assert_eq!(bare.map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
    called.callee.listen(to)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_listening_is_told_once_for_each_port_and_counted_if_it_cannot_be() -> Result<()>
{
    let lab = Lab::new()?;
    let mut called = Called::new(&lab)?;
    let _enrolled = called.enroll()?;
    let v4 = called.callee.v4;
    let at = |port| SocketAddr::new(v4, port);
    let end = |ports: std::ops::Range<u16>| -> Result<()> {
        ports.into_iter().try_for_each(|port| called.callee.listen(at(port)).map(drop))
    };
    end(8000..8002)?;
    let first = listen_shared(&called.callee, v4, false)?;
    let second = listen_shared(&called.callee, v4, false)?;
    drop(first);
    let stays = called.callee.listen(at(8001))?;
    assert_eq!(untold(&called.node)?, 0);
    let mut ends = called.node.take_desertions()?.expect("not taken before");
    let told = ends.next().await?;
    let mut ports: Vec<_> = told.iter().map(Desertion::port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [8000, 8001], "not {PORT}, where the second socket listens");
    for port in &told {
        // Where somebody listens again, and at other ports and addresses, nobody has to leave.
        let is_deserted = |ip, port_at| called.node.is_deserted(port, SocketAddr::new(ip, port_at));
        assert_eq!(is_deserted(v4, port.port())?, port.port() == 8000);
        assert!(!is_deserted(v4, PORT)? && !is_deserted(called.caller.v4, port.port())?);
    }
    drop((second, stays));
    // Nobody reads any more.
    end(10_000..12_000)?;
    let lost = untold(&called.node)?;
    assert!(lost > 0, "2,002 ends do not fit");
    assert!(lost < 1000, "{lost}: most do");
    Ok(())
}
