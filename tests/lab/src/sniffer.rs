//! Sees every frame in some network namespaces, and says what it found in them.
//!
//! One thread per namespace: a packet socket without a filter, opened before `start` returns,
//! whose drop counter must be 0 in the end, or nothing that it did not see means anything.

mod flow;
mod frame;
mod search;
mod socket;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Result, anyhow, bail};

pub use self::flow::Flow;
use self::{flow::Stream, frame::Segment, search::Search, socket::PacketSocket};
use crate::{canary::Canaries, limits, netns::Netns};

/// A running capture.
#[derive(Debug)]
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<u64>>>,
    seen: Arc<Mutex<Seen>>,
}

/// A capture that has ended.
#[derive(Debug)]
pub struct Capture {
    seen: Seen,
}

/// What all threads have seen together.
#[derive(Debug, Default)]
struct Seen {
    frames: u64,
    bytes: u64,
    found: BTreeSet<usize>,
    flows: BTreeMap<(SocketAddr, SocketAddr), Flow>,
    ring: VecDeque<Vec<u8>>,
}

impl Sniffer {
    /// Watches all interfaces but loopback of these namespaces.
    pub fn start<'a>(
        namespaces: impl IntoIterator<Item = &'a Netns>,
        canaries: &Canaries,
    ) -> Result<Sniffer> {
        Sniffer::of(namespaces, canaries, false)
    }

    /// The same, of what these namespaces send only. What comes to a node out of a pod is seen by a
    /// packet socket before it is refused; this is what was not.
    pub fn start_outgoing<'a>(
        namespaces: impl IntoIterator<Item = &'a Netns>,
        canaries: &Canaries,
    ) -> Result<Sniffer> {
        Sniffer::of(namespaces, canaries, true)
    }

    fn of<'a>(
        namespaces: impl IntoIterator<Item = &'a Netns>,
        canaries: &Canaries,
        only_outgoing: bool,
    ) -> Result<Sniffer> {
        let search = Arc::new(Search::new(canaries)?);
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut threads = Vec::new();
        for netns in namespaces {
            let socket = netns.run(PacketSocket::open)??;
            let (search, stop, seen) = (search.clone(), stop.clone(), seen.clone());
            threads
                .push(thread::spawn(move || watch(&socket, only_outgoing, &search, &stop, &seen)));
        }
        if threads.is_empty() {
            bail!("a sniffer needs a namespace to watch");
        }
        Ok(Sniffer { stop, threads, seen })
    }

    /// How many different canaries were found so far.
    pub fn found(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).found.len()
    }

    /// Ends when all that is waiting has been looked at; fails if a single frame was lost.
    pub fn stop(self) -> Result<Capture> {
        self.stop.store(true, Ordering::Release);
        let mut drops = 0;
        for thread in self.threads {
            drops += thread.join().map_err(|_| anyhow!("a sniffer thread panicked"))??;
        }
        if drops > 0 {
            bail!("the sniffer lost {drops} frames");
        }
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Capture { seen })
    }
}

impl Capture {
    pub fn frames(&self) -> u64 {
        self.seen.frames
    }

    pub fn bytes(&self) -> u64 {
        self.seen.bytes
    }

    /// The indices of the canaries that were found, in the order in which they were given.
    pub fn found(&self) -> &BTreeSet<usize> {
        &self.seen.found
    }

    /// Every TCP direction that was seen, by source and destination.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.seen.flows.values()
    }

    pub fn flow(&self, source: SocketAddr, destination: SocketAddr) -> Option<&Flow> {
        self.seen.flows.get(&(source, destination))
    }

    /// Directions in which either end is this address and port.
    pub fn flows_of(&self, end: SocketAddr) -> impl Iterator<Item = &Flow> {
        self.flows().filter(move |flow| flow.source == end || flow.destination == end)
    }

    /// The newest frames, each cut to its first bytes.
    pub fn frames_kept(&self) -> impl Iterator<Item = &[u8]> {
        self.seen.ring.iter().map(Vec::as_slice)
    }
}

/// Runs until told to stop and nothing is waiting; gives the number of frames that were lost.
fn watch(
    socket: &PacketSocket,
    only_outgoing: bool,
    search: &Search,
    stop: &AtomicBool,
    seen: &Mutex<Seen>,
) -> Result<u64> {
    let mut buffer = vec![0; limits::FRAME];
    let mut streams = BTreeMap::<StreamKey, Stream>::new();
    loop {
        // Read before the socket: what was sent before `stop` is in the socket by now. There may
        // never be a quiet moment on the wire, so it is not waited for.
        let is_stopping = stop.load(Ordering::Acquire);
        match socket.receive(&mut buffer, !is_stopping)? {
            Some(arrival) if arrival.is_loopback => {}
            Some(arrival) if only_outgoing && !arrival.is_outgoing => {}
            Some(arrival) => {
                let frame = &buffer[..arrival.length];
                let found =
                    look(frame, (arrival.interface, arrival.is_outgoing), search, &mut streams);
                seen.lock().unwrap_or_else(PoisonError::into_inner).note(frame, &found, &streams);
            }
            None if is_stopping => return socket.drops(),
            None => {}
        }
    }
}

/// A frame crosses several interfaces; each crossing is a stream of its own.
type StreamKey = ((i32, bool), SocketAddr, SocketAddr);

struct Found {
    canaries: Vec<usize>,
    stream: Option<StreamKey>,
}

fn look(
    frame: &[u8],
    crossing: (i32, bool),
    search: &Search,
    streams: &mut BTreeMap<StreamKey, Stream>,
) -> Found {
    let mut canaries = Vec::new();
    let Some(segment) = Segment::parse(frame) else {
        search.find(frame, &mut canaries);
        return Found { canaries, stream: None };
    };
    let key = (crossing, segment.source, segment.destination);
    let stream = streams
        .entry(key)
        .or_insert_with(|| Stream::new(segment.source, segment.destination, Instant::now()));
    stream.take(&segment, search, &mut canaries);
    Found { canaries, stream: Some(key) }
}

impl Seen {
    fn note(&mut self, frame: &[u8], found: &Found, streams: &BTreeMap<StreamKey, Stream>) {
        self.frames += 1;
        self.bytes += frame.len() as u64;
        self.found.extend(&found.canaries);
        if self.ring.len() == limits::RING_FRAMES {
            self.ring.pop_front();
        }
        self.ring.push_back(frame[..frame.len().min(limits::RING_FRAME_BYTES)].to_vec());
        if let Some(key) = &found.stream {
            let flow = streams[key].flow();
            let known =
                self.flows.entry((flow.source, flow.destination)).or_insert_with(|| flow.clone());
            known.merge(flow);
        }
    }
}
