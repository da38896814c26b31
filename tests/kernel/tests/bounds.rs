//! One pod at full tilt, and its neighbor on the same two agents: what the neighbor sees of it.
//!
//! ```text
//!   node one: caller (the neighbor), bad        node two: far (the neighbor's server), sink (bad's)
//! ```
//!
//! The neighbor is measured alone and beside the aggressor in turns, so that the machine's moods hit
//! both alike. Nothing that it does may fail; how much slower it is is a figure and no verdict, since
//! the machine is shared. The aggressor's own programs run only when nobody else wants to, as a
//! limit of their pods' would make them: what is left is what is done for them elsewhere.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use martlet_lab::{Pod, Running, Server, Stage, evidence, is_long, wait_for};
use martlet_tests_kernel::{packets, raw};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 8080;
const ROUNDS: usize = 3;
/// More than one caller may begin to shake hands at a time.
const SILENT: usize = 4096;
/// Connections that are begun and never answered: from so many ports, and no fewer before the
/// neighbor is looked at.
const HALF_OPEN: std::ops::Range<u16> = 10_000..65_000;

struct Street {
    bad: Pod,
    sink: Pod,
    _servers: [Server; 2],
    stage: Stage,
}

/// What the neighbor has seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Of a round trip over an open connection, in µs.
    round_trip: f64,
    /// Of a connection with one question, in µs.
    connection: f64,
}

impl Street {
    fn new() -> Result<Street> {
        let mut stage = Stage::set("strict")?;
        let (bad, sink) = (stage.one.node().pod("bad")?, stage.two.node().pod("sink")?);
        for pod in [&bad, &sink] {
            stage.mesh.enroll(pod, "shop", pod.name(), "strict");
        }
        stage.reload()?;
        stage.one.wait_until_ready()?;
        stage.two.wait_until_ready()?;
        let echo = ["--then", "echo", "--quiet"];
        let servers = [stage.far.serve(&echo)?, sink.serve(&echo)?];
        servers[1].be_last()?;
        Ok(Street { bad, sink, _servers: servers, stage })
    }

    /// The 99th percentiles of the neighbor's; nothing that it does may fail.
    fn neighbor(&self) -> Result<Seen> {
        let to = SocketAddr::new(self.stage.far.v4(), PORT).to_string();
        let caller = &self.stage.caller;
        let latency =
            caller.probe(&["latency", "--to", &to, "--rounds", "1000", "--warmup", "100"])?;
        let latency = latency.run()?;
        let round_trip = latency.json()?["latency"][0]["p99_us"].clone();
        let row = caller.probe(&["row", "--to", &to, "--connections", "100"])?.run()?.json()?;
        if row["done"] != 100 {
            bail!("the neighbor's connections failed: {row}");
        }
        let number = |value: &Value| value.as_f64().context("a number");
        Ok(Seen { round_trip: number(&round_trip)?, connection: number(&row["p99_us"])? })
    }

    /// The aggressor.
    fn flood(&self, kind: &str, connections: usize) -> Result<Running> {
        flood(&self.bad, &self.sink, kind, connections)
    }

    /// The neighbor alone and beside an aggressor, in turns.
    fn compare<A>(&self, test: &str, mut aggressor: impl FnMut() -> Result<A>) -> Result<()> {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            alone.push(self.neighbor().context("alone")?);
            let running = aggressor().context("the aggressor")?;
            beside.push(self.neighbor().context("beside the aggressor")?);
            drop(running);
            self.at_rest()?;
        }
        let median = |seen: &[Seen], of: fn(&Seen) -> f64| {
            let mut values: Vec<_> = seen.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let compared = [
            ("round trip", (|seen| seen.round_trip) as fn(&Seen) -> f64),
            ("new connection", |seen| seen.connection),
        ];
        let mut figures = vec![("errors of the neighbor".to_owned(), "0".to_owned())];
        for (what, of) in compared {
            let (alone, beside) = (median(&alone, of), median(&beside, of));
            let ratio = beside / alone;
            println!("{test}: {what} p99 {alone:.0} µs alone, {beside:.0} µs beside: {ratio:.2}×");
            figures.push((format!("{what} p99"), format!("{ratio:.2}×")));
        }
        let figures: Vec<_> = figures
            .iter()
            .map(|(name, value)| (name.as_str(), value as &dyn std::fmt::Display))
            .collect();
        evidence(test, &figures)
    }

    /// All that the aggressor held is given back.
    fn at_rest(&self) -> Result<()> {
        for agent in [&self.stage.one, &self.stage.two] {
            wait_for("all connections to have ended", PATIENCE, || {
                Ok((agent.get("/status")?["connections"] == 0).then_some(()))
            })?;
        }
        Ok(())
    }

    /// How often an agent has refused something at a bound.
    fn refused(&self, verdict: &str) -> Result<f64> {
        self.stage.two.metric(
            "martlet_hook_verdicts_total",
            &["hook=\"agent\"", &format!("verdict=\"{verdict}\"")],
        )
    }
}

fn flood(from: &Pod, to: &Pod, kind: &str, connections: usize) -> Result<Running> {
    let (to, count) = (SocketAddr::new(to.v4(), PORT).to_string(), connections.to_string());
    let arguments = ["flood", "--to", &to, "--kind", kind, "--connections", &count];
    let mut running = from.probe(&arguments)?.spawn()?;
    let is_up = |text: &str| text.contains('\n').then_some(());
    running.wait_for_stdout("the flood to be up", PATIENCE, is_up)?;
    running.be_last()?;
    Ok(running)
}

#[test]
fn bulk_over_many_connections_leaves_its_neighbor_alone() -> Result<()> {
    let street = Street::new()?;
    let count = if is_long() { 1000 } else { 200 };
    street.compare("bulk_over_many_connections_leaves_its_neighbor_alone", || {
        street.flood("bulk", count)
    })
}

#[test]
fn tiny_frames_leave_their_neighbor_alone() -> Result<()> {
    let street = Street::new()?;
    street.compare("tiny_frames_leave_their_neighbor_alone", || street.flood("tiny", 64))
}

#[test]
fn connections_in_a_hurry_leave_their_neighbor_alone() -> Result<()> {
    let street = Street::new()?;
    street.compare("connections_in_a_hurry_leave_their_neighbor_alone", || street.flood("open", 64))
}

#[test]
fn a_storm_of_handshakes_leaves_its_neighbor_alone() -> Result<()> {
    let street = Street::new()?;
    street.compare("a_storm_of_handshakes_leaves_its_neighbor_alone", || street.flood("reset", 64))
}

/// Callers that shake no hands, at the neighbor's own server, past steering: one address must not
/// take all turns.
#[test]
fn silent_callers_leave_other_callers_of_the_same_server_alone() -> Result<()> {
    let street = Street::new()?;
    let to = SocketAddr::new(street.stage.far.v4(), PORT);
    let silent = || {
        let connect = |_| TcpStream::connect_timeout(&to, PATIENCE);
        let all = street.bad.run(|| (0..SILENT).map(connect).collect::<std::io::Result<Vec<_>>>());
        Ok(all??)
    };
    assert_eq!(street.refused("refused_handshakes")?, 0.0);
    street.compare("silent_callers_leave_other_callers_of_the_same_server_alone", silent)?;
    assert!(street.refused("refused_handshakes")? > 0.0, "the aggressor met its bound");
    // What it held is there again for itself.
    let to = to.to_string();
    let again = street.bad.probe(&["row", "--to", &to, "--connections", "5"])?.run()?.json()?;
    assert_eq!(again["done"], 5, "{again}");
    Ok(())
}

/// Packets that begin connections, from an address of the mesh that never answers, past every guard:
/// whoever has a place between the nodes can send them. Ends when it is dropped.
struct Torrent {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Torrent {
    /// More than 50,000 have been sent.
    fn begin(from: &Pod, as_of: Ipv4Addr, to: SocketAddrV4) -> Result<Torrent> {
        let (ends, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (netns, asked, counted) = (from.netns().clone(), ends.clone(), sent.clone());
        let pour = move || {
            raw::be_last()?;
            let packets = raw::Packets::open(IpAddr::V4(*to.ip()))?;
            for port in HALF_OPEN.cycle().take_while(|_| !asked.load(Relaxed)) {
                packets.send(&packets::opening(SocketAddrV4::new(as_of, port), to))?;
                counted.fetch_add(1, Relaxed);
            }
            Ok(())
        };
        let work = move || netns.run(pour).map_err(io::Error::other)?;
        let thread = Some(std::thread::spawn(work));
        let torrent = Torrent { ends, thread };
        wait_for("the first connections to be begun", PATIENCE, || {
            Ok((sent.load(Relaxed) > HALF_OPEN.len()).then_some(()))
        })?;
        Ok(torrent)
    }
}

impl Drop for Torrent {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(Ok(())))), "the torrent: {ended:?}");
    }
}

/// At the neighbor's own server, in the name of a workload that may call it.
#[test]
fn half_open_connections_leave_other_callers_of_the_same_server_alone() -> Result<()> {
    let street = Street::new()?;
    let (near, far) = (&street.stage.near, &street.stage.far);
    let (IpAddr::V4(near_v4), IpAddr::V4(far_v4)) = (near.v4(), far.v4()) else {
        bail!("addresses of version 4");
    };
    // It would reset what it has not begun.
    near.ip(&format!("route add blackhole {far_v4}/32\n"))?;
    let to = SocketAddrV4::new(far_v4, PORT);
    let before = arrived(&street)?;
    let torrent = || Torrent::begin(&street.stage.stranger, near_v4, to);
    street
        .compare("half_open_connections_leave_other_callers_of_the_same_server_alone", torrent)?;
    assert!(arrived(&street)? - before > HALF_OPEN.len() as f64, "they arrive at the agent");
    Ok(())
}

/// SYNs that the callee's kernel has handed to the agent.
fn arrived(street: &Street) -> Result<f64> {
    let labels = ["hook=\"lookup\"", "verdict=\"to_inbound\""];
    street.stage.two.metric("martlet_hook_verdicts_total", &labels)
}
