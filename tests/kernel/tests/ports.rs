//! What the kernel half knows of the ports on which applications listen: a steered caller is let
//! through to the agent as long as one socket listens, and refused at once when none does.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use anyhow::Result;
use martlet_kernel::{Listeners, Node, Pod};
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
    called.callee.listen(to)?;
    Ok(())
}
