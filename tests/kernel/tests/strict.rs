//! What a pod has open in plaintext when it becomes strict: what ends, and what does not.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use martlet_kernel::{Feature, Node, Pod, Settings, Terms};
use martlet_lab::{PORT, Stage, address, wait_for};
use martlet_tests_kernel::{Lab, Place, arrives, leave_outside, members, relay, strict::World};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(10);
const RESET: &[io::ErrorKind] = &[io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionAborted];

/// Both ends of a connection.
struct Pair(TcpStream, TcpStream);

impl Pair {
    async fn open(from: &Place, to: &Place, to_address: SocketAddr) -> Result<Pair> {
        Pair::on(from, &to.listen(to_address)?).await
    }

    async fn on(from: &Place, listener: &TcpListener) -> Result<Pair> {
        let one = timeout(PATIENCE, from.connect(listener.local_addr()?)).await??;
        let (other, _) = timeout(PATIENCE, listener.accept()).await??;
        let mut pair = Pair(one, other);
        pair.greet().await?;
        Ok(pair)
    }

    /// A word each way.
    async fn greet(&mut self) -> Result<()> {
        say(&mut self.0, &mut self.1).await?;
        say(&mut self.1, &mut self.0).await
    }

    /// Neither end has to send anything to be told.
    async fn expect_reset(mut self) -> Result<()> {
        for end in [&mut self.0, &mut self.1] {
            let error = timeout(PATIENCE, end.read_u8()).await?.expect_err("it was reset");
            assert!(RESET.contains(&error.kind()), "{error:?}");
        }
        Ok(())
    }
}

async fn say(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    from.write_all(b"ping").await?;
    let mut word = [0; 4];
    timeout(PATIENCE, to.read_exact(&mut word)).await??;
    assert_eq!(&word, b"ping");
    Ok(())
}

fn enroll(node: &Node, place: &Place, strict: bool) -> Result<Pod> {
    let (pod, listeners) = place.enroll(node, strict)?;
    relay(pod.dialer(), listeners);
    Ok(pod)
}

/// What the pod `web` has open, by what must become of it.
struct Open {
    ends: Vec<Pair>,
    stays: Vec<Pair>,
}

impl Open {
    /// In both families: with a pod of the mesh and with one outside, in both directions; inside
    /// the pod over loopback and over its own address.
    async fn all(web: &Place, cart: &Place, outside: &Place) -> Result<Open> {
        let (mut ends, mut stays) = (Vec::new(), Vec::new());
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        for (number, loopback) in loopback.into_iter().enumerate() {
            let at = |place: &Place| SocketAddr::new(place.addresses()[number], PORT);
            let listener = web.listen(at(web))?;
            ends.push(Pair::on(cart, &listener).await?);
            ends.push(Pair::on(outside, &listener).await?);
            ends.push(Pair::open(web, cart, at(cart)).await?);
            stays.push(Pair::open(web, outside, at(outside)).await?);
            stays.push(Pair::on(web, &listener).await?);
            stays.push(Pair::open(web, web, SocketAddr::new(loopback, 0)).await?);
        }
        Ok(Open { ends, stays })
    }

    async fn greet(&mut self) -> Result<()> {
        for pair in self.ends.iter_mut().chain(&mut self.stays) {
            pair.greet().await?;
        }
        Ok(())
    }

    async fn expect_half(mut self) -> Result<()> {
        for pair in &mut self.stays {
            pair.greet().await?;
        }
        for pair in self.ends {
            pair.expect_reset().await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_becomes_strict_keeps_what_it_opened_to_the_outside_and_has_inside() -> Result<()>
{
    let lab = Lab::new()?;
    let [web, cart, outside] = ["web-0", "cart-0", "shop-0"].map(|name| lab.place(name));
    let (web, cart, outside) = (web?, cart?, outside?);
    let node = Node::start(&lab.settings)?;
    let pod = enroll(&node, &web, false)?;
    let mut open = Open::all(&web, &cart, &outside).await?;
    members(&node, &[&web, &cart])?;
    assert!(pod.close_plaintext()?.ended.is_empty(), "permissive");
    open.greet().await?;
    pod.set_terms(Terms { strict: true, ..web.terms() })?;
    let closing = pod.close_plaintext()?;
    assert_eq!((closing.ended.len(), closing.left), (open.ends.len(), 0), "{closing:?}");
    assert_eq!(closing.ended.iter().filter(|ended| ended.is_outbound).count(), 2);
    open.expect_half().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_pod_that_is_enrolled_as_strict_keeps_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let [web, cart, outside] = ["web-0", "cart-0", "shop-0"].map(|name| lab.place(name));
    let (web, cart, outside) = (web?, cart?, outside?);
    let listeners = web.addresses().map(|ip| web.listen(SocketAddr::new(ip, PORT + 1)));
    let open = Open::all(&web, &cart, &outside).await?;
    let mut listened = Vec::new();
    for listener in &listeners {
        let listener = listener.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
        listened.push(Pair::on(&outside, listener).await?);
    }
    let node = Node::start(&lab.settings)?;
    members(&node, &[&web, &cart])?;
    let pod = enroll(&node, &web, true)?;
    let closing = pod.close_plaintext()?;
    assert_eq!(closing.ended.len(), open.ends.len() + listened.len(), "{closing:?}");
    for pair in listened {
        pair.expect_reset().await?;
    }
    open.expect_half().await
}

/// By a socket whose cgroup has no hooks, as when somebody has taken all hooks away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permissive_pod_loses_what_nobody_steered_and_keeps_what_is_older() -> Result<()> {
    let world = World::new()?;
    let (cart, web) = (&world.caller, &world.callee);
    let mut older = Pair::open(cart, web, SocketAddr::new(web.v4, 0)).await?;
    let node = Node::start(&world.lab.settings)?;
    let (caller, _callee) = (enroll(&node, cart, false)?, enroll(&node, web, false)?);
    members(&node, &[cart, web])?;
    assert!(caller.close_plaintext()?.ended.is_empty());
    let to = SocketAddr::new(web.v4, PORT);
    let mut unsteered = world.foreign_socket(to)?;
    unsteered.connect(&to.into())?;
    older.greet().await?;
    let closing = caller.close_plaintext()?;
    let ended: Vec<_> = closing.ended.iter().map(|end| (end.remote, end.is_outbound)).collect();
    assert_eq!((ended, closing.left), (vec![(to, true)], 0));
    let error = unsteered.read(&mut [0]).expect_err("it was reset");
    assert!(RESET.contains(&error.kind()), "{error:?}");
    older.greet().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_pods_connections_end_when_their_peer_joins_the_mesh_and_no_others() -> Result<()>
{
    let lab = Lab::new()?;
    let [web, cart, outside] = ["web-0", "cart-0", "shop-0"].map(|name| lab.place(name));
    let (web, cart, outside) = (web?, cart?, outside?);
    let node = Node::start(&lab.settings)?;
    members(&node, &[&web])?;
    let pod = enroll(&node, &web, true)?;
    let mut open = Vec::new();
    for (number, ip) in cart.addresses().into_iter().enumerate() {
        let joins = Pair::open(&web, &cart, SocketAddr::new(ip, PORT)).await?;
        let stays = SocketAddr::new(outside.addresses()[number], PORT);
        open.push((joins, Pair::open(&web, &outside, stays).await?));
    }
    assert!(pod.close_plaintext()?.ended.is_empty(), "nobody has joined");
    members(&node, &[&web, &cart])?;
    assert_eq!(pod.close_plaintext()?.ended.len(), 2);
    for (joined, mut stays) in open {
        joined.expect_reset().await?;
        stays.greet().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_own_connections_are_never_closed() -> Result<()> {
    let lab = Lab::new()?;
    let (web, cart) = (lab.place("web-0")?, lab.place("cart-0")?);
    let node = Node::start(&lab.settings)?;
    members(&node, &[&web, &cart])?;
    let pods = [enroll(&node, &web, true)?, enroll(&node, &cart, true)?];
    let mut open = Vec::new();
    for ip in web.addresses() {
        open.push(Pair::open(&cart, &web, SocketAddr::new(ip, PORT)).await?);
    }
    for pod in &pods {
        let closing = pod.close_plaintext()?;
        assert!(closing.ended.is_empty(), "{closing:?}");
    }
    for pair in &mut open {
        pair.greet().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_kernel_cannot_close_it_is_said_and_the_guard_refuses() -> Result<()> {
    let lab = Lab::new()?;
    let (web, outside) = (lab.place("web-0")?, lab.place("shop-0")?);
    let settings = Settings { without: vec![Feature::SockDestroy], ..lab.settings.clone() };
    let node = Node::start(&settings)?;
    members(&node, &[&web])?;
    leave_outside(&node, &[&outside])?;
    let pod = enroll(&node, &web, false)?;
    let mut pair = Pair::open(&outside, &web, SocketAddr::new(web.v4, PORT)).await?;
    pair.greet().await?;
    pod.set_terms(Terms { strict: true, ..web.terms() })?;
    let closing = pod.close_plaintext()?;
    assert_eq!((closing.ended.len(), closing.left), (0, 1));
    let sent = arrives(&outside, &web, false, |canary| pair.0.try_write(canary).map(drop))?;
    assert!(!sent, "strict");
    drop(pair);
    wait_for("the connection to end", PATIENCE, || {
        Ok((pod.close_plaintext()?.left == 0).then_some(()))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_are_closed_within_a_second() -> Result<()> {
    let lab = Lab::new()?;
    let (web, outside) = (lab.place("web-0")?, lab.place("shop-0")?);
    let node = Node::start(&lab.settings)?;
    members(&node, &[&web])?;
    leave_outside(&node, &[&outside])?;
    let pod = enroll(&node, &web, false)?;
    let mut open = Vec::new();
    for ip in web.addresses() {
        let listener = web.listen(SocketAddr::new(ip, PORT))?;
        for _ in 0..500 {
            open.push(Pair::on(&outside, &listener).await?);
        }
    }
    let begun = Instant::now();
    pod.set_terms(Terms { strict: true, ..web.terms() })?;
    let closing = pod.close_plaintext()?;
    let took = begun.elapsed();
    println!("{} connections were closed in {took:?}", closing.ended.len());
    assert_eq!(closing.ended.len(), 1000);
    assert!(took < Duration::from_secs(1), "{took:?}");
    for pair in open {
        pair.expect_reset().await?;
    }
    Ok(())
}

/// The whole way: the node file says strict, and every old connection ends, with a record.
#[test]
fn when_the_node_file_says_strict_old_plaintext_ends_within_a_second_and_is_recorded() -> Result<()>
{
    let mut stage = Stage::prepare("permissive", |_| {})?;
    stage.launch()?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    let _other = stage.outside.serve(&["--then", "echo"])?;
    let ask = |from: &martlet_lab::Pod, to: SocketAddr| {
        let to = to.to_string();
        let arguments = ["crowd", "--to", &to, "--connections", "10", "--until-input-ends"];
        let mut running = from.probe(&arguments)?.with_input().spawn()?;
        let first = running.wait_until_listening()?;
        assert_eq!(first["echoed"], 10, "{first}");
        anyhow::Ok(running)
    };
    let mut plain = Vec::new();
    let mut stays = Vec::new();
    for (far, outside) in stage.far.addresses().into_iter().zip(stage.outside.addresses()) {
        plain.push(ask(&stage.stranger, SocketAddr::new(far, PORT))?);
        stays.push(ask(&stage.far, SocketAddr::new(outside, PORT))?);
        stays.push(ask(&stage.caller, SocketAddr::new(far, PORT))?);
    }
    let far = stage.far.clone();
    stage.mesh.enroll(&far, "shop", "web", "strict");
    let begun = Instant::now();
    stage.two.reload(&stage.mesh)?;
    let stranger = stage.stranger.addresses();
    let closed = || {
        let records = stage.two.records()?.into_iter();
        let ours = records.filter(|record| record["closed"] == "plaintext_unwanted");
        anyhow::Ok(ours.collect::<Vec<_>>())
    };
    wait_for("a record of each", PATIENCE, || Ok((closed()?.len() == 20).then_some(())))?;
    println!("20 connections were closed {:?} after the new file", begun.elapsed());
    for record in closed()? {
        let from = address(&record["source"]["address"]).context("no source")?;
        assert!(stranger.contains(&from.ip()), "{record}");
        assert_eq!(record["protection"], "plaintext", "{record}");
        assert_eq!(record["reporter"], "destination", "{record}");
        assert_eq!(record["destination"]["workload"]["name"], "far", "{record}");
    }
    let told = stage.two.metric("martlet_connections_closed_total", &["plaintext_unwanted"])?;
    assert!((told - 20.0).abs() < 0.5, "{told}");
    assert!(stage.two.log().contains("plaintext connections were closed"));
    for mut running in plain {
        running.close_input();
        let seen = running.wait(PATIENCE)?.json()?;
        assert_eq!((&seen["echoed"], &seen["errors"]["ECONNRESET"]), (&0.into(), &10.into()));
    }
    for mut running in stays {
        running.close_input();
        assert_eq!(running.wait(PATIENCE)?.json()?["echoed"], 10);
    }
    Ok(())
}
