//! Who may probe a strict pod in plaintext: the prober at a declared port, and no look-alike.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use martlet_lab::{
    Agent, Canaries, Node, PORT, Pod, Running, Server, Sniffer, Stage, assert_refused, evidence,
    find_binary, wait_for,
};
use martlet_tests_kernel::{
    packets::{Ip, PUSH_ACK, SYN, TCP, checksum, tcp_between},
    raw,
};
use serde_json::Value;

const SEND: [&str; 4] = ["--then", "send", "--bytes", "1000"];
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the application listens too, and where nobody has declared a probe.
const OTHER: u16 = 9090;
const PROBER: &str = "kubelet";
/// Probes of each kind and family.
const ROUNDS: u64 = 25;

/// Pods of which `far` is probed on [`PORT`] and listens on [`OTHER`] too. No agent runs yet.
fn prepare(mode: &str) -> Result<Stage> {
    let mut stage = Stage::prepare(mode, |_| {})?;
    let far = stage.far.clone();
    stage.mesh.probes(&far, &[PORT]);
    for agent in [&mut stage.one, &mut stage.two] {
        fs::create_dir_all(agent.node().prober())?;
        *agent = Agent::prepare(&stage.mesh, &agent.node().clone())?;
    }
    Ok(stage)
}

fn stage(mode: &str) -> Result<Stage> {
    let mut stage = prepare(mode)?;
    stage.launch()?;
    Ok(stage)
}

fn serve(far: &Pod) -> Result<Server> {
    let at = |port| far.addresses().map(|ip| SocketAddr::new(ip, port));
    far.serve_on(&[at(PORT), at(OTHER)].concat(), &["--then", "echo"])
}

fn from_node(node: &Node, cgroup: &str, to: SocketAddr, then: &[&str]) -> Result<Value> {
    let to = to.to_string();
    let program = node.command_in(cgroup, find_binary("lab-probe")?);
    program.args(["connect", "--to", &to]).args(then).run()?.json()
}

fn passes(stage: &Stage, cgroup: &str) -> Result<()> {
    for ip in stage.far.addresses() {
        let probe = from_node(stage.far.node(), cgroup, SocketAddr::new(ip, PORT), &SEND)?;
        ensure!(probe["received"] == 1000 && probe["finished"] == true, "{cgroup}: {probe}");
    }
    Ok(())
}

fn is_refused(stage: &Stage, cgroup: &str, port: u16) -> Result<()> {
    for ip in stage.far.addresses() {
        let to = SocketAddr::new(ip, port);
        assert_refused(&from_node(stage.far.node(), cgroup, to, &["--then", "send"])?);
    }
    Ok(())
}

#[test]
fn the_prober_passes_at_a_declared_port_and_nobody_and_nothing_else_does() -> Result<()> {
    let stage = stage("strict")?;
    let _server = serve(&stage.far)?;
    for _ in 0..ROUNDS {
        passes(&stage, PROBER)?;
    }
    passes(&stage, "kubelet/below")?;
    is_refused(&stage, PROBER, OTHER).context("the prober at a port that was not declared")?;
    is_refused(&stage, "host", PORT).context("another program of the node")?;
    is_refused(&stage, "kubelets", PORT).context("a cgroup with a similar name")?;
    for ip in stage.near.addresses() {
        let to = SocketAddr::new(ip, PORT);
        assert_refused(&from_node(stage.one.node(), PROBER, to, &["--then", "send"])?);
    }
    for ip in stage.far.addresses() {
        let to = SocketAddr::new(ip, PORT);
        for pod in [&stage.outside, &stage.stranger] {
            assert_refused(&pod.connect(to, &["--then", "send"])?);
        }
        // Another node's prober is none of this node's.
        assert_refused(&from_node(stage.one.node(), PROBER, to, &["--then", "send"])?);
    }
    let probes = 2 * ROUNDS + 2;
    assert_eq!(stage.two.verdicts("lookup", "passed_probe")?, probes);
    let told = stage.two.metric("martlet_plaintext_connections_total", &["probe"])?;
    assert!((told - probes as f64).abs() < 0.5, "{told}");
    assert!(stage.two.log().contains("probes pass in plaintext"));
    // Enrolled callers are still met with mutual TLS at the same port.
    let to = SocketAddr::new(stage.far.v4(), PORT);
    let client = stage.caller.connect(to, &SEND)?;
    let [record, _] = stage.records(&client, &stage.far)?;
    assert_eq!(record["protection"], "mutual_tls", "{record}");
    evidence(
        "the_prober_passes_at_a_declared_port_and_nobody_and_nothing_else_does",
        &[("probes passed", &format!("{probes} of {probes}"))],
    )
}

#[test]
fn without_a_declaration_the_prober_is_refused_and_a_permissive_pod_lets_all_in() -> Result<()> {
    let mut stage = stage("permissive")?;
    let _server = serve(&stage.far)?;
    for cgroup in [PROBER, "host"] {
        passes(&stage, cgroup)?;
    }
    assert_eq!(stage.two.verdicts("lookup", "passed_probe")?, 0, "permissive");
    let far = stage.far.clone();
    stage.mesh.enroll(&far, "shop", "web", "strict");
    stage.two.reload(&stage.mesh)?;
    passes(&stage, PROBER)?;
    is_refused(&stage, "host", PORT)?;
    stage.mesh.probes(&far, &[OTHER]);
    stage.two.reload(&stage.mesh)?;
    is_refused(&stage, PROBER, PORT)?;
    Ok(())
}

#[test]
fn probes_pass_without_an_agent_and_after_a_restart_and_look_alikes_do_not() -> Result<()> {
    let mut stage = stage("strict")?;
    let _server = serve(&stage.far)?;
    stage.two.kill()?;
    passes(&stage, PROBER)?;
    is_refused(&stage, "host", PORT)?;
    let cgroup = stage.far.node().prober();
    wait_for("the cgroup to be empty", PATIENCE, || Ok(fs::remove_dir(&cgroup).ok()))?;
    fs::create_dir(&cgroup)?;
    is_refused(&stage, PROBER, PORT).context("another cgroup at the prober's path")?;
    stage.two.restart()?;
    stage.two.wait_until_ready()?;
    passes(&stage, PROBER)?;
    is_refused(&stage, "host", PORT)
}

#[test]
fn a_prober_whose_cgroup_is_made_again_is_known_and_without_one_the_agent_is_not_ready()
-> Result<()> {
    let stage = stage("strict")?;
    let _server = serve(&stage.far)?;
    passes(&stage, PROBER)?;
    let (cgroup, away) = (stage.far.node().prober(), stage.far.node().cgroup().join("old"));
    wait_for("the cgroup to be empty", PATIENCE, || Ok(fs::remove_dir(&cgroup).ok()))?;
    wait_for("the agent to miss it", PATIENCE, || {
        let status = stage.two.get("/status")?;
        let said = status["not_ready"].to_string();
        Ok((status["ready"] == false && said.contains("probes of strict workloads")).then_some(()))
    })?;
    is_refused(&stage, "old", PORT)?;
    wait_for("the cgroup to be empty", PATIENCE, || Ok(fs::remove_dir(&away).ok()))?;
    fs::create_dir(&cgroup)?;
    wait_for("the agent to know the new one", PATIENCE, || {
        Ok((stage.two.get("/status")?["ready"] == true).then_some(()))
    })?;
    passes(&stage, PROBER)?;
    is_refused(&stage, "host", PORT)
}

/// The connection that the prober has open, and its port.
fn open_probe(stage: &Stage, to: SocketAddr) -> Result<(Running, SocketAddr)> {
    let address = to.to_string();
    let program = stage.far.node().command_in(PROBER, find_binary("lab-probe")?);
    let arguments = ["crowd", "--to", &address, "--connections", "1", "--until-input-ends"];
    let mut running = program.args(arguments).with_input().spawn()?;
    let first = running.wait_until_listening()?;
    assert_eq!(first["echoed"], 1, "{first}");
    let table = stage.far.run(|| fs::read_to_string("/proc/thread-self/net/tcp"))??;
    let lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let wanted = format!(":{:04X}", to.port());
    let remote = lines
        .filter(|fields| fields.len() > 3 && fields[3] == "01" && fields[1].ends_with(&wanted))
        .find_map(|fields| {
            let (ip, port) = fields[2].split_once(':')?;
            let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
            Some(SocketAddr::new(ip.into(), u16::from_str_radix(port, 16).ok()?))
        });
    Ok((running, remote.context("the probe's connection")?))
}

/// Sends a packet made by hand to `far`, which says that it comes from where it likes: from another
/// pod by a raw socket, or from the node by a packet socket.
fn forge(stage: &Stage, by_node: bool, packet: &[u8]) -> Result<()> {
    let Stage { far, outside, .. } = stage;
    if !by_node {
        return Ok(outside.run(|| raw::send_packet(far.v4(), packet))??);
    }
    let to = far.run(|| raw::hardware_address("eth0"))??;
    let interface = far.host_interface();
    let from = far.node().run(|| raw::hardware_address(&interface))??;
    let frame = [&to[..], &from, &[0x08, 0x00], packet].concat();
    match far.node().run(|| raw::send_frame(&interface, &frame))? {
        // So the kernel tells that a program on the interface has dropped it.
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
        sent => Ok(sent?),
    }
}

/// With a right checksum: a SYN that has none is nobody's to answer.
fn segment(from: SocketAddr, to: SocketAddr, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = tcp_between(from.port(), to.port(), flags, payload);
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else {
        panic!("both ends are of IPv4")
    };
    let mut summed = [source.octets(), destination.octets()].concat();
    summed.extend([0, TCP]);
    summed.extend((segment.len() as u16).to_be_bytes());
    summed.extend(&segment);
    segment[16..18].copy_from_slice(&checksum(&summed).to_be_bytes());
    Ip::new(from.ip(), to.ip(), TCP, &segment).bytes()
}

#[test]
fn nobody_adds_to_the_probers_connection_or_opens_one_with_its_address() -> Result<()> {
    let mut stage = prepare("strict")?;
    let node = stage.far.node();
    // The kernel itself would refuse what comes from a pod with the node's address.
    let filter = format!("ipv4/conf/{}/rp_filter", stage.outside.host_interface());
    node.netns().set_sysctls(&[
        ("ipv4/conf/all/accept_local", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        (&filter, "0"),
    ])?;
    let unused = SocketAddr::new(node.addresses()[0], 7777);
    let to = SocketAddr::new(stage.far.v4(), PORT);
    let canaries = Canaries::random(5);
    let all: Vec<Vec<u8>> = canaries.iter().map(<[u8]>::to_vec).collect();
    let sniffer = Sniffer::start([stage.far.netns()], &canaries)?;
    for (by_node, canary) in [false, true].into_iter().zip(&all[..2]) {
        let from = SocketAddr::new(unused.ip(), unused.port() + u16::from(by_node));
        forge(&stage, by_node, &segment(from, to, PUSH_ACK, canary))?;
    }
    wait_for("both to arrive where no agent runs", PATIENCE, || {
        Ok((sniffer.found() == 2).then_some(()))
    })?;
    stage.launch()?;
    let _server = serve(&stage.far)?;
    let (mut probe, from) = open_probe(&stage, to)?;
    let before = stage.two.verdicts("lookup", "passed_probe")?;
    let refused = || stage.two.verdicts("lookup", "refused_plaintext");
    let syns = refused()?;
    for (by_node, canary) in [false, true].into_iter().zip(&all[2..4]) {
        forge(&stage, by_node, &segment(from, to, PUSH_ACK, canary))?;
        let unused = SocketAddr::new(from.ip(), unused.port());
        forge(&stage, by_node, &segment(unused, to, SYN, b""))?;
    }
    wait_for("the SYNs to be refused", PATIENCE, || Ok((refused()? >= syns + 2).then_some(())))?;
    assert_eq!(stage.two.verdicts("lookup", "passed_probe")?, before);
    // What comes last has overtaken nothing: a datagram, which passes.
    let socket = stage.outside.run(|| UdpSocket::bind((stage.outside.v4(), 0)))??;
    socket.send_to(&all[4], (stage.far.v4(), 9))?;
    wait_for("the datagram", PATIENCE, || Ok((sniffer.found() > 2).then_some(())))?;
    assert_eq!(sniffer.stop()?.found().iter().copied().collect::<Vec<_>>(), [0, 1, 4]);
    probe.close_input();
    let seen = probe.wait(PATIENCE)?.json()?;
    assert_eq!(seen["echoed"], 1, "the probe itself goes on: {seen}");
    Ok(())
}

#[test]
fn a_mark_and_the_probers_old_port_make_nobody_the_prober() -> Result<()> {
    let mut stage = stage("strict")?;
    let _server = serve(&stage.far)?;
    let node = stage.far.node().clone();
    // Or the kernel would not give the probe's port again for a minute.
    node.netns().set_sysctls(&[("ipv4/tcp_max_tw_buckets", "0")])?;
    let to = SocketAddr::new(stage.far.v4(), PORT);
    let (mut probe, from) = open_probe(&stage, to)?;
    probe.close_input();
    probe.wait(PATIENCE)?.success()?;
    let connect = |port: u16| {
        node.run(|| {
            let tcp = Some(socket2::Protocol::TCP);
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, tcp)?;
            socket.set_reuse_address(true)?;
            socket.set_mark(0x4d)?;
            socket.bind(&SocketAddr::new(from.ip(), port).into())?;
            socket.connect_timeout(&to.into(), PATIENCE)
        })
    };
    let is_taken = |result: &std::io::Result<()>| {
        matches!(result, Err(error)
            if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable))
    };
    let with_its_port = || {
        wait_for("the port to be free", PATIENCE, || {
            let result = connect(from.port())?;
            Ok((!is_taken(&result)).then_some(result))
        })
    };
    let error = connect(0)?.expect_err("with a mark");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let error = with_its_port()?.expect_err("with the probe's own port");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    passes(&stage, PROBER)?;
    let far = stage.far.clone();
    stage.mesh.enroll(&far, "shop", "web", "permissive");
    stage.two.reload(&stage.mesh)?;
    connect(0)?.context("a permissive pod lets it in")?;
    with_its_port()?.context("a permissive pod lets it in")
}

#[test]
fn an_http_probe_by_an_unmodified_program_is_answered() -> Result<()> {
    let stage = stage("strict")?;
    for ip in stage.far.addresses() {
        let at = SocketAddr::new(ip, PORT);
        let listener = stage.far.run(|| TcpListener::bind(at))??;
        let answering = std::thread::spawn(move || -> std::io::Result<()> {
            listener.incoming().take(ROUNDS as usize).try_for_each(|stream| answer(stream?))
        });
        let url = format!("http://{at}/healthz");
        let curl = |cgroup| {
            let curl = stage.far.node().command_in(cgroup, "curl");
            curl.args(["-sS", "--max-time", "20", &url]).run()
        };
        curl("host")?.success().expect_err("another program of the node");
        for _ in 0..ROUNDS {
            assert_eq!(curl(PROBER)?.success()?, "healthy");
        }
        answering.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    }
    let probes = 2 * ROUNDS;
    evidence(
        "an_http_probe_by_an_unmodified_program_is_answered",
        &[("probes answered", &format!("{probes} of {probes}"))],
    )
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let length = stream.read(&mut request)?;
    assert!(request[..length].starts_with(b"GET /healthz"));
    stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nhealthy")
}
