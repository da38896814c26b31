//! Workloads, services, and what a workload's own node knows beyond.

use std::{
    collections::BTreeMap, fmt::Display, net::SocketAddr, path::PathBuf, str::FromStr,
    time::Duration,
};

use martlet_model::{
    Choice, Label, LocalWorkload, Mode, Near, NetnsSource, Outsider, Service, Udp, Workload,
    WorkloadName,
};

use super::{Malformed, bounded, each, name_from, name_to, parsed, present};
use crate::{limits, proto};

/// A [`LocalWorkload`] that names its workload only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    pub name: WorkloadName,
    pub netns: NetnsSource,
    pub udp: Udp,
    pub probes: Vec<u16>,
    pub workload_api: bool,
}

impl From<&LocalWorkload> for Local {
    fn from(local: &LocalWorkload) -> Self {
        let LocalWorkload { workload, netns, udp, probes, workload_api } = local;
        Self {
            name: workload.name.clone(),
            netns: netns.clone(),
            udp: *udp,
            probes: probes.clone(),
            workload_api: *workload_api,
        }
    }
}

pub fn workload_to(workload: &Workload) -> proto::Workload {
    let mode = match workload.mode {
        Mode::Permissive => proto::Mode::Permissive,
        Mode::Strict => proto::Mode::Strict,
    };
    proto::Workload {
        name: Some(name_to(&workload.name)),
        service_account: workload.service_account.to_string(),
        identity: workload.identity.to_string(),
        addresses: workload.addresses.iter().map(ToString::to_string).collect(),
        node: workload.node.to_string(),
        mode: mode.into(),
        policies: workload.policies.iter().map(ToString::to_string).collect(),
    }
}

pub fn workload_from(workload: proto::Workload) -> Result<Workload, Malformed> {
    let name = name_from(workload.name)?;
    let within = |bad: Malformed| bad.within(&name);
    let mode = match proto::Mode::try_from(workload.mode) {
        Ok(proto::Mode::Permissive) => Mode::Permissive,
        Ok(proto::Mode::Strict) => Mode::Strict,
        Ok(proto::Mode::Unspecified) | Err(_) => {
            return Err(within(Malformed::new("mode", "is unknown")));
        }
    };
    let addresses =
        each("addresses", workload.addresses, limits::ADDRESSES, |text| parsed("address", &text));
    let policies = each("policies", workload.policies, limits::LISTED_POLICIES, |text| {
        parsed("policy", &text)
    });
    Ok(Workload {
        service_account: parsed("service_account", &workload.service_account).map_err(within)?,
        identity: parsed("identity", &workload.identity).map_err(within)?,
        addresses: addresses.map_err(within)?,
        node: parsed("node", &workload.node).map_err(within)?,
        mode,
        policies: policies.map_err(within)?,
        name,
    })
}

pub fn service_to(service: &Service) -> proto::Service {
    let name = WorkloadName { namespace: service.namespace.clone(), name: service.name.clone() };
    let Choice { affinity, of_node, near } = &service.choice;
    let texts = |endpoints: &[SocketAddr]| endpoints.iter().map(ToString::to_string).collect();
    let of = |(node, endpoints): (&Label, &Vec<SocketAddr>)| proto::NodeEndpoints {
        node: node.to_string(),
        endpoints: texts(endpoints),
    };
    proto::Service {
        name: Some(name_to(&name)),
        address: service.address.to_string(),
        endpoints: service.endpoints.iter().map(ToString::to_string).collect(),
        affinity_seconds: affinity
            .map_or(0, |affinity| u32::try_from(affinity.as_secs().max(1)).unwrap_or(u32::MAX)),
        own_node_only: of_node.is_some(),
        of_node: of_node.iter().flatten().map(of).collect(),
        near_node: near.of_node.iter().map(of).collect(),
        near_zone: near
            .of_zone
            .iter()
            .map(|(zone, endpoints)| proto::ZoneEndpoints {
                zone: zone.to_string(),
                endpoints: texts(endpoints),
            })
            .collect(),
    }
}

pub fn service_from(service: proto::Service) -> Result<Service, Malformed> {
    let WorkloadName { namespace, name } = name_from(service.name)?;
    let within = |bad: Malformed| bad.within(format_args!("{namespace}/{name}"));
    let address: SocketAddr = parsed("address", &service.address).map_err(within)?;
    let endpoints =
        each("endpoints", service.endpoints, limits::ENDPOINTS, |text| parsed("endpoint", &text));
    let endpoints = endpoints.map_err(within)?;
    let affinity = Some(service.affinity_seconds).filter(|seconds| *seconds != 0);
    let affinity = affinity.map(|seconds| Duration::from_secs(seconds.into()));
    let of_zone = service.near_zone.into_iter().map(|one| (one.zone, one.endpoints)).collect();
    let near = Near {
        of_node: by_place("near_node", listed(service.near_node)).map_err(within)?,
        of_zone: by_place("near_zone", of_zone).map_err(within)?,
    };
    if service.own_node_only && near != Near::default() {
        return Err(within(Malformed::new("near", "is not to be there")));
    }
    let of_node = by_place("of_node", listed(service.of_node)).map_err(within)?;
    let of_node = match (service.own_node_only, of_node.is_empty()) {
        (true, _) => Some(of_node),
        (false, true) => None,
        (false, false) => return Err(within(Malformed::new("of_node", "is not to be there"))),
    };
    let choice = Choice { affinity, of_node, near };
    Ok(Service { namespace, name, address, endpoints, choice })
}

fn listed(said: Vec<proto::NodeEndpoints>) -> Vec<(String, Vec<String>)> {
    said.into_iter().map(|one| (one.node, one.endpoints)).collect()
}

fn by_place<K>(
    at: &str,
    said: Vec<(String, Vec<String>)>,
) -> Result<BTreeMap<K, Vec<SocketAddr>>, Malformed>
where
    K: FromStr + Ord,
    K::Err: Display,
{
    let all: usize = said.iter().map(|(_, endpoints)| endpoints.len().max(1)).sum();
    if all > limits::ENDPOINTS {
        return Err(Malformed::new(at, format_args!("has {all} endpoints")));
    }
    let mut by_place = BTreeMap::new();
    for (place, endpoints) in said {
        let place: K = parsed(at, &place)?;
        let parse = |text: String| parsed("endpoint", &text);
        let endpoints = each("endpoints", endpoints, limits::ENDPOINTS, parse)?;
        if by_place.insert(place, endpoints).is_some() {
            return Err(Malformed::new(at, "names one twice"));
        }
    }
    Ok(by_place)
}

/// `Err` if it cannot be said: a path that is not UTF-8.
pub fn local_to(local: &Local) -> Result<proto::Local, Malformed> {
    let netns = netns_to(&local.netns).map_err(|bad| bad.within(&local.name))?;
    let udp = match local.udp {
        Udp::Pass => proto::Udp::Pass,
        Udp::Refuse => proto::Udp::Refuse,
    };
    Ok(proto::Local {
        name: Some(name_to(&local.name)),
        netns: Some(netns),
        udp: udp.into(),
        probes: local.probes.iter().copied().map(u32::from).collect(),
        workload_api: local.workload_api,
    })
}

pub fn local_from(local: proto::Local) -> Result<Local, Malformed> {
    let name = name_from(local.name)?;
    let within = |bad: Malformed| bad.within(&name);
    let netns = netns_from(local.netns).map_err(within)?;
    let udp = match proto::Udp::try_from(local.udp) {
        Ok(proto::Udp::Pass) => Udp::Pass,
        Ok(proto::Udp::Refuse) => Udp::Refuse,
        Ok(proto::Udp::Unspecified) | Err(_) => {
            return Err(within(Malformed::new("udp", "is unknown")));
        }
    };
    bounded("probes", &local.probes, limits::PROBES).map_err(within)?;
    let port = |port: u32| u16::try_from(port).ok().filter(|port| *port != 0);
    let probes: Option<Vec<u16>> = local.probes.into_iter().map(port).collect();
    let probes = probes.ok_or_else(|| within(Malformed::new("probes", "one is no port")))?;
    Ok(Local { name, netns, udp, probes, workload_api: local.workload_api })
}

pub fn outside_to(one: &Outsider) -> Result<proto::Outside, Malformed> {
    let netns = netns_to(&one.netns).map_err(|bad| bad.within(&one.name))?;
    Ok(proto::Outside { name: Some(name_to(&one.name)), netns: Some(netns) })
}

/// An agent hears of those of its own node only.
pub fn outside_from(one: proto::Outside, node: &Label) -> Result<Outsider, Malformed> {
    let name = name_from(one.name)?;
    let netns = netns_from(one.netns).map_err(|bad| bad.within(&name))?;
    Ok(Outsider { name, node: node.clone(), netns })
}

fn netns_to(netns: &NetnsSource) -> Result<proto::Netns, Malformed> {
    use proto::netns::By;
    let text = |path: &PathBuf| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Malformed::new("netns", "the path is not UTF-8"))
    };
    let by = match netns {
        NetnsSource::Path(path) => By::Path(text(path)?),
        NetnsSource::Pid(pid) => By::Pid(*pid),
        NetnsSource::Cgroup(path) => By::Cgroup(text(path)?),
        NetnsSource::Pod(uid) => By::Pod(uid.to_string()),
    };
    Ok(proto::Netns { by: Some(by) })
}

fn netns_from(netns: Option<proto::Netns>) -> Result<NetnsSource, Malformed> {
    use proto::netns::By;
    match present("netns", netns.and_then(|netns| netns.by))? {
        By::Path(text) => path(text).map(NetnsSource::Path),
        By::Cgroup(text) => path(text).map(NetnsSource::Cgroup),
        By::Pid(pid) if pid == 0 || i32::try_from(pid).is_err() => {
            Err(Malformed::new("netns.pid", "is no process number"))
        }
        By::Pid(pid) => Ok(NetnsSource::Pid(pid)),
        // It is looked for among the names of files.
        By::Pod(uid) if is_uid(&uid) => Ok(NetnsSource::Pod(uid.into())),
        By::Pod(_) => Err(Malformed::new("netns.pod", "is no UID")),
    }
}

fn is_uid(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=limits::UID_BYTES).contains(&text.len()) && text.bytes().all(fits)
}

/// As in the node file.
fn path(text: String) -> Result<PathBuf, Malformed> {
    let bad = |what| Err(Malformed::new("netns.path", what));
    match text.as_str() {
        text if text.len() > limits::PATH_BYTES => bad("is too long"),
        text if !text.starts_with('/') => bad("is not absolute"),
        text if text.contains('\0') => bad("has a zero byte"),
        text if text.split('/').any(|part| part == "..") => bad("has `..`"),
        _ => Ok(PathBuf::from(text)),
    }
}
