//! Where certificates come from: exactly one source, and nothing here that a controller says.

use super::{Findings, text};
use crate::{
    file::{self, File},
    mark::{At, Mark},
    node_file::{Controller, Joins, Source},
    problem::Fault,
};

pub(super) fn source(file: &File, found: &mut Findings) -> Option<Source> {
    match (file.authority.as_ref(), file.controller.as_ref()) {
        (Some(authority), None) => text::path(&authority.directory, found).map(Source::Authority),
        (None, Some(controller)) => {
            refuse_what_it_says(file, found);
            let address = text::host_and_port(&controller.value.address, found);
            let joins = joins(controller, found);
            Some(Source::Controller(Controller { address: address?, joins: joins? }))
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

fn joins(controller: &At<file::Controller>, found: &mut Findings) -> Option<Joins> {
    let file::Controller { token, service_account, host_certificate, .. } = &controller.value;
    match (token.as_ref(), service_account.as_ref(), host_certificate.as_ref()) {
        (Some(token), None, None) => text::path(token, found).map(Joins::Token),
        (None, None, Some(host)) => {
            let certificate = text::path(&host.value.certificate, found);
            let key = text::path(&host.value.key, found);
            let roots = text::path(&host.value.roots, found);
            Some(Joins::Host { certificate: certificate?, key: key?, roots: roots? })
        }
        (None, Some(account), None) => {
            let token = text::path(&account.value.token, found);
            let roots = text::path(&account.value.roots, found);
            Some(Joins::ServiceAccount { token: token?, roots: roots? })
        }
        _ => {
            found.note(controller.mark, Fault::NotOneJoining);
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
