//! `martlet check`: what can be wrong on this node, one thing after the other, each with what to do.

use std::time::SystemTime;

use martlet_kernel::Feature;
use martlet_model::{
    Failure,
    report::{
        CertificateReport, Check, CheckCategory, CheckReport, CheckResult, ControllerReport,
        LeafReport,
    },
};

use crate::{renewal::unix_seconds, reports::Shared};

/// An authority's certificate that expires within this many seconds is worth a warning, or within
/// the last quarter of its life: issuers of a week renew themselves at half of theirs.
const SOON_SECONDS: u64 = 30 * 86_400;

pub fn report(shared: &Shared) -> CheckReport {
    let now = unix_seconds(SystemTime::now());
    let categories =
        vec![agent(shared), kernel(shared), configuration(shared), identity(shared, now)];
    let failed = |check: &Check| check.result == CheckResult::Error;
    let success = !categories.iter().flat_map(|category| &category.checks).any(failed);
    CheckReport { success, categories }
}

fn agent(shared: &Shared) -> CheckCategory {
    let confinement = shared.confinement.get().cloned().unwrap_or_default();
    let missing = (!confinement.missing.is_empty()).then(|| confinement.missing.join("; "));
    let hint = "start the agent with the capabilities in docs/privileges.md, and no others";
    let mut checks =
        vec![check("the agent has the capabilities that it needs".to_owned(), missing, hint)];
    for (layer, why) in confinement.layers {
        let hint = "see docs/privileges.md for what it takes";
        let made = check(format!("the agent is confined by {layer}"), why, hint);
        checks.push(match made.result {
            CheckResult::Error => Check { result: CheckResult::Warning, ..made },
            _ => made,
        });
    }
    CheckCategory { category_name: "agent".to_owned(), checks }
}

fn kernel(shared: &Shared) -> CheckCategory {
    let mut checks = Vec::new();
    for feature in Feature::ALL {
        let missing = shared.missing.iter().find(|missing| missing.feature == *feature);
        checks.push(check(
            format!("the kernel has {}", feature.as_str()),
            missing.map(|missing| missing.why.clone()),
            "use a kernel of Linux 5.15 or later with BTF and cgroup v2",
        ));
    }
    match shared.node.get() {
        None => checks.push(check(
            "the kernel programs are attached".to_owned(),
            Some("they are not attached".to_owned()),
            "see the agent's log for what failed",
        )),
        Some(node) => checks.extend(node.hooks().iter().map(|hook| {
            let gone = (!hook.attached).then(|| "its link is gone".to_owned());
            let hint = "restart the agent; find out who detached it";
            check(format!("the program {} is attached", hook.name), gone, hint)
        })),
    }
    checks.push(changed(shared));
    CheckCategory { category_name: "kernel".to_owned(), checks }
}

/// What others have changed and the agent has put back is worth a look: it was open, or closed, for
/// a moment.
fn changed(shared: &Shared) -> Check {
    let description = "nobody else has changed what the agent put into the kernel".to_owned();
    let repairs = shared.repairs();
    let Some(last) = repairs.last() else { return check(description, None, "") };
    let times: u64 = repairs.iter().map(|repair| repair.count).sum();
    let hint = "see the agent's log and `martlet status`; find out who did it";
    let why = format!("{times} times since the agent started, the last time: {}", last.what);
    let is_put_back = repairs.iter().all(|repair| repair.error.is_none());
    let result = if is_put_back { CheckResult::Warning } else { CheckResult::Error };
    Check { result, ..check(description, Some(why), hint) }
}

fn configuration(shared: &Shared) -> CheckCategory {
    let refused = shared.configuration().error;
    let hint = "mend the node file; `martlet-agent --check` verifies it without taking it over";
    let mut checks = vec![check("the newest node file is in use".to_owned(), refused, hint)];
    let not_enrolled: Vec<_> =
        shared.not_ready().into_iter().filter(|why| why.contains("is not enrolled")).collect();
    let hint = "see `martlet workloads`";
    let waiting = (!not_enrolled.is_empty()).then(|| not_enrolled.join("; "));
    checks.push(check("every workload of this node is enrolled".to_owned(), waiting, hint));
    checks.push(fails_closed(shared));
    CheckCategory { category_name: "configuration".to_owned(), checks }
}

fn fails_closed(shared: &Shared) -> Check {
    let description = "without an agent nothing goes in plaintext".to_owned();
    match shared.configuration().file.settings.failure {
        Failure::Closed => check(description, None, ""),
        Failure::Open => {
            let why = "permissive workloads do, past every policy: `failure: open` is in effect";
            let hint = "write `failure: closed` into the node file, or into the MeshConfig, when the \
                        first days are over; see docs/failure.md";
            let made = check(description, Some(why.to_owned()), hint);
            Check { result: CheckResult::Warning, ..made }
        }
    }
}

fn identity(shared: &Shared, now: u64) -> CheckCategory {
    let mut checks: Vec<_> = shared
        .roots()
        .iter()
        .map(|root| lasting(format!("root {}", root.subject), root, now))
        .collect();
    checks.extend(shared.controller().map(|controller| connected(&controller)));
    let leaves = shared.leaves();
    if let Some(issuer) = leaves.iter().find_map(|leaf| leaf.chain.get(1)) {
        checks.push(lasting(format!("issuer {}", issuer.subject), issuer, now));
    }
    checks.extend(leaves.iter().map(|leaf| valid(leaf, now)));
    CheckCategory { category_name: "identity".to_owned(), checks }
}

/// Without its controller a node goes on with what it has, but not for ever.
fn connected(controller: &ControllerReport) -> Check {
    let description = format!("the controller {} is connected", controller.address);
    let refused = controller.refused.as_ref();
    let refused = refused.map(|why| format!("what it says is not taken: {why}"));
    let hint =
        "see the controller's log and docs/control.md; certificates can't be renewed meanwhile";
    let made = check(description, controller.away.clone().or(refused), hint);
    match (made.result, controller.version) {
        (CheckResult::Error, Some(_)) => Check { result: CheckResult::Warning, ..made },
        _ => made,
    }
}

fn valid(leaf: &LeafReport, now: u64) -> Check {
    let description = format!("{} has a valid certificate", leaf.workload);
    let expired = leaf.chain.first().is_none_or(|certificate| certificate.not_after <= now);
    let why = expired.then(|| "it has expired".to_owned());
    let hint = "see the agent's log for why it was not renewed";
    match (&leaf.renewal_error, why) {
        (Some(error), None) => Check {
            result: CheckResult::Warning,
            ..check(description, Some(format!("not renewed: {error}")), hint)
        },
        (_, why) => check(description, why, hint),
    }
}

/// An authority's certificate, of which people must take care.
fn lasting(whose: String, certificate: &CertificateReport, now: u64) -> Check {
    let left = certificate.not_after.saturating_sub(now);
    let hint = "an issuer renews itself where root.key is; elsewhere ask for a new one with \
                `martlet authority csr`; docs/trust.md says how";
    let life = certificate.not_after.saturating_sub(certificate.not_before);
    let days = left / 86_400;
    match left {
        0 => check(format!("{whose} is valid"), Some("it has expired".to_owned()), hint),
        _ if left < SOON_SECONDS.min(life / 4) => Check {
            result: CheckResult::Warning,
            ..check(format!("{whose} is valid"), Some(format!("it expires in {days} days")), hint)
        },
        _ => check(format!("{whose} is valid for {days} days"), None, hint),
    }
}

fn check(description: String, error: Option<String>, hint: &str) -> Check {
    let result = if error.is_none() { CheckResult::Success } else { CheckResult::Error };
    let hint = error.is_some().then(|| hint.to_owned());
    Check { description, result, error, hint }
}
