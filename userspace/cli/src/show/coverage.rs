//! `martlet coverage`: what was encrypted and what was not.
//!
//! What is not encrypted comes first: the list to work through before workloads become strict.

use std::cmp::Reverse;

use martlet_model::coverage::{
    Counterpart, Coverage, CoverageTotals, Datagrams, PairReport, Stream,
};

use super::Of;
use crate::{
    args::{CoverageFilter, Kind},
    human,
    paint::{Tone, paint},
    table::{Table, cell, plain},
};

pub fn is_whole(filter: &CoverageFilter) -> bool {
    let CoverageFilter { workload, namespace, only } = filter;
    workload.is_none() && namespace.is_none() && only.is_empty()
}

/// Leaves the pairs that were asked for, in the order in which they are shown.
pub fn filter(report: &mut Coverage, filter: &CoverageFilter) {
    let CoverageFilter { workload, namespace, only } = filter;
    let ends = |pair: &PairReport, claim: &dyn Fn(&Counterpart) -> bool| {
        claim(&pair.from) || claim(&pair.to)
    };
    let is_named = |end: &Counterpart, wanted: &String| match end {
        Counterpart::Workload(name) => name.to_string() == *wanted,
        _ => false,
    };
    let is_in = |end: &Counterpart, wanted: &String| match end {
        Counterpart::Workload(name) => name.namespace.as_str() == wanted,
        _ => false,
    };
    report.pairs.retain(|pair| {
        workload.as_ref().is_none_or(|wanted| ends(pair, &|end| is_named(end, wanted)))
            && namespace.as_ref().is_none_or(|wanted| ends(pair, &|end| is_in(end, wanted)))
            && (only.is_empty() || has_any(pair, only))
    });
    report.pairs.sort_by_key(order);
}

/// What is not encrypted first, and of that what a strict workload would refuse.
fn order(pair: &PairReport) -> impl Ord + use<> {
    let in_clear = pair.plaintext.bytes.saturating_add(pair.other.bytes);
    (
        Reverse(pair.would_be_refused()),
        Reverse(!pair.unseen.is_empty()),
        Reverse(!pair.plaintext.is_empty()),
        Reverse(!pair.other.is_empty()),
        Reverse(in_clear),
        Reverse(!pair.refused.is_empty() || !pair.other_refused.is_empty()),
        Reverse(pair.mtls.bytes),
    )
}

pub fn has_any(pair: &PairReport, kinds: &[Kind]) -> bool {
    kinds.iter().any(|kind| match kind {
        Kind::Mtls => !pair.mtls.is_empty(),
        Kind::Plaintext => !pair.plaintext.is_empty(),
        Kind::Unseen => !pair.unseen.is_empty(),
        Kind::Refused => !pair.refused.is_empty(),
        Kind::Other => !pair.other.is_empty(),
        Kind::OtherRefused => !pair.other_refused.is_empty(),
        Kind::Strict => pair.would_be_refused(),
    })
}

pub fn page(report: &Coverage) -> String {
    pages(&[Of::here(report)])
}

/// What two nodes have both counted stands there twice, as each has seen it.
pub fn pages(all: &[Of<'_, Coverage>]) -> String {
    let mut pairs: Vec<_> =
        all.iter().flat_map(|of| of.said.pairs.iter().map(|pair| (of.node, pair))).collect();
    if pairs.is_empty() {
        return "nothing was counted\n".to_owned();
    }
    pairs.sort_by_key(|(_, pair)| order(pair));
    let mut table = Table::of_nodes(
        all.iter().any(|of| of.node.is_some()),
        &[
            "FROM",
            "TO",
            "PLAINTEXT",
            "UNSEEN",
            "UDP, OTHER",
            "REFUSED",
            "UDP, OTHER REFUSED",
            "MTLS",
        ],
    );
    for (node, pair) in &pairs {
        let plaintext = if pair.would_be_refused() { Tone::Bad } else { Tone::Warning };
        let cells = [
            plain(end(&pair.from)),
            plain(end(&pair.to)),
            cell(stream(pair.plaintext), plaintext),
            cell(stream(pair.unseen), Tone::Bad),
            cell(datagrams(pair.other), Tone::Warning),
            plain(stream(pair.refused)),
            plain(datagrams(pair.other_refused)),
            cell(stream(pair.mtls), Tone::Good),
        ];
        table.row_of(*node, cells);
    }
    let pairs: Vec<_> = pairs.into_iter().map(|(_, pair)| pair).collect();
    table.text() + "\n" + &verdict(&pairs) + "\n"
}

/// How much was encrypted, and whether it is safe to go strict.
fn verdict(pairs: &[&PairReport]) -> String {
    let totals = CoverageTotals::of(pairs.iter().copied());
    let encrypted = match totals.passed() {
        0 => "nothing was let through".to_owned(),
        all => {
            let bytes = human::bytes(all);
            format!(
                "{} of the {bytes} that were let through were encrypted",
                share(totals.mtls.bytes, all)
            )
        }
    };
    let refused = pairs.iter().filter(|pair| pair.would_be_refused()).count();
    let is_complete = !pairs.iter().any(|pair| pair.from == Counterpart::Others);
    match (refused, is_complete) {
        (0, true) => paint(&format!("{encrypted}; strict would refuse none of it"), Tone::Good),
        (0, false) => {
            let why = "some pairs found no room in the kernel's map, so nobody can say what strict would refuse";
            paint(&format!("{encrypted}; {why}"), Tone::Warning)
        }
        (1, _) => {
            paint(&format!("{encrypted}; strict would refuse plaintext of 1 pair"), Tone::Bad)
        }
        (pairs, _) => paint(
            &format!("{encrypted}; strict would refuse plaintext of {pairs} pairs"),
            Tone::Bad,
        ),
    }
}

/// Cut off, so that 100% means all of it.
fn share(part: u64, all: u64) -> String {
    let tenths = u128::from(part) * 1000 / u128::from(all.max(1));
    match tenths % 10 {
        0 => format!("{}%", tenths / 10),
        tenth => format!("{}.{tenth}%", tenths / 10),
    }
}

fn end(end: &Counterpart) -> String {
    match end {
        Counterpart::Workload(name) => return name.to_string(),
        Counterpart::FormerWorkload => "(a former workload)",
        Counterpart::Service => "(a service's address)",
        Counterpart::Node => "(this node)",
        Counterpart::Private => "(private)",
        Counterpart::LinkLocal => "(link-local)",
        Counterpart::Multicast => "(multicast)",
        Counterpart::Public => "(public)",
        Counterpart::Unknown => "(unknown)",
        Counterpart::Others => "(others)",
        Counterpart::Gone => "(gone)",
    }
    .to_owned()
}

fn stream(stream: Stream) -> String {
    if stream.is_empty() {
        return human::unknown();
    }
    format!("{} / {}", human::bytes(stream.bytes), stream.connections)
}

fn datagrams(datagrams: Datagrams) -> String {
    if datagrams.is_empty() {
        return human::unknown();
    }
    format!("{} / {}", human::bytes(datagrams.bytes), datagrams.packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_rounded_up() {
        for (part, all, text) in
            [(0, 10, "0%"), (10, 10, "100%"), (999_999, 1_000_000, "99.9%"), (1, 3, "33.3%")]
        {
            assert_eq!(share(part, all), text);
        }
    }
}
