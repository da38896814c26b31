//! Where certificates come from: exactly one source, and nothing here that a controller says.

use super::{Findings, text};
use crate::{
    file::File,
    mark::Mark,
    node_file::{Controller, Source},
    problem::Fault,
};

pub(super) fn source(file: &File, found: &mut Findings) -> Option<Source> {
    match (file.authority.as_ref(), file.controller.as_ref()) {
        (Some(authority), None) => text::path(&authority.directory, found).map(Source::Authority),
        (None, Some(controller)) => {
            refuse_what_it_says(file, found);
            let address = text::host_and_port(&controller.value.address, found);
            let token = text::path(&controller.value.token, found);
            Some(Source::Controller(Controller { address: address?, token: token? }))
        }
        (None, None) => {
            found.note(file.trust_domain.mark, Fault::NoSource);
            None
        }
        (Some(_), Some(controller)) => {
            found.note(controller.mark, Fault::TwoSources);
            None
        }
    }
}

fn refuse_what_it_says(file: &File, found: &mut Findings) {
    let first: [(_, Option<Option<Mark>>); 3] = [
        ("workloads", file.workloads.first().map(|entry| entry.mark)),
        ("services", file.services.first().map(|entry| entry.namespace.mark)),
        ("policies", file.policies.first().map(|entry| entry.namespace.mark)),
    ];
    for (key, mark) in first {
        if let Some(mark) = mark {
            found.note(mark, Fault::SaidByController { key });
        }
    }
}
