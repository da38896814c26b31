//! Whether something arrives in a pod, by what a sniffer sees there, also when it must not.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use martlet_lab::{Canaries, Sniffer, wait_for};

use crate::Place;

const PATIENCE: Duration = Duration::from_secs(10);
/// A port on which nobody listens.
const DISCARD: u16 = 9;

/// Whether the canary that `send` sends from one pod is seen inside another one.
///
/// A datagram is sent after it, which the guard lets through: what that one overtakes has not
/// arrived. What is expected to arrive is waited for.
pub fn arrives(
    from: &Place,
    to: &Place,
    is_expected: bool,
    send: impl FnOnce(&[u8]) -> io::Result<()>,
) -> Result<bool> {
    let canaries = Canaries::random(2);
    let mut both = canaries.iter();
    let (canary, last) = (both.next().context("one")?, both.next().context("two")?);
    let sniffer = Sniffer::start([to.pod.netns()], &canaries)?;
    send(canary).context("sending")?;
    if is_expected {
        wait_for("the canary", PATIENCE, || Ok((sniffer.found() > 0).then_some(())))?;
    }
    let socket = from.netns.run(|| UdpSocket::bind(SocketAddr::new(from.v4, 0)))?;
    socket.send_to(last, SocketAddr::new(to.v4, DISCARD))?;
    let all = 1 + usize::from(is_expected);
    wait_for("the last datagram", PATIENCE, || Ok((sniffer.found() >= all).then_some(())))?;
    Ok(sniffer.stop()?.found().contains(&0))
}
