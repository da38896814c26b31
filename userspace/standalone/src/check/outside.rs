//! Network namespaces that are outside the mesh: each is listed once, and is no workload's.

use martlet_model::NetnsSource;

use super::{Findings, Seen, workloads::source};
use crate::{
    file::{File, Undecided},
    mark::At,
    node_file::Outside,
};

pub(super) fn outside(
    file: &File,
    workloads: &mut Seen<NetnsSource>,
    found: &mut Findings,
) -> Outside {
    let mut these = Vec::new();
    for At { value, mark } in &file.outside {
        let Some(source) = source(value, found) else { continue };
        workloads.once(source.clone(), || "this network namespace".to_owned(), *mark, found);
        these.push(source);
    }
    match file.undecided.as_ref() {
        None | Some(Undecided::Refuse) => Outside::These(these),
        Some(Undecided::Pass) => Outside::AllOthers,
    }
}
