//! Names, and who makes room.

use std::{sync::Arc, time::Duration};

use martlet_kernel::Amount;
use martlet_model::{SpiffeId, Workload};

use super::*;

fn name(text: &str) -> WorkloadName {
    WorkloadName { namespace: "shop".parse().unwrap(), name: text.parse().unwrap() }
}

fn directory(workloads: &[(&str, &str)]) -> Directory {
    let workload = |(text, address): &(&str, &str)| {
        Arc::new(Workload {
            name: name(text),
            service_account: "web".parse().unwrap(),
            identity: SpiffeId::for_workload(&"a.org".parse().unwrap(), "shop", "web").unwrap(),
            addresses: vec![address.parse().unwrap()],
            node: "one".parse().unwrap(),
            mode: Mode::Strict,
            policies: vec![],
        })
    };
    Directory::new(workloads.iter().map(workload), []).unwrap()
}

fn tally(bytes: u64) -> Tally {
    let mut tally = Tally::EMPTY;
    tally.columns[Column::Mtls as usize] = Amount { bytes, units: 1 };
    tally
}

fn entry(from: &str, to: Class) -> (Pair, Tally) {
    (Pair { from: party(&name(from)), to: Party::class(to) }, tally(7))
}

#[test]
fn a_name_has_one_number_in_every_agent() {
    // Written down: an agent of another build must read what this one has counted.
    assert_eq!(party(&name("web-0")).0, 0xad0f_4c26_2fc8_383a);
    assert_ne!(party(&name("web-0")), party(&name("web-1")));
}

#[test]
fn a_workload_that_is_gone_keeps_its_name_while_its_numbers_are_there() {
    let (now, mut known) = (Instant::now(), Known::default());
    let entries = [entry("web-0", Class::Private)];
    known.learn(&directory(&[("web-0", "10.0.0.1")]), &entries, now);
    // Its address is another's now.
    known.learn(&directory(&[("cart-0", "10.0.0.1")]), &entries, now);
    let report = known.pair(entries[0].0, &entries[0].1);
    assert_eq!(report.from, Counterpart::Workload(name("web-0")));
    assert_eq!((report.to, report.mtls.bytes), (Counterpart::Private, 7));

    let mut started_anew = Known::default();
    started_anew.learn(&directory(&[("cart-0", "10.0.0.1")]), &entries, now);
    assert_eq!(started_anew.pair(entries[0].0, &tally(7)).from, Counterpart::FormerWorkload);
}

#[test]
fn room_is_made_by_those_that_are_gone_for_long_and_by_nobody_else() {
    let directory = directory(&[("web-0", "10.0.0.1")]);
    let here = entry("web-0", Class::Private);
    let gone = (0..LEDGER_HIGH).map(|i| entry(&format!("old-{i}"), Class::Private));
    let entries: Vec<_> = gone.chain([here]).collect();
    let (now, mut known) = (Instant::now(), Known::default());
    known.learn(&directory, &entries, now);
    assert!(known.leaving(&entries, now).is_empty(), "their last packets may be under way");
    let later = now + GONE_FOR;
    let leaving = known.leaving(&entries, later);
    assert_eq!(leaving.len(), entries.len() - LEDGER_LOW);
    assert!(!leaving.contains(&here.0));
    assert!(known.leaving(&entries[2..], later).is_empty(), "there is room");
    assert!(GONE_FOR > Duration::from_secs(60));
}
