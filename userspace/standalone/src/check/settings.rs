//! How this node's agent runs, with the defaults of what is left out.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use martlet_model::{Collector, Failure, Label, Ratio};

use super::{Findings, text};
use crate::{
    file::{self, Node},
    mark::{At, Given, Mark},
    node_file::{AccessLog, Places, ProberIs, Settings, Traces},
    problem::Fault,
};

/// Of this machine alone: metrics name workloads and identities.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);
/// What turns a thing off.
const OFF: &str = "off";

pub(super) fn settings(
    node: &Node,
    told: Option<&Label>,
    at: Option<Mark>,
    found: &mut Findings,
) -> Option<Settings> {
    let name = match (told, node.name.as_ref()) {
        (Some(told), _) => Some(told.clone()),
        (None, Some(name)) => text::label(name, found),
        (None, None) => {
            found.note(at, Fault::NoNodeName);
            None
        }
    };
    let cgroup = optional(&node.cgroup, found, text::path);
    let host_netns = optional(&node.host_netns, found, text::path);
    let prober = match node.prober.as_ref() {
        None => Some(None),
        Some(prober) => prober_of(prober, at, found).map(Some),
    };
    let pin = or_default(&node.pin, found, text::path, || Places::default().pin);
    let state = or_default(&node.state, found, text::path, || Places::default().state);
    let socket = or_default(&node.socket, found, text::socket_path, || Places::default().socket);
    let metrics = or_default(&node.metrics, found, metrics, || Some(METRICS));
    let access_log = or_default(&node.access_log, found, access_log, || AccessLog::Stdout);
    let traces = match node.traces.as_ref() {
        None => Some(None),
        Some(traces) => traces_of(traces, found).map(Some),
    };
    Some(Settings {
        name: name?,
        cgroup: cgroup?,
        host_netns: host_netns?,
        prober: prober?,
        pin: pin?,
        state: state?,
        socket: socket?,
        metrics: metrics?,
        access_log: access_log?,
        traces: traces?,
        failure: match node.failure.as_ref() {
            None | Some(file::Failure::Closed) => Failure::Closed,
            Some(file::Failure::Open) => Failure::Open,
        },
    })
}

fn traces_of(At { value, mark }: &At<file::Traces>, found: &mut Findings) -> Option<Traces> {
    let text = &value.endpoint;
    let refused = |reason| Fault::Collector { text: text::shown(&text.value), reason };
    let collector = found.keep(text.mark, text.value.parse::<Collector>().map_err(refused));
    let authorities = optional(&value.authorities, found, text::path);
    let ratio = match value.ratio.as_ref() {
        None => Some(Ratio::ALL),
        Some(ratio) => {
            let refused = |reason| Fault::Ratio { text: text::shown(&ratio.value), reason };
            found.keep(ratio.mark, ratio.value.parse().map_err(refused))
        }
    };
    let (collector, authorities) = (collector?, authorities?);
    match (collector.is_tls(), &authorities) {
        (true, None) => found.note(*mark, Fault::NoAuthorities),
        (false, Some(_)) => found.note(*mark, Fault::AuthoritiesInTheClear),
        _ => return Some(Traces { collector, authorities, ratio: ratio? }),
    }
    None
}

fn prober_of(prober: &file::Prober, at: Option<Mark>, found: &mut Findings) -> Option<ProberIs> {
    match (prober.cgroup.as_ref(), prober.process.as_ref()) {
        (Some(cgroup), None) => text::path(cgroup, found).map(ProberIs::Cgroup),
        // What the kernel keeps of a name.
        (None, Some(process)) if (1..=15).contains(&process.value.len()) => {
            Some(ProberIs::Process(process.value.clone()))
        }
        (cgroup, process) => {
            let mark = process.or(cgroup).map_or(at, |given| given.mark);
            found.note(mark, Fault::NotOneProber);
            None
        }
    }
}

pub(super) fn metrics(given: &At<String>, found: &mut Findings) -> Option<Option<SocketAddr>> {
    match given.value.as_str() {
        OFF => Some(None),
        _ => text::listen(given, found).map(Some),
    }
}

fn access_log(given: &At<String>, found: &mut Findings) -> Option<AccessLog> {
    match given.value.as_str() {
        OFF => Some(AccessLog::Off),
        "stdout" => Some(AccessLog::Stdout),
        _ => text::path(given, found).map(AccessLog::File),
    }
}

/// The outer `None` is a noted problem, the inner one a key that was left out.
fn optional(
    given: &Given<At<String>>,
    found: &mut Findings,
    read: fn(&At<String>, &mut Findings) -> Option<PathBuf>,
) -> Option<Option<PathBuf>> {
    match given.as_ref() {
        None => Some(None),
        Some(text) => read(text, found).map(Some),
    }
}

fn or_default<T>(
    given: &Given<At<String>>,
    found: &mut Findings,
    read: fn(&At<String>, &mut Findings) -> Option<T>,
    default: fn() -> T,
) -> Option<T> {
    match given.as_ref() {
        None => Some(default()),
        Some(text) => read(text, found),
    }
}
