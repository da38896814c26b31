//! What a predecessor gives beside its listeners in pods: the listeners of its own, who has just
//! arrived, and where callers stay. The names of pieces are here, but for those that the kernel crate
//! knows.

use std::{
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use martlet_dataplane::Staying;
use martlet_kernel::{Estate, MOST_PASSED, Netns};
use martlet_model::WorkloadName;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Word;
use crate::{
    arrivals::Inherited,
    limits::{TAKEOVER_AFFINITIES, TAKEOVER_PIECE},
};

/// The listener for metrics.
const METRICS: &str = "metrics";
/// The listener at which the plugin of the container network asks.
const PLUGINS: &str = "plugins";
/// Before a pod that has arrived; the descriptor is its network namespace.
const ARRIVAL: &str = "arrival ";

/// What a predecessor has to give.
#[derive(Default)]
pub struct Given<'a> {
    pub estate: Estate,
    pub metrics: Option<BorrowedFd<'a>>,
    pub plugins: Option<BorrowedFd<'a>>,
    pub arrivals: Vec<(Inherited, Netns)>,
    pub stayings: Vec<Staying>,
}

/// What a successor has got of it.
#[derive(Debug, Default)]
pub struct Received {
    pub estate: Estate,
    pub metrics: Option<OwnedFd>,
    pub plugins: Option<OwnedFd>,
    pub arrivals: Vec<(Inherited, OwnedFd)>,
    pub stayings: Vec<Staying>,
}

/// A [`Staying`] in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stays {
    caller: WorkloadName,
    service: SocketAddr,
    endpoint: SocketAddr,
    lasts_ms: u64,
}

impl Given<'_> {
    /// In words, each of which fits into a line, with the descriptors that go along; the last one says
    /// that it is.
    pub(super) fn words(&self) -> Vec<(Word, Vec<BorrowedFd<'_>>)> {
        let own = [(METRICS, self.metrics), (PLUGINS, self.plugins)];
        let own = own.into_iter().filter_map(|(name, fd)| Some((name.to_owned(), fd?)));
        let arrivals = self.arrivals.iter().filter_map(|(arrival, netns)| {
            let text = serde_json::to_string(arrival).ok()?;
            // Within a word its quotes are longer.
            let fits = text.len() + text.matches(['"', '\\']).count() < TAKEOVER_PIECE;
            fits.then(|| (format!("{ARRIVAL}{text}"), netns.as_fd()))
        });
        let pieces: Vec<_> = self.estate.pieces().into_iter().chain(own).chain(arrivals).collect();
        let mut words: Vec<_> = pieces
            .chunks(MOST_PASSED)
            .map(|part| {
                let (pieces, fds) = part.iter().cloned().unzip();
                (Word::Handed { pieces, is_last: false, stayings: Vec::new() }, fds)
            })
            .collect();
        words.extend(self.stayings.chunks(TAKEOVER_AFFINITIES).map(|part| {
            let stayings = part.iter().cloned().map(Stays::from).collect();
            (Word::Handed { pieces: Vec::new(), is_last: false, stayings }, Vec::new())
        }));
        let last = Word::Handed { pieces: Vec::new(), is_last: true, stayings: Vec::new() };
        words.push((last, Vec::new()));
        words
    }
}

impl Received {
    pub(super) fn take(&mut self, name: &str, piece: OwnedFd) {
        let arrival = name.strip_prefix(ARRIVAL).map(serde_json::from_str);
        match (name, arrival) {
            (METRICS, _) => self.metrics = Some(piece),
            (PLUGINS, _) => self.plugins = Some(piece),
            (_, Some(Ok(arrival))) => self.arrivals.push((arrival, piece)),
            (_, None) if self.estate.take(name, piece) => {}
            // Of a later version: this one has no use for it.
            _ => warn!(name, "the other agent hands something over that is not known"),
        }
    }

    pub(super) fn stay(&mut self, all: Vec<Stays>) {
        self.stayings.extend(all.into_iter().map(Staying::from));
    }
}

impl From<Staying> for Stays {
    fn from(staying: Staying) -> Self {
        let Staying { caller, service, endpoint, lasts } = staying;
        let lasts_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        Self { caller, service, endpoint, lasts_ms }
    }
}

impl From<Stays> for Staying {
    fn from(stays: Stays) -> Self {
        let Stays { caller, service, endpoint, lasts_ms } = stays;
        Self { caller, service, endpoint, lasts: Duration::from_millis(lasts_ms) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::limits::TAKEOVER_LINE;

    fn name(length: usize) -> WorkloadName {
        let part = |length| "x".repeat(length).parse().unwrap();
        WorkloadName { namespace: part(63), name: part(length) }
    }

    fn staying(number: u16) -> Staying {
        let address = SocketAddr::from(([0xfd00, 1, 2, 3, 4, 5, 6, 7], number));
        let lasts = Duration::from_secs(u64::from(u32::MAX));
        Staying { caller: name(253), service: address, endpoint: address, lasts }
    }

    #[test]
    fn all_that_is_given_fits_into_words_and_is_received_again() {
        let file = File::open("/dev/null").unwrap();
        let stayings: Vec<_> = (0..1000).map(staying).collect();
        let given = Given {
            metrics: Some(file.as_fd()),
            plugins: Some(file.as_fd()),
            stayings: stayings.clone(),
            ..Given::default()
        };
        let mut received = Received::default();
        let words = given.words();
        for (number, (word, fds)) in words.iter().enumerate() {
            let line = serde_json::to_string(word).unwrap();
            assert!(line.len() < TAKEOVER_LINE, "{}", line.len());
            let Word::Handed { pieces, is_last, stayings } = serde_json::from_str(&line).unwrap()
            else {
                panic!("{line}")
            };
            assert_eq!((pieces.len(), is_last), (fds.len(), number == words.len() - 1));
            for (name, fd) in pieces.iter().zip(fds) {
                received.take(name, fd.try_clone_to_owned().unwrap());
            }
            received.stay(stayings);
        }
        assert!(received.metrics.is_some() && received.plugins.is_some());
        assert_eq!(received.stayings, stayings);
    }

    #[test]
    fn what_another_version_gives_is_passed_over() {
        let piece = || OwnedFd::from(File::open("/dev/null").unwrap());
        let mut received = Received::default();
        for name in ["something new", "arrival {}", "arrival of the queen"] {
            received.take(name, piece());
        }
        assert!(received.arrivals.is_empty() && received.metrics.is_none());
        // One of before knows of no stayings.
        let word = serde_json::from_str(r#"{"handed":{"pieces":[],"is_last":true}}"#).unwrap();
        assert!(matches!(word, Word::Handed { stayings, .. } if stayings.is_empty()));
    }
}
