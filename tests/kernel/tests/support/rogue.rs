//! A pod without an agent that speaks TLS by itself: with any certificate, or none, to enrolled pods
//! and in place of one. What it says after the handshake is the lane protocol (docs/lanes.md).

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use martlet_lab::{Pod, Running, wait_for};

use super::certificates::Shown;

pub const LANE: &str = "martlet-lane/1";
const PATIENCE: Duration = Duration::from_secs(10);

/// How a rogue shakes hands.
pub struct Guise {
    pub shown: Option<Shown>,
    pub protocol: Option<&'static str>,
    pub options: &'static [&'static str],
}

impl Guise {
    pub fn of(shown: &Shown) -> Guise {
        Guise { shown: Some(shown.clone()), protocol: Some(LANE), options: &[] }
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = self.shown.as_ref().map(Shown::arguments).unwrap_or_default();
        if let Some(protocol) = self.protocol {
            arguments.extend(["-alpn".to_owned(), protocol.to_owned()]);
        }
        arguments.extend(self.options.iter().map(|option| (*option).to_owned()));
        arguments
    }
}

/// OPEN with a source port and an id, DATA, and FINISH: one whole request, sent at once.
pub fn request(source_port: u16, id: u64, data: &[u8]) -> Vec<u8> {
    let mut frames = vec![1, 0, 0, 10];
    frames.extend(source_port.to_be_bytes());
    frames.extend(id.to_be_bytes());
    frames.extend([2, 0, 0, u8::try_from(data.len()).expect("a short request")]);
    frames.extend(data);
    frames.extend([3, 0, 0, 0]);
    frames
}

/// Connects, and says all of this as soon as it may.
pub fn call(pod: &Pod, to: SocketAddr, guise: &Guise, says: &[u8]) -> Result<Running> {
    let input = pod.directory()?.join("says");
    fs::write(&input, says).context("writing what the rogue says")?;
    let to = to.to_string();
    // Quiet also means: what comes is printed as it is, and the end of the input ends nothing.
    let client = pod.command("openssl").args(["s_client", "-quiet", "-connect", &to]);
    client.args(guise.arguments()).input_file(&input)?.spawn()
}

/// Answers in place of an enrolled pod's agent.
pub fn answer(pod: &Pod, on: SocketAddr, guise: &Guise) -> Result<Running> {
    let on_text = on.to_string();
    let server = pod.command("openssl").args(["s_server", "-quiet", "-accept", &on_text]);
    // Its input stays open, or it would take the end for something to do.
    let mut running = server.args(guise.arguments()).with_input().spawn()?;
    wait_for("the rogue to listen", PATIENCE, || {
        anyhow::ensure!(running.is_running(), "it ended: {}", running.stderr());
        Ok(listens(pod, on)?.then_some(()))
    })?;
    Ok(running)
}

/// Whether a socket listens on this port: its state is 0A (`TCP_LISTEN`).
fn listens(pod: &Pod, on: SocketAddr) -> Result<bool> {
    let table = if on.is_ipv4() { "tcp" } else { "tcp6" };
    let path = Path::new("/proc/thread-self/net").join(table);
    let sockets = pod.run(|| fs::read_to_string(&path))?.context("reading the sockets")?;
    let port = format!(":{:04X}", on.port());
    Ok(sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some("0A")
    }))
}
