//! Connections that stay open: what they weigh in the proxies, and what opening them has cost.

use std::time::Duration;

use anyhow::{Context as _, Result};
use martlet_bench::{Report, limits};
use serde_json::Value;

use crate::{
    load,
    measure::{Measure, Values},
    process::{self, Memory},
    row::Crowd,
    settings::Settings,
    stand::{Pair, Service},
};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

/// A proxy before and while the connections are open.
struct Weighed {
    before: Memory,
    open: Memory,
    cpu_seconds: f64,
}

/// `proxies` are process IDs. All connections are open at a time, so none can use another's lane:
/// each was a handshake.
pub fn weigh(
    pair: &Pair,
    proxies: &[u32],
    crowd: Crowd,
    settings: &Settings,
) -> Result<(Values, Report)> {
    let connections = match crowd {
        Crowd::Small => settings.few_connections,
        Crowd::Large => settings.many_connections,
    };
    let settle = Duration::from_secs_f64(settings.settle_seconds);
    let before = process::settled_memory(proxies, settle)?;
    let cpu_before = cpu_seconds(proxies)?;
    let address = pair.address(Service::Echo).to_string();
    let mut holder = load::client(pair.client(), "idle", &address)?
        .args(["--connections", &connections.to_string()])
        .with_input()
        .spawn()?;
    let patience = limits::READY + limits::OPENING * connections as u32;
    holder.wait_for_stdout("the connections to be open", patience, |text| {
        let line: Value = serde_json::from_str(text.lines().next()?).ok()?;
        line["open"].as_u64()
    })?;
    let cpu = cpu_seconds(proxies)?;
    let open = process::settled_memory(proxies, settle)?;
    holder.close_input();
    let finished = holder.wait(limits::STALL + limits::LOAD_EXTRA)?;
    let report = load::parse(&finished.success()?)?;
    let weighed: Vec<_> = (0..proxies.len())
        .map(|proxy| Weighed {
            before: before[proxy],
            open: open[proxy],
            cpu_seconds: cpu[proxy] - cpu_before[proxy],
        })
        .collect();
    let values = values(&weighed, crowd, connections).context("there is no proxy to weigh")?;
    Ok((values, report))
}

fn cpu_seconds(proxies: &[u32]) -> Result<Vec<f64>> {
    proxies.iter().map(|pid| process::cpu_seconds(*pid)).collect()
}

/// The larger and the busier proxy of the two counts.
fn values(weighed: &[Weighed], crowd: Crowd, connections: usize) -> Option<Values> {
    let before = weighed.iter().map(|proxy| proxy.before.resident).max()?;
    let open = weighed.iter().map(|proxy| proxy.open.resident).max()?;
    let added = |proxy: &Weighed| proxy.open.anonymous.saturating_sub(proxy.before.anonymous);
    let added = weighed.iter().map(added).max()?;
    let busiest = weighed.iter().map(|proxy| proxy.cpu_seconds).max_by(f64::total_cmp)?;
    let connections = connections as f64;
    Some(match crowd {
        Crowd::Small => Values::from([
            (Measure::IdleMib, before as f64 / MIB),
            (Measure::KibPerConnection, added as f64 / KIB / connections),
        ]),
        Crowd::Large => Values::from([
            (Measure::MemoryMib, open as f64 / MIB),
            (Measure::HandshakesPerCpuSecond, connections / busiest),
        ]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_and_the_busier_proxy_counts() {
        // And two of code.
        let memory = |mib: u64| Memory { resident: (mib + 2) << 20, anonymous: mib << 20 };
        let proxies = [
            Weighed { before: memory(6), open: memory(10), cpu_seconds: 0.5 },
            Weighed { before: memory(8), open: memory(9), cpu_seconds: 2.0 },
        ];
        let few = values(&proxies, Crowd::Small, 1024).unwrap();
        assert_eq!(few[&Measure::IdleMib], 10.0);
        assert_eq!(few[&Measure::KibPerConnection], 4.0);
        let many = values(&proxies, Crowd::Large, 1024).unwrap();
        assert_eq!(many[&Measure::MemoryMib], 12.0);
        assert_eq!(many[&Measure::HandshakesPerCpuSecond], 512.0);
    }

    #[test]
    fn without_a_proxy_there_is_nothing_to_weigh() {
        assert!(values(&[], Crowd::Small, 1).is_none());
    }
}
