//! `martlet connections`: what is open now.

use std::time::{Duration, SystemTime};

use martlet_model::{Protection, report::Connections};

use super::Of;
use crate::{
    human::{self, Names},
    paint::Tone,
    table::{Table, cell, plain},
};

pub fn page(report: &Connections, _now: SystemTime) -> String {
    pages(&[Of::here(report)])
}

pub fn pages(all: &[Of<'_, Connections>]) -> String {
    let open = || all.iter().flat_map(|of| of.said.connections.iter().map(|open| (of.node, open)));
    if open().next().is_none() {
        return "no connections are open\n".to_owned();
    }
    let parties = open().flat_map(|(_, open)| [&open.source, &open.destination]);
    let names = Names::of(parties.filter_map(|party| party.identity.as_ref()));
    let mut table = Table::of_nodes(
        all.iter().any(|of| of.node.is_some()),
        &[
            "AGE",
            "REPORTER",
            "FROM",
            "IDENTITY",
            "TO",
            "IDENTITY",
            "PROTECTION",
            "SENT",
            "RECEIVED",
        ],
    );
    for (node, open) in open() {
        let cells = [
            plain(human::span(Duration::from_millis(open.age_ms))),
            plain(open.reporter.as_str()),
            plain(human::place(&open.source)),
            plain(names.party(&open.source)),
            plain(human::destination(&open.destination, open.origin)),
            plain(names.party(&open.destination)),
            cell(open.protection.as_str(), protection_tone(open.protection)),
            plain(human::bytes(open.bytes_sent)),
            plain(human::bytes(open.bytes_received)),
        ];
        table.row_of(node, cells);
    }
    table.text() + &names.legend()
}

pub fn protection_tone(protection: Protection) -> Tone {
    match protection {
        Protection::MutualTls => Tone::Good,
        Protection::Plaintext => Tone::Warning,
        Protection::Internal | Protection::None => Tone::Plain,
    }
}
