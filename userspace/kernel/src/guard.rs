//! Where the guard sits: on the host's end of each interface that leads out of a pod.
//!
//! With tcx (Linux 6.6) by links that are pinned and adopted like all others, before all programs
//! that are there; else by a filter of the clsact qdisc, which stays with the interface and is
//! replaced in place.

use std::{io, mem::ManuallyDrop, os::fd::AsFd as _, path::PathBuf};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::FdLink,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
};
use martlet_ebpf_shared::Guarded;
use martlet_model::report::RepairKind;

use crate::{
    Finding, KernelError, Netns, bpf,
    changes::Changes,
    interfaces::{Interface, Interfaces},
    link::Target,
    node::{Look, Shared},
    qdisc,
};

/// By direction, seen from the pod; what leaves the pod arrives at the host.
const PROGRAMS: [(&str, TcAttachType); 2] =
    [("martlet_guard_out", TcAttachType::Ingress), ("martlet_guard_in", TcAttachType::Egress)];

/// Our place in a clsact qdisc: before all filters whose owners did not ask for the first place.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x6d6c);

const VETH: &str = "veth";

/// The host's end of an interface of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    index: u32,
    name: String,
    /// The pod's network namespace as the host's one numbers it.
    netns_id: u32,
}

/// Loads the programs; attaching is per pod.
pub fn load(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    for (name, _) in PROGRAMS {
        program(ebpf, name)?.load().map_err(KernelError::program(name))?;
    }
    Ok(())
}

/// What is known of a pod's interfaces until one of them changes.
pub struct Seen {
    changes: Changes,
    /// What the host's changes were numbered when `ends` was read.
    generation: Option<u64>,
    ends: Vec<End>,
    problem: Option<Unguarded>,
}

/// An interface that can't be guarded, and why.
type Unguarded = (String, &'static str);

impl Seen {
    pub fn new(netns: &Netns) -> io::Result<Self> {
        let changes = Changes::open(netns)?;
        Ok(Self { changes, generation: None, ends: Vec::new(), problem: None })
    }
}

/// Makes the guard of a pod what it should be: what others have changed is put back and told, what
/// is new is guarded. An error says which interface can't be.
pub fn keep(
    shared: &Shared,
    netns: &Netns,
    pod: Guarded,
    seen: &mut Seen,
    look: &Look,
) -> Result<Vec<Finding>, KernelError> {
    let is_changed = seen.changes.are_there() || seen.generation != Some(look.generation);
    let known = seen.ends.clone();
    if is_changed {
        read(shared, netns, pod, seen)?;
    }
    write(shared, pod, seen)?;
    let mut findings = Vec::new();
    let wrong = in_host(shared, || Ok(wrong(shared, pod.netns, seen, look, is_changed)))?;
    for Wrong { end, name, direction, place, what } in wrong? {
        let repaired = attach(shared, name, direction, pod.netns, &end, place);
        match known.contains(&end) {
            true => {
                let what = format!("{name} at {} {what}", end.name);
                findings.push(Finding::new(RepairKind::Guard, what, repaired));
            }
            false => repaired?,
        }
    }
    seen.generation = Some(look.generation);
    Ok(findings)
}

/// An interface that can't be guarded.
pub fn problem(seen: &Seen) -> Option<KernelError> {
    let (interface, why) = seen.problem.clone()?;
    Some(KernelError::NotGuarded { interface, why })
}

/// The same for a pod that was just enrolled: this process's programs come in the place of those
/// that an earlier agent has attached.
pub fn renew(
    shared: &Shared,
    netns: &Netns,
    pod: Guarded,
    seen: &mut Seen,
    generation: u64,
) -> Result<(), KernelError> {
    read(shared, netns, pod, seen)?;
    write(shared, pod, seen)?;
    for end in &seen.ends {
        for (name, direction) in PROGRAMS {
            attach(shared, name, direction, pod.netns, end, Place::Adopted)?;
        }
    }
    seen.generation = Some(generation);
    Ok(())
}

/// Which interfaces there are; what was at those that are gone goes.
fn read(shared: &Shared, netns: &Netns, pod: Guarded, seen: &mut Seen) -> Result<(), KernelError> {
    seen.generation = None;
    let failed = KernelError::in_netns(netns, "looking for its interfaces");
    (seen.ends, seen.problem) = ends(netns, &shared.host).map_err(failed)?;
    let stale = shared.maps.guarded(pod.netns).into_iter();
    for index in stale.filter(|index| !seen.ends.iter().any(|end| end.index == *index)) {
        detach_one(shared, pod.netns, index)?;
    }
    Ok(())
}

/// Before the programs are attached: without an entry they refuse.
fn write(shared: &Shared, pod: Guarded, seen: &Seen) -> Result<(), KernelError> {
    let write = |end: &End| {
        let guarded = Guarded { netns_id: end.netns_id, ..pod };
        shared.maps.set_guarded(end.index, guarded)
    };
    seen.ends.iter().try_for_each(write)
}

struct Wrong {
    end: End,
    name: &'static str,
    direction: TcAttachType,
    place: Place,
    what: &'static str,
}

/// Where the guard is not the first program, with our program. Filters are looked at only after a
/// change: the kernel tells of theirs.
fn wrong(
    shared: &Shared,
    cookie: u64,
    seen: &Seen,
    look: &Look,
    is_changed: bool,
) -> Result<Vec<Wrong>, KernelError> {
    let mut all = Vec::new();
    if !shared.tcx && !is_changed {
        return Ok(all);
    }
    let filters = Interfaces::open(&shared.host)
        .map_err(KernelError::in_netns(&shared.host, "looking for the guard"));
    let filters = filters?;
    for end in &seen.ends {
        for (name, direction) in PROGRAMS {
            let first = match shared.tcx {
                true => bpf::first_program(end.index, tcx_type(direction)),
                false => filters
                    .filters(end.index, parent(direction))
                    .map(|found| found.first().map(|first| first.program.unwrap_or_default())),
            };
            let is_pinned = !shared.tcx || look.is_pinned(&link_name(name, cookie, end.index));
            let mut note = |place, what| {
                all.push(Wrong { end: end.clone(), name, direction, place, what });
            };
            match first {
                Ok(Some(number)) if number == shared.number(name) && is_pinned => {}
                Ok(Some(number)) if number == shared.number(name) => {
                    note(Place::Adopted, "has lost its pin");
                }
                Ok(Some(_)) => {
                    note(Place::Anew, "had another program before it, or in its place");
                }
                Ok(None) => note(Place::Anew, "was detached"),
                // It is gone; the kernel will tell.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(source) => {
                    return Err(KernelError::in_netns(&shared.host, "looking for the guard")(
                        source,
                    ));
                }
            }
        }
    }
    Ok(all)
}

/// Detaches the guard of a pod, also of one that is gone.
pub fn detach(shared: &Shared, cookie: u64) -> Result<(), KernelError> {
    let indices = shared.maps.guarded(cookie);
    indices.into_iter().try_for_each(|index| detach_one(shared, cookie, index))
}

/// The programs go first: without an entry they refuse.
fn detach_one(shared: &Shared, cookie: u64, index: u32) -> Result<(), KernelError> {
    for (name, direction) in PROGRAMS {
        detach_at(shared, name, direction, cookie, index)?;
    }
    if !shared.tcx {
        in_host(shared, || {
            let host = Interfaces::open(&shared.host)?;
            match host.get(index)? {
                Some(end) => qdisc::leave(&host, &shared.notes, at(index, &end.name)),
                None => Ok(()),
            }
        })?;
    }
    shared.maps.remove_guarded(index)
}

fn detach_at(
    shared: &Shared,
    name: &'static str,
    direction: TcAttachType,
    cookie: u64,
    index: u32,
) -> Result<(), KernelError> {
    match shared.tcx {
        true => shared.links.unpin(&path(shared, name, cookie, index)),
        false => detach_filter(shared, name, direction, index),
    }
}

/// How a program comes to its place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind the link that is there, if there is one.
    Adopted,
    /// First of all, by a link of its own.
    Anew,
}

fn attach(
    shared: &Shared,
    name: &'static str,
    direction: TcAttachType,
    cookie: u64,
    end: &End,
    place: Place,
) -> Result<(), KernelError> {
    if place == Place::Anew {
        // A program can be at an interface once, and comes first when it is attached; so does a
        // filter among those of its priority. Steering holds meanwhile.
        detach_at(shared, name, direction, cookie, end.index)?;
    }
    let mut ebpf = shared.programs();
    let program = program(&mut ebpf, name)?;
    match shared.tcx {
        true => attach_tcx(shared, program, name, direction, cookie, end, place),
        false => attach_filter(shared, program, name, direction, end),
    }
}

fn attach_tcx(
    shared: &Shared,
    program: &mut SchedClassifier,
    name: &'static str,
    direction: TcAttachType,
    cookie: u64,
    end: &End,
    place: Place,
) -> Result<(), KernelError> {
    let failed = || KernelError::program(name);
    let (path, target) = (path(shared, name, cookie, end.index), Target::Interface(end.index));
    let fd = program.fd().map_err(failed())?.as_fd();
    if place == Place::Adopted && shared.links.adopt(&path, fd, target)? {
        return Ok(());
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let attach = || Ok(program.attach_with_options(&end.name, direction, options));
    let id = in_host(shared, attach)?.map_err(failed())?;
    let attached = program.take_link(id).map_err(failed())?;
    let attached = FdLink::try_from(attached).map_err(|_| KernelError::Absent("tcx link"))?;
    shared.links.pin(attached, &path)
}

fn attach_filter(
    shared: &Shared,
    program: &mut SchedClassifier,
    name: &'static str,
    direction: TcAttachType,
    end: &End,
) -> Result<(), KernelError> {
    let attach = || {
        let there = SchedClassifierLink::attached(&end.name, direction, PRIORITY, HANDLE, None)?;
        if let Ok(id) = program.attach_to_link(there) {
            return Ok(Ok(id));
        }
        match tc::qdisc_add_clsact(&end.name) {
            Ok(()) => qdisc::note(&shared.notes, at(end.index, &end.name))?,
            Err(TcError::NetlinkError(error)) if error.raw_os_error() != Some(libc::EEXIST) => {
                return Ok(Err(TcError::NetlinkError(error).into()));
            }
            Err(_) => {}
        }
        let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
        let options = TcAttachOptions::Netlink(options);
        Ok(program.attach_with_options(&end.name, direction, options))
    };
    let id = in_host(shared, attach)?.map_err(KernelError::program(name))?;
    // Dropped, it would be detached.
    let _ = ManuallyDrop::new(program.take_link(id).map_err(KernelError::program(name))?);
    Ok(())
}

/// An interface that is gone has taken its filters along.
fn detach_filter(
    shared: &Shared,
    name: &'static str,
    direction: TcAttachType,
    index: u32,
) -> Result<(), KernelError> {
    let detach = || match Interfaces::open(&shared.host)?.get(index)? {
        Some(end) => Ok(tc::qdisc_detach_program(&end.name, direction, name)),
        None => Ok(Ok(())),
    };
    match in_host(shared, detach)? {
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        detached => detached.map_err(KernelError::program(name)),
    }
}

fn in_host<T>(shared: &Shared, work: impl FnOnce() -> io::Result<T>) -> Result<T, KernelError> {
    shared.host.run(work).map_err(KernelError::in_netns(&shared.host, "attaching the guard"))
}

fn path(shared: &Shared, name: &str, cookie: u64, index: u32) -> PathBuf {
    shared.directory.join(link_name(name, cookie, index))
}

fn link_name(name: &str, cookie: u64, index: u32) -> String {
    format!("{name}-{cookie}-{index}")
}

pub fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().map(|(name, _)| name)
}

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of include/uapi/linux/bpf.h.
fn tcx_type(direction: TcAttachType) -> u32 {
    if direction == TcAttachType::Ingress { 46 } else { 47 }
}

fn parent(direction: TcAttachType) -> u32 {
    if direction == TcAttachType::Ingress { qdisc::INGRESS } else { qdisc::EGRESS }
}

fn at(index: u32, name: &str) -> qdisc::At<'_> {
    qdisc::At { index, name }
}

/// The guard's filters on the host's interfaces, whoever has put them there, with what they are
/// called. To be called in the host's network namespace.
pub fn filters(host: &Interfaces) -> io::Result<Vec<(Interface, &'static str, TcAttachType)>> {
    let mut found = Vec::new();
    for interface in host.all()? {
        for (name, direction) in PROGRAMS {
            let filters = host.filters(interface.index, parent(direction))?;
            if filters.iter().any(|filter| filter.name == name) {
                found.push((interface.clone(), name, direction));
            }
        }
    }
    Ok(found)
}

fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
    program.try_into().map_err(KernelError::program(name))
}

/// The host's ends of all interfaces that lead out of a pod, and the first one that has none.
fn ends(pod: &Netns, host: &Netns) -> io::Result<(Vec<End>, Option<Unguarded>)> {
    let (outside, mut ends, mut problem) = (Interfaces::open(host)?, Vec::new(), None);
    for interface in Interfaces::open(pod)?.all()? {
        match end(&interface, pod, &outside)? {
            Ok(end) => ends.extend(end),
            Err(why) => {
                problem.get_or_insert((interface.name, why));
            }
        }
    }
    Ok((ends, problem))
}

/// `None` for an interface whose packets come by another one of the pod.
fn end(
    interface: &Interface,
    pod: &Netns,
    outside: &Interfaces,
) -> io::Result<Result<Option<End>, &'static str>> {
    let peer = match (interface.kind.as_deref(), interface.link, interface.link_netns) {
        _ if interface.is_loopback => return Ok(Ok(None)),
        (None, ..) => return Ok(Err("it is a device of the machine, not a veth")),
        (Some(VETH), Some(peer), Some(_)) => peer,
        (Some(_), _, None) => return Ok(Ok(None)),
        (Some(_), ..) => return Ok(Err("it leads out of the pod and is not a veth")),
    };
    // Asked first, since it makes the host's namespace know the pod's by a number.
    let found = outside.get(peer)?;
    let netns_id = outside.netns_id(pod)?;
    Ok(match (found, netns_id) {
        (Some(found), Some(netns_id))
            if found.kind.as_deref() == Some(VETH)
                && found.link == Some(interface.index)
                && found.link_netns == Some(netns_id) =>
        {
            Ok(Some(End { index: peer, name: found.name, netns_id }))
        }
        _ => Err("its other end is not in the agent's network namespace"),
    })
}
