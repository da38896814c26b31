//! The controller's two files.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use martlet_model::Directory;
use martlet_policy::PolicySet;

use super::{Findings, Seen, federated, policies, services, settings, text, workloads};
use crate::{
    controller_file::{self, ControllerFile, Hosts, InCluster, Knows},
    directory_file::{self, DirectoryFile},
    limits,
    mark::{At, Given, Texts},
    problem::Fault,
};

/// Shorter ones would be renewed all the time; longer ones are not issued.
const LIFETIMES: std::ops::RangeInclusive<u64> = 600..=86_400;

pub(crate) fn directory(file: &directory_file::Shape) -> Result<DirectoryFile, Findings> {
    let mut findings = Findings::default();
    let found = &mut findings;
    let trust_domain = text::trust_domain(&file.trust_domain, found);
    let workloads = workloads::all(&file.workloads, trust_domain.as_ref(), found);
    let services = services::services(&file.services, &workloads.owners, found);
    let policies = policies::policies(&file.policies, found);
    // Both refuse what was noted above, without knowing its place.
    if findings.problems.is_empty()
        && let Some(trust_domain) = trust_domain
    {
        let (all, local) = (workloads.all, workloads.local);
        let directory = Directory::new(all.iter().cloned(), services.iter().cloned());
        let is_whole = findings.keep(None, directory).is_some();
        let is_decided = findings.keep(None, PolicySet::new(policies.clone())).is_some();
        if is_whole && is_decided {
            let policies = policies.into_iter().map(Arc::new).collect();
            return Ok(DirectoryFile { trust_domain, workloads: all, services, policies, local });
        }
    }
    Err(findings)
}

pub(crate) fn controller(file: &controller_file::Shape) -> Result<ControllerFile, Findings> {
    let mut findings = Findings::default();
    let found = &mut findings;
    let trust_domain = text::trust_domain(&file.trust_domain, found);
    let knows = knows(file, found);
    let hosts = hosts(file, found);
    let address = match file.address.as_ref() {
        None => Some(None),
        Some(given) => text::host_and_port(given, found).map(Some),
    };
    let listen = listen(&file.listen, found);
    let path = |given: &Given<At<String>>, default: &str, found: &mut Findings| match given.as_ref()
    {
        None => Some(PathBuf::from(default)),
        Some(given) => text::path(given, found),
    };
    let state = path(&file.state, "/var/lib/martlet-controller", found);
    let socket = match file.socket.as_ref() {
        None => Some(PathBuf::from("/run/martlet/controller.sock")),
        Some(given) => text::socket_path(given, found),
    };
    let metrics = match file.metrics.as_ref() {
        None => Some(Some(controller_file::METRICS)),
        Some(given) => settings::metrics(given, found),
    };
    let leaf_lifetime = match file.leaf_lifetime.as_ref() {
        None => Some(Duration::from_secs(*LIFETIMES.end())),
        Some(given) => found.keep(given.mark, lifetime(&given.value)),
    };
    let federated = match file.federation.as_ref() {
        None => Vec::new(),
        Some(entries) => federated::federated(entries, trust_domain.as_ref(), found),
    };
    let endpoint =
        file.bundle_endpoint.as_ref().and_then(|given| federated::endpoint(given, found));
    match (trust_domain, knows, address, state, socket, metrics, leaf_lifetime) {
        (
            Some(trust_domain),
            Some(knows),
            Some(address),
            Some(state),
            Some(socket),
            Some(metrics),
            Some(leaf_lifetime),
        ) if findings.problems.is_empty() => Ok(ControllerFile {
            trust_domain,
            knows,
            hosts,
            address,
            listen,
            state,
            socket,
            metrics,
            leaf_lifetime,
            federated,
            bundle_endpoint: endpoint,
        }),
        _ => Err(findings),
    }
}

fn knows(file: &controller_file::Shape, found: &mut Findings) -> Option<Knows> {
    match (file.directory.as_ref(), file.kubernetes.as_ref()) {
        (Some(directory), None) => text::path(directory, found).map(Knows::Directory),
        (None, Some(kubernetes)) => cluster(&kubernetes.value, found).map(Knows::Cluster),
        (None, None) | (Some(_), Some(_)) => {
            let second = file.kubernetes.as_ref().and_then(|kubernetes| kubernetes.mark);
            found.note(second.or(file.trust_domain.mark), Fault::NotOneKnowledge);
            None
        }
    }
}

fn hosts(file: &controller_file::Shape, found: &mut Findings) -> Option<Hosts> {
    let given = file.hosts.as_ref()?;
    if file.kubernetes.as_ref().is_some() {
        found.note(given.mark, Fault::HostsOfCluster);
    }
    let domain = match given.value.domain.as_ref() {
        None => None,
        Some(domain) => Some(text::label(domain, found)?),
    };
    text::path(&given.value.authorities, found).map(|authorities| Hosts { authorities, domain })
}

fn cluster(file: &controller_file::Kubernetes, found: &mut Findings) -> Option<InCluster> {
    let mut label = |given: &Given<At<String>>, default: &str| match given.as_ref() {
        Some(given) => text::label(given, found),
        None => default.parse().ok(),
    };
    let namespace = label(&file.namespace, controller_file::SYSTEM_NAMESPACE);
    let agent_service_account = label(&file.agent_service_account, controller_file::AGENT);
    let audience = match file.audience.as_ref() {
        Some(given) if given.value.is_empty() => {
            let instead = "leave it out for martlet-controller";
            found.note(given.mark, Fault::Empty { key: "audience", instead });
            None
        }
        Some(given) => Some(given.value.clone()),
        None => Some(controller_file::AUDIENCE.to_owned()),
    };
    Some(InCluster {
        namespace: namespace?,
        agent_service_account: agent_service_account?,
        audience: audience?,
        udp: workloads::udp(file.udp.as_ref()),
        startup_taint: file.startup_taint.as_ref().is_some_and(|given| given.value),
    })
}

fn listen(given: &Given<Texts>, found: &mut Findings) -> Vec<SocketAddr> {
    let Some(texts) = given.as_ref() else { return vec![controller_file::LISTEN] };
    found.refuse_empty("listen", texts, "leave it out to listen at 0.0.0.0:15012");
    if texts.value.len() > limits::MAX_LISTENERS {
        found.note(texts.mark, Fault::ManyListeners(texts.value.len()));
    }
    let (mut seen, mut all) = (Seen::new(), Vec::new());
    for entry in &texts.value {
        let Some(address) = text::listen_at(entry, found) else { continue };
        seen.once(address, || format!("the address {address}"), entry.mark, found);
        all.push(address);
    }
    all
}

fn lifetime(text: &str) -> Result<Duration, Fault> {
    let shown = || Fault::Lifetime(text.chars().take(limits::MAX_SHOWN).collect());
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(shown)?;
    let seconds = match unit {
        "m" => 60,
        "h" => 3600,
        _ => return Err(shown()),
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<u64> = is_number.then(|| number.parse().ok()).flatten();
    let total = number.and_then(|number| number.checked_mul(seconds));
    let total = total.filter(|total| LIFETIMES.contains(total));
    total.map(Duration::from_secs).ok_or_else(shown)
}
