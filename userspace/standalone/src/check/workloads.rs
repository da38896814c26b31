//! Workloads: names and addresses belong to one of them each, and this node's have a namespace.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use martlet_model::{
    Label, LocalWorkload, Mode, NetnsSource, SpiffeId, TrustDomain, Udp, Workload, WorkloadName,
};

use super::{Findings, Seen, text};
use crate::{
    file, limits,
    mark::{At, Mark, Texts},
    problem::Fault,
};

pub(super) struct Workloads {
    pub(super) all: Vec<Arc<Workload>>,
    pub(super) local: Vec<LocalWorkload>,
    /// Whose each address is.
    pub(super) owners: HashMap<IpAddr, WorkloadName>,
    /// The network namespaces that they are.
    pub(super) sources: Seen<NetnsSource>,
}

impl Default for Workloads {
    fn default() -> Self {
        let (all, local) = (Vec::new(), Vec::new());
        Self { all, local, owners: HashMap::new(), sources: Seen::new() }
    }
}

/// An entry whose texts were read. What was refused is missing, and is noted.
struct Entry {
    mark: Option<Mark>,
    name: Option<WorkloadName>,
    account: Option<Label>,
    /// Another one than the file's.
    foreign: Option<TrustDomain>,
    node: Option<Label>,
    addresses: Addresses,
    netns: Option<At<Option<NetnsSource>>>,
    mode: Mode,
    udp: Udp,
    probes: Vec<u16>,
    workload_api: Option<At<bool>>,
}

type Addresses = Vec<(IpAddr, Option<Mark>)>;

/// `trust_domain` and `own_node` are unknown if they were refused; the rest is checked anyway.
pub(super) fn workloads(
    entries: &[At<file::Workload>],
    trust_domain: Option<&TrustDomain>,
    own_node: Option<&Label>,
    found: &mut Findings,
) -> Workloads {
    let mut workloads = Workloads::default();
    let mut names = Seen::new();
    for At { value, mark } in entries {
        let entry = read(value, *mark, trust_domain, own_node, found);
        if let Some(name) = &entry.name {
            names.once(name.clone(), || format!("workload {name}"), *mark, found);
            claim(&mut workloads.owners, name, &entry.addresses, found);
        }
        if let Some(At { value: Some(source), mark }) = &entry.netns {
            let sources = &mut workloads.sources;
            sources.once(source.clone(), || "this network namespace".to_owned(), *mark, found);
        }
        check_presence(&entry, own_node, found);
        workloads.extend(entry, trust_domain, |node| own_node == Some(node), found);
    }
    workloads
}

/// Those of a controller, which knows the network namespaces of all nodes.
pub(super) fn all(
    entries: &[At<file::Workload>],
    trust_domain: Option<&TrustDomain>,
    found: &mut Findings,
) -> Workloads {
    let mut workloads = Workloads::default();
    let (mut names, mut sources) = (Seen::new(), Seen::new());
    for At { value, mark } in entries {
        let entry = read(value, *mark, trust_domain, None, found);
        if let Some(name) = &entry.name {
            names.once(name.clone(), || format!("workload {name}"), *mark, found);
            claim(&mut workloads.owners, name, &entry.addresses, found);
            check_presence_there(&entry, name, value.node.as_ref().is_some(), found);
        }
        if let (Some(node), Some(At { value: Some(source), mark })) = (&entry.node, &entry.netns) {
            let what = || format!("this network namespace of node {node}");
            sources.once((node.clone(), source.clone()), what, *mark, found);
        }
        let is_local = entry.foreign.is_none();
        workloads.extend(entry, trust_domain, |_| is_local, found);
    }
    workloads
}

impl Workloads {
    fn extend(
        &mut self,
        entry: Entry,
        trust_domain: Option<&TrustDomain>,
        is_local: impl Fn(&Label) -> bool,
        found: &mut Findings,
    ) {
        let Entry { mark, name, account, foreign, node, netns, mode, udp, probes, .. } = entry;
        let (Some(domain), Some(name), Some(service_account), Some(node)) =
            (foreign.as_ref().or(trust_domain), name, account, node)
        else {
            return;
        };
        let namespace = name.namespace.as_str();
        let identity = SpiffeId::for_workload(domain, namespace, service_account.as_str())
            .map_err(|reason| Fault::Identity { text: name.to_string(), reason });
        let Some(identity) = found.keep(mark, identity) else { return };
        let is_local = is_local(&node);
        let addresses = entry.addresses.into_iter().map(|(address, _)| address).collect();
        let workload =
            Workload { name, service_account, identity, addresses, node, mode, policies: vec![] };
        let workload = Arc::new(workload);
        self.all.push(workload.clone());
        if let (true, Some(netns)) = (is_local, netns.and_then(|netns| netns.value)) {
            let workload_api = entry.workload_api.is_some_and(|asks| asks.value);
            self.local.push(LocalWorkload { workload, netns, udp, probes, workload_api });
        }
    }
}

fn read(
    entry: &file::Workload,
    mark: Option<Mark>,
    trust_domain: Option<&TrustDomain>,
    own_node: Option<&Label>,
    found: &mut Findings,
) -> Entry {
    let foreign = entry.trust_domain.as_ref();
    let foreign = foreign.and_then(|domain| text::trust_domain(domain, found));
    let namespace = text::label(&entry.namespace, found);
    let name = text::label(&entry.name, found);
    let netns = entry.netns.as_ref();
    Entry {
        mark,
        name: namespace.zip(name).map(|(namespace, name)| WorkloadName { namespace, name }),
        account: text::label(&entry.service_account, found),
        foreign: foreign.filter(|foreign| Some(foreign) != trust_domain),
        node: match entry.node.as_ref() {
            Some(node) => text::label(node, found),
            None => own_node.cloned(),
        },
        addresses: addresses(&entry.addresses, found),
        netns: netns.map(|At { value, mark }| At { value: source(value, found), mark: *mark }),
        mode: mode(entry.mode.as_ref()),
        udp: udp(entry.udp.as_ref()),
        probes: entry.probes.as_ref().map(|ports| probes(ports, found)).unwrap_or_default(),
        workload_api: entry.workload_api.as_ref().cloned(),
    }
}

fn probes(ports: &Texts, found: &mut Findings) -> Vec<u16> {
    found.refuse_empty("probes", ports, "leave it out if nobody probes in plaintext");
    if ports.value.len() > limits::MAX_PROBES {
        found.note(ports.mark, Fault::ManyProbes(ports.value.len()));
    }
    let (mut seen, mut all) = (Seen::new(), Vec::new());
    for entry in &ports.value {
        let Some(port) = text::port(entry, found) else { continue };
        seen.once(port, || format!("port {port}"), entry.mark, found);
        all.push(port);
    }
    all
}

/// At most one of each family: the kernel gives a connection of a pod the pod's own address, and
/// has room for one of each.
fn addresses(entries: &Texts, found: &mut Findings) -> Addresses {
    found.refuse_empty("addresses", entries, "a workload has an IPv4 or an IPv6 address, or both");
    let mut addresses = Addresses::new();
    for entry in &entries.value {
        let Some(address) = text::address(entry, found) else { continue };
        let same_family = |(other, _): &&(IpAddr, _)| other.is_ipv4() == address.is_ipv4();
        match addresses.iter().find(same_family) {
            Some((first, _)) => {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                found.note(entry.mark, Fault::SecondOfFamily { family, first: *first });
            }
            None => addresses.push((address, entry.mark)),
        }
    }
    addresses
}

fn claim(
    owners: &mut HashMap<IpAddr, WorkloadName>,
    name: &WorkloadName,
    addresses: &[(IpAddr, Option<Mark>)],
    found: &mut Findings,
) {
    for (address, mark) in addresses {
        match owners.get(address) {
            Some(owner) => {
                let (address, owner) = (*address, owner.clone());
                found.note(*mark, Fault::AddressTwice { address, owner });
            }
            None => {
                owners.insert(*address, name.clone());
            }
        }
    }
}

pub(super) fn source(netns: &file::Netns, found: &mut Findings) -> Option<NetnsSource> {
    match netns {
        file::Netns::Path(path) => text::path(path, found).map(NetnsSource::Path),
        file::Netns::Pid(pid) => text::pid(pid, found).map(NetnsSource::Pid),
        file::Netns::Cgroup(path) => text::path(path, found).map(NetnsSource::Cgroup),
    }
}

/// Only the agent of a workload's own node can find its namespace, and it must.
fn check_presence(entry: &Entry, own_node: Option<&Label>, found: &mut Findings) {
    let Entry { mark, name: Some(name), node: Some(node), netns, foreign, .. } = entry else {
        return;
    };
    let Some(own_node) = own_node else { return };
    let workload = name.clone();
    if let Some(domain) = foreign.clone().filter(|_| node == own_node) {
        found.note(*mark, Fault::ForeignHere { workload, domain });
        return;
    }
    match netns {
        None if node == own_node => found.note(*mark, Fault::NetnsMissing { workload }),
        Some(netns) if node != own_node => {
            found.note(netns.mark, Fault::NetnsElsewhere { workload, node: node.clone() });
        }
        _ => {}
    }
    if let Some(asks) = entry.workload_api.as_ref().filter(|_| node != own_node) {
        let (workload, node) = (name.clone(), node.clone());
        found.note(asks.mark, Fault::WorkloadApiElsewhere { workload, node });
    }
}

/// Whoever knows all nodes has to be told where each workload is.
fn check_presence_there(
    entry: &Entry,
    name: &WorkloadName,
    names_node: bool,
    found: &mut Findings,
) {
    let workload = name.clone();
    if !names_node {
        found.note(entry.mark, Fault::NodeMissing { workload: workload.clone() });
    }
    match (&entry.netns, &entry.foreign) {
        (None, None) => found.note(entry.mark, Fault::NetnsMissingThere { workload }),
        (Some(netns), Some(domain)) => {
            let domain = domain.clone();
            found.note(netns.mark, Fault::NetnsForeign { workload, domain });
        }
        _ => {}
    }
    if let (Some(asks), Some(domain)) = (&entry.workload_api, &entry.foreign) {
        let (workload, domain) = (name.clone(), domain.clone());
        found.note(asks.mark, Fault::WorkloadApiForeign { workload, domain });
    }
}

fn mode(given: Option<&file::Mode>) -> Mode {
    match given {
        None | Some(file::Mode::Permissive) => Mode::Permissive,
        Some(file::Mode::Strict) => Mode::Strict,
    }
}

pub(super) fn udp(given: Option<&file::Udp>) -> Udp {
    match given {
        None | Some(file::Udp::Pass) => Udp::Pass,
        Some(file::Udp::Refuse) => Udp::Refuse,
    }
}
