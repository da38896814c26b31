//! What was not as it should be, and what became of it.
//!
//! What should be is said in three places only: [`crate::hooks`] for the node's programs, the maps'
//! own memory of what was written to them ([`crate::kept`]), and [`crate::Pod`] for what belongs to
//! one pod. A pass compares each with the kernel and puts it back by the same functions that made
//! it.

use martlet_model::report::RepairKind;

use crate::KernelError;

/// Something that somebody else has changed.
#[derive(Debug)]
pub struct Finding {
    pub kind: RepairKind,
    /// What was wrong.
    pub what: String,
    /// Why it could not be put back; `None` if it was.
    pub problem: Option<KernelError>,
}

impl Finding {
    pub(crate) fn new(kind: RepairKind, what: String, repaired: Result<(), KernelError>) -> Self {
        Self { kind, what, problem: repaired.err() }
    }

    /// What could not be looked at may be wrong.
    pub fn unknown(problem: KernelError) -> Self {
        let what = "the kernel's state could not be looked at".to_owned();
        Self { kind: RepairKind::Unknown, what, problem: Some(problem) }
    }
}

pub(crate) fn or_unknown(findings: Result<Vec<Finding>, KernelError>) -> Vec<Finding> {
    findings.unwrap_or_else(|problem| vec![Finding::unknown(problem)])
}
