//! The kernel programs' lines about their verdicts, for debugging; see `Settings::verbose`.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
};

use aya::Ebpf;
use aya_log::EbpfLogger;
use martlet_ebpf_shared::Event;
use tokio::io::{Interest, unix::AsyncFd};

use crate::KernelError;

/// The reading end. Lines come as `tracing` events, one for each verdict.
pub struct KernelLog(EbpfLogger<Lines>);

impl KernelLog {
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let reader = EbpfLogger::init_with_logger(ebpf, Lines);
        reader.map(Self).map_err(|error| KernelError::Log(io::Error::other(error)))
    }

    /// Reads until it is dropped.
    pub async fn run(self) -> Result<(), KernelError> {
        #[allow(unsafe_code)]
        // SAFETY: the reader owns its fd and nothing closes or replaces it while it lives. Safe code
        // could only do this by a deprecated function.
        let registered = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) };
        let failed = |error| KernelError::Log(error);
        let mut reader = registered.map_err(|error| failed(error.into()))?;
        loop {
            let mut ready = reader.readable_mut().await.map_err(failed)?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

/// Turns what the programs have written into events.
struct Lines;

/// One verdict: the hook decided about a connection from here to there.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    event: Event,
    from: IpAddr,
    to: IpAddr,
    port: u16,
}

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        let Some(line) = parse(&text) else {
            tracing::debug!(line = text, "line of the kernel programs not understood");
            return;
        };
        let (hook, verdict) = (line.event.hook(), line.event.verdict());
        tracing::info!(hook, verdict, from = %line.from, to = %line.to, port = line.port, "verdict");
    }

    fn flush(&self) {}
}

/// The format is that of `ebpf/programs/src/log.rs`: event, addresses, port.
fn parse(text: &str) -> Option<Line> {
    let mut words = text.split_ascii_whitespace();
    let event: usize = words.next()?.parse().ok()?;
    let mut address = || {
        let address: Ipv6Addr = words.next()?.parse().ok()?;
        Some(address.to_canonical())
    };
    let (from, to) = (address()?, address()?);
    let port = words.next()?.parse().ok()?;
    Some(Line { event: *Event::ALL.get(event)?, from, to, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_hook_verdict_and_addresses() {
        let text = format!("{} ::ffff:10.1.0.2 fd00::7 8080", Event::ConnectSteered as u32);
        let line = parse(&text).expect("a line");
        assert_eq!((line.event.hook(), line.event.verdict()), ("connect", "steered"));
        assert_eq!(line.from, IpAddr::from([10, 1, 0, 2]));
        assert_eq!((line.to.to_string().as_str(), line.port), ("fd00::7", 8080));
        for broken in ["", "1", "999 :: :: 1", "1 :: ::", "1 :: :: 70000"] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
    }
}
