//! What others have changed in the kernel: said when it begins, counted each time, and a reason not
//! to be ready until it is put back.

use std::{collections::HashSet, time::SystemTime};

use martlet_kernel::Finding;
use martlet_model::report::{Repair, RepairKind};
use martlet_telemetry::{Metrics, Outcome};
use tracing::warn;

use crate::{
    limits::{REPAIRS_KEPT, REPAIRS_SAID},
    renewal::unix_seconds,
    workloads::chain,
};

/// What the passes so far have found.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// The latest last.
    repairs: Vec<Repair>,
    /// What the last pass has found, and could not put back.
    open: Vec<String>,
    /// What the last pass has found at all: what goes on is not said again.
    last: HashSet<(RepairKind, String, Option<String>)>,
}

impl Upkeep {
    /// Takes what one pass has found.
    pub fn take(&mut self, findings: Vec<Finding>, metrics: &Metrics, now: SystemTime) {
        let (mut found, mut unsaid) = (HashSet::new(), 0);
        self.open.clear();
        for Finding { kind, what, problem } in findings {
            let error = problem.map(|problem| chain(&problem));
            metrics.repair(kind, if error.is_none() { Outcome::Success } else { Outcome::Failure });
            if let Some(error) = &error {
                self.open.push(format!("{what}, and it can't be put back: {error}"));
            }
            let key = (kind, what.clone(), error.clone());
            match (self.last.contains(&key), found.len() < REPAIRS_SAID) {
                (true, _) => {}
                (false, true) => say(kind, &what, error.as_deref()),
                (false, false) => unsaid += 1,
            }
            found.insert(key);
            self.keep(kind, what, error, unix_seconds(now));
        }
        if unsaid > 0 {
            warn!(unsaid, "more was changed by others at the same time");
        }
        self.last = found;
    }

    fn keep(&mut self, kind: RepairKind, what: String, error: Option<String>, last: u64) {
        let known = self.repairs.iter().position(|known| known.kind == kind && known.what == what);
        let count = known.map_or(0, |known| self.repairs.remove(known).count) + 1;
        if self.repairs.len() == REPAIRS_KEPT {
            self.repairs.remove(0);
        }
        self.repairs.push(Repair { kind, what, count, last, error });
    }

    pub fn repairs(&self) -> Vec<Repair> {
        self.repairs.clone()
    }

    /// What is not as it should be.
    pub fn open(&self) -> &[String] {
        &self.open
    }
}

fn say(kind: RepairKind, what: &str, error: Option<&str>) {
    match error {
        None => warn!(kind = kind.as_str(), what, "changed by somebody else, and put back"),
        Some(error) => {
            warn!(kind = kind.as_str(), what, error, "changed by somebody else, and not put back");
        }
    }
}

#[cfg(test)]
mod tests {
    use martlet_kernel::KernelError;

    use super::*;

    fn finding(what: &str, problem: Option<KernelError>) -> Finding {
        Finding { kind: RepairKind::Entry, what: what.to_owned(), problem }
    }

    #[test]
    fn what_is_not_put_back_is_open_until_a_pass_finds_it_no_more() {
        let (mut upkeep, metrics, now) = (Upkeep::default(), Metrics::new("0"), SystemTime::now());
        let both = || vec![finding("a", None), finding("b", Some(KernelError::NoAddress))];
        upkeep.take(both(), &metrics, now);
        upkeep.take(both(), &metrics, now);
        assert_eq!(upkeep.open(), ["b, and it can't be put back: a workload needs an address"]);
        let counts: Vec<_> = upkeep.repairs().iter().map(|repair| repair.count).collect();
        assert_eq!(counts, [2, 2]);
        upkeep.take(vec![finding("b", None)], &metrics, now);
        assert!(upkeep.open().is_empty());
        let last = upkeep.repairs().pop().expect("b is the latest");
        assert_eq!((last.what.as_str(), last.count, last.error), ("b", 3, None));
    }

    #[test]
    fn the_list_of_repairs_is_bounded_and_keeps_the_latest() {
        let (mut upkeep, metrics, now) = (Upkeep::default(), Metrics::new("0"), SystemTime::now());
        let many = (0..1000).map(|number| finding(&number.to_string(), None)).collect();
        upkeep.take(many, &metrics, now);
        assert_eq!(upkeep.repairs().len(), REPAIRS_KEPT);
        assert_eq!(upkeep.repairs().pop().expect("not empty").what, "999");
    }
}
