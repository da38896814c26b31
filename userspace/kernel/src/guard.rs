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

use crate::{
    KernelError, Netns,
    interfaces::{Interface, Interfaces},
    link::{self, Target},
    node::Shared,
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

/// Makes the guard of a pod what it should be. `renew` puts this process's programs in the place of
/// those that are attached.
///
/// All interfaces that can be guarded are, also if one can't.
pub fn keep(shared: &Shared, netns: &Netns, pod: Guarded, renew: bool) -> Result<(), KernelError> {
    let failed = KernelError::in_netns(netns, "looking for its interfaces");
    let (ends, problem) = ends(netns, &shared.host).map_err(failed)?;
    let stale = shared.maps.guarded(pod.netns)?.into_iter();
    for index in stale.filter(|index| !ends.iter().any(|end| end.index == *index)) {
        detach_one(shared, pod.netns, index)?;
    }
    for end in &ends {
        shared.maps.set_guarded(end.index, Guarded { netns_id: end.netns_id, ..pod })?;
        let mut ebpf = shared.programs();
        for (name, direction) in PROGRAMS {
            let program = program(&mut ebpf, name)?;
            match shared.tcx {
                true => attach_tcx(shared, program, name, direction, pod.netns, end, renew)?,
                false => attach_filter(shared, program, name, direction, end)?,
            }
        }
    }
    problem.map_or(Ok(()), Err)
}

/// Detaches the guard of a pod, also of one that is gone.
pub fn detach(shared: &Shared, cookie: u64) -> Result<(), KernelError> {
    let indices = shared.maps.guarded(cookie)?;
    indices.into_iter().try_for_each(|index| detach_one(shared, cookie, index))
}

/// The programs go first: without an entry they refuse.
fn detach_one(shared: &Shared, cookie: u64, index: u32) -> Result<(), KernelError> {
    for (name, direction) in PROGRAMS {
        match shared.tcx {
            true => link::unpin(&path(shared, name, cookie, index))?,
            false => detach_filter(shared, name, direction, index)?,
        }
    }
    shared.maps.remove_guarded(index)
}

fn attach_tcx(
    shared: &Shared,
    program: &mut SchedClassifier,
    name: &'static str,
    direction: TcAttachType,
    cookie: u64,
    end: &End,
    renew: bool,
) -> Result<(), KernelError> {
    let failed = || KernelError::program(name);
    let (path, target) = (path(shared, name, cookie, end.index), Target::Interface(end.index));
    let is_there = match renew {
        true => link::adopt(&path, program.fd().map_err(failed())?.as_fd(), target)?,
        false => link::is_attached(&path, target)?,
    };
    if is_there {
        return Ok(());
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let attach = || Ok(program.attach_with_options(&end.name, direction, options));
    let id = in_host(shared, attach)?.map_err(failed())?;
    let attached = program.take_link(id).map_err(failed())?;
    let attached = FdLink::try_from(attached).map_err(|_| KernelError::Absent("tcx link"))?;
    link::pin(attached, &path)
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
            Err(TcError::NetlinkError(error)) if error.raw_os_error() != Some(libc::EEXIST) => {
                return Ok(Err(TcError::NetlinkError(error).into()));
            }
            _ => {}
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
    shared.links.join(format!("{name}-{cookie}-{index}"))
}

fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
    program.try_into().map_err(KernelError::program(name))
}

/// The host's ends of all interfaces that lead out of a pod, and the first one that has none.
fn ends(pod: &Netns, host: &Netns) -> io::Result<(Vec<End>, Option<KernelError>)> {
    let (outside, mut ends, mut problem) = (Interfaces::open(host)?, Vec::new(), None);
    for interface in Interfaces::open(pod)?.all()? {
        match end(&interface, pod, &outside)? {
            Ok(end) => ends.extend(end),
            Err(why) => {
                let interface = interface.name;
                problem.get_or_insert(KernelError::NotGuarded { interface, why });
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
