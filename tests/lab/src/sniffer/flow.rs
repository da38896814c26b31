//! One direction of a TCP connection as seen on one interface: put in order, searched, and told TLS from not.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use super::{frame::Segment, search::Search};
use crate::{canary::Canaries, limits};

/// What is known of one direction.
#[derive(Debug, Clone)]
pub struct Flow {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub first_seen: Instant,
    pub segments: u64,
    pub payload: u64,
    /// Bytes that are not part of a well-formed TLS record.
    pub not_tls: u64,
    /// How many TLS records began.
    pub records: u64,
    /// The same by type: change_cipher_spec, alert, handshake, application_data (20 to 23).
    pub records_by_type: [u64; 4],
    /// The first bytes of the payload, in order.
    pub start: Vec<u8>,
    pub has_syn: bool,
    pub has_fin: bool,
    pub has_reset: bool,
    /// Bytes that never came, or came too late to be put in order.
    pub missing: u64,
}

impl Flow {
    /// Whether its payload begins with a TLS ClientHello.
    pub fn is_client_hello(&self) -> bool {
        matches!(self.start.as_slice(), [22, 3, _, _, _, 1, ..])
    }

    /// The same direction seen on another interface: the one that saw more counts.
    pub(super) fn merge(&mut self, other: &Flow) {
        if (other.segments, other.payload) > (self.segments, self.payload) {
            let first_seen = self.first_seen.min(other.first_seen);
            *self = Flow { first_seen, ..other.clone() };
        }
    }
}

#[derive(Debug)]
pub struct Stream {
    flow: Flow,
    /// The sequence number of the next byte in order, once one segment was seen.
    next: Option<u32>,
    waiting: BTreeMap<u32, Vec<u8>>,
    /// The end of what was searched: a canary may continue.
    tail: Vec<u8>,
    records: Records,
}

impl Stream {
    pub fn new(source: SocketAddr, destination: SocketAddr, now: Instant) -> Stream {
        let flow = Flow {
            source,
            destination,
            first_seen: now,
            segments: 0,
            payload: 0,
            not_tls: 0,
            records: 0,
            records_by_type: [0; 4],
            start: Vec::new(),
            has_syn: false,
            has_fin: false,
            has_reset: false,
            missing: 0,
        };
        Stream {
            flow,
            next: None,
            waiting: BTreeMap::new(),
            tail: Vec::new(),
            records: Records::default(),
        }
    }

    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    pub fn take(&mut self, segment: &Segment<'_>, search: &Search, found: &mut Vec<usize>) {
        self.flow.segments += 1;
        self.flow.has_fin |= segment.is_fin;
        self.flow.has_reset |= segment.is_reset;
        if segment.is_syn {
            self.flow.has_syn = true;
            // A port used again, or the first: the payload starts after the SYN, or in it (fast open).
            self.next = Some(segment.sequence.wrapping_add(1));
            self.waiting.clear();
            self.records = Records::default();
        }
        if segment.payload.is_empty() {
            return;
        }
        let start =
            if segment.is_syn { segment.sequence.wrapping_add(1) } else { segment.sequence };
        let next = *self.next.get_or_insert(start);
        if ahead(start, next) > 0 {
            // Searched at once, whatever becomes of the order.
            search.find(segment.payload, found);
            self.waiting.insert(start, segment.payload.to_vec());
            if self.waiting.values().map(Vec::len).sum::<usize>() > limits::REASSEMBLY {
                self.give_up_gap();
            }
        } else {
            self.advance(start, segment.payload, search, found);
        }
        self.advance_waiting(search, found);
    }

    fn advance_waiting(&mut self, search: &Search, found: &mut Vec<usize>) {
        while let Some(next) = self.next {
            let ready = self.waiting.keys().copied().find(|start| ahead(*start, next) <= 0);
            let Some((start, payload)) = ready.and_then(|start| self.waiting.remove_entry(&start))
            else {
                return;
            };
            self.advance(start, &payload, search, found);
        }
    }

    /// Takes the part that is new of a segment that starts at or before the next byte.
    fn advance(&mut self, start: u32, payload: &[u8], search: &Search, found: &mut Vec<usize>) {
        let next = self.next.unwrap_or(start);
        let known = usize::try_from(-ahead(start, next)).unwrap_or(0);
        let Some(new) = payload.get(known..).filter(|new| !new.is_empty()) else { return };
        self.next = Some(next.wrapping_add(new.len() as u32));
        self.flow.payload += new.len() as u64;
        let room = limits::FLOW_START - self.flow.start.len();
        self.flow.start.extend_from_slice(&new[..new.len().min(room)]);
        self.records.take(new);
        self.flow.not_tls = self.records.not_tls;
        self.flow.records_by_type = self.records.begun;
        self.flow.records = self.records.begun.iter().sum();
        self.search(new, search, found);
    }

    /// Searches the new bytes, and the seam between them and those before.
    fn search(&mut self, new: &[u8], search: &Search, found: &mut Vec<usize>) {
        const SEAM: usize = Canaries::LENGTH - 1;
        if !self.tail.is_empty() {
            self.tail.extend_from_slice(&new[..new.len().min(SEAM)]);
            search.find(&self.tail, found);
        }
        search.find(new, found);
        if new.len() >= SEAM {
            self.tail.clear();
            self.tail.extend_from_slice(&new[new.len() - SEAM..]);
        } else {
            // The seam already holds the new bytes, unless it was empty.
            if self.tail.is_empty() {
                self.tail.extend_from_slice(new);
            }
            let excess = self.tail.len().saturating_sub(SEAM);
            self.tail.drain(..excess);
        }
    }

    fn give_up_gap(&mut self) {
        let Some(next) = self.next else { return };
        if let Some(nearest) = self.waiting.keys().copied().min_by_key(|start| ahead(*start, next))
        {
            self.flow.missing += u64::try_from(ahead(nearest, next)).unwrap_or(0);
            self.next = Some(nearest);
            self.tail.clear();
        }
    }
}

/// How far `a` is ahead of `b` in sequence space.
fn ahead(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

/// Follows TLS records (RFC 8446, section 5.1); counts what cannot be part of one.
#[derive(Debug, Default)]
struct Records {
    header: Vec<u8>,
    remaining: usize,
    is_lost: bool,
    begun: [u64; 4],
    not_tls: u64,
}

impl Records {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.is_lost {
                self.not_tls += bytes.len() as u64;
                return;
            }
            let step = if self.remaining > 0 {
                let step = self.remaining.min(bytes.len());
                self.remaining -= step;
                step
            } else {
                let step = (5 - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..step]);
                self.judge_header();
                step
            };
            bytes = &bytes[step..];
        }
    }

    fn judge_header(&mut self) {
        let kind_fits = self.header.first().is_none_or(|kind| (20..=23).contains(kind));
        let version_fits = self.header.get(1).is_none_or(|major| *major == 3);
        let [_, _, _, high, low] = self.header[..] else {
            self.is_lost = !(kind_fits && version_fits);
            if self.is_lost {
                self.not_tls += self.header.len() as u64;
            }
            return;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind_fits && version_fits && (1..=16384 + 256).contains(&length) {
            self.begun[usize::from(self.header[0] - 20)] += 1;
            self.remaining = length;
        } else {
            self.is_lost = true;
            self.not_tls += self.header.len() as u64;
        }
        self.header.clear();
    }
}

#[cfg(test)]
mod tests;
