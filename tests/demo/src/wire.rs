//! What the wire shows: how much of it was in clear, and a piece of it for people.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use martlet_lab::{Canaries, Capture, Flow, Netns, Sniffer};

/// What one capture says about the pods' traffic.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    /// Different secrets that were found.
    pub secrets: usize,
    /// Bytes of TCP payload.
    pub bytes: u64,
    /// Of them, bytes that are not part of TLS records.
    pub in_clear: u64,
}

/// A piece of a capture: between whom, what kind of bytes, and the bytes.
#[derive(Debug, Clone)]
pub struct Piece {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub what: String,
    pub bytes: Vec<u8>,
}

/// Looks at everything that crosses the wire while something is done.
pub fn watch<T>(
    wire: &Netns,
    secrets: &Canaries,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Capture)> {
    let sniffer = Sniffer::start([wire], secrets)?;
    let result = work()?;
    Ok((result, sniffer.stop()?))
}

impl Seen {
    /// Only what goes to or comes from this address counts.
    pub fn of(capture: &Capture, server: IpAddr) -> Result<Seen> {
        let mut seen = Seen { secrets: capture.found().len(), ..Seen::default() };
        for flow in capture.flows() {
            if flow.source.ip() == server || flow.destination.ip() == server {
                ensure!(flow.missing == 0, "the sniffer lost bytes of {}", flow.source);
                seen.bytes += flow.payload;
                seen.in_clear += flow.not_tls;
            }
        }
        Ok(seen)
    }

    pub fn and(self, other: Seen) -> Seen {
        Seen {
            secrets: self.secrets + other.secrets,
            bytes: self.bytes + other.bytes,
            in_clear: self.in_clear + other.in_clear,
        }
    }

    /// Bytes that anybody on the wire could read.
    pub fn plaintext(self) -> u64 {
        self.in_clear.max((self.secrets * Canaries::LENGTH) as u64)
    }
}

impl Piece {
    /// The beginning of a request.
    pub fn request(capture: &Capture, server: SocketAddr) -> Result<Piece> {
        let flow = flow_to(capture, server)?;
        Ok(Piece::of(flow.source, server, "in clear".into(), flow.start.clone()))
    }

    /// The first record of a handshake, each way, and one with application data.
    pub fn records(capture: &Capture, server: SocketAddr) -> Result<[Piece; 3]> {
        let there = flow_to(capture, server)?;
        let back = capture.flow(server, there.source).context("nothing came back")?;
        let data = capture.frames_kept().filter_map(tcp4).find(|(source, destination, payload)| {
            (*source, *destination) == (there.source, server) && payload.first() == Some(&DATA)
        });
        let (_, _, data) = data.context("no application data was seen")?;
        Ok([
            Piece::of(there.source, server, record_name(&there.start)?, there.start.clone()),
            Piece::of(server, there.source, record_name(&back.start)?, back.start.clone()),
            Piece::of(there.source, server, record_name(data)?, data.to_vec()),
        ])
    }

    fn of(source: SocketAddr, destination: SocketAddr, what: String, bytes: Vec<u8>) -> Piece {
        Piece { source, destination, what, bytes }
    }
}

fn flow_to(capture: &Capture, server: SocketAddr) -> Result<&Flow> {
    let mut flows = capture.flows().filter(|flow| flow.destination == server && flow.payload > 0);
    flows.next().with_context(|| format!("the sniffer saw nothing go to {server}"))
}

/// RFC 8446, section 5.1: the kinds of records; section 4: those of handshake messages.
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

fn record_name(bytes: &[u8]) -> Result<String> {
    let [kind, 3, _, high, low, first, ..] = *bytes else {
        anyhow::bail!("what should be TLS is not: {:02x?}", &bytes[..bytes.len().min(8)]);
    };
    let kind = match (kind, first) {
        (HANDSHAKE, 1) => "ClientHello".to_owned(),
        (HANDSHAKE, 2) => "ServerHello".to_owned(),
        (HANDSHAKE, other) => format!("handshake {other}"),
        (DATA, _) => "application data".to_owned(),
        (other, _) => format!("type {other}"),
    };
    Ok(format!("TLS record, {kind}, {} bytes", u16::from_be_bytes([high, low])))
}

/// Source, destination and payload of an Ethernet frame that carries TCP over IPv4.
fn tcp4(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    const ETHERNET: usize = 14;
    const TCP: u8 = 6;
    let packet = frame.get(ETHERNET..)?;
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if packet[0] >> 4 != 4 || *packet.get(9)? != TCP {
        return None;
    }
    let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let segment = packet.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes(*segment.get(at..)?.first_chunk::<2>()?));
    let payload = segment.get(usize::from(segment.get(12)? >> 4) * 4..)?;
    Some(((address(12)?, port(0)?).into(), (address(16)?, port(2)?).into(), payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_apart() {
        let mut frame = vec![0; 14];
        let mut packet = vec![0x45, 0, 0, 47, 0, 0, 0, 0, 64, 6, 0, 0, 10, 1, 0, 2, 10, 2, 0, 2];
        packet
            .extend([0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        frame.extend(packet);
        frame.extend([23, 3, 3, 0, 2, 7, 7]);
        let (source, destination, payload) = tcp4(&frame).expect("it is TCP over IPv4");
        assert_eq!(source.to_string(), "10.1.0.2:40000");
        assert_eq!(destination.to_string(), "10.2.0.2:8080");
        assert_eq!(payload, [23, 3, 3, 0, 2, 7, 7]);
        assert!(
            (0..frame.len()).all(|end| tcp4(&frame[..end]).is_none_or(|(_, _, p)| p.len() < 7))
        );
    }

    #[test]
    fn records_are_named_and_plaintext_is_refused() {
        let name = record_name(&[22, 3, 1, 5, 0xf2, 1, 0]).expect("it is a record");
        assert_eq!(name, "TLS record, ClientHello, 1522 bytes");
        assert!(record_name(b"POST / HTTP/1.1").is_err());
        assert!(record_name(&[23, 3]).is_err());
    }
}
