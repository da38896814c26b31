//! The capabilities (capabilities(7)) that are kept: all others go from every set.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};

/// For the agent itself. `CAP_SYS_ADMIN` is what setns(2) asks for, and it dials from inside pods
/// for every connection; bpf(2) is satisfied by it too, so `CAP_BPF` and `CAP_PERFMON` add nothing.
pub const AGENT: &[Capability] = &[Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN];

/// For the opener.
pub const OPENER: &[Capability] = &[Capability::CAP_SYS_PTRACE];

/// What the agent must be started with, and what for.
pub const NEEDED: &[(&str, &str)] = &[
    ("CAP_NET_ADMIN", "filters on the pods' interfaces"),
    ("CAP_SYS_ADMIN", "entering network namespaces, loading kernel programs"),
    ("CAP_SYS_PTRACE", "finding the network namespace of another user's process"),
];

/// Those that this thread does not have.
pub fn missing() -> io::Result<Vec<String>> {
    let have = caps::read(None, CapSet::Effective).map_err(io::Error::other)?;
    let is_missing = |name: &&str| !have.iter().any(|capability| capability.to_string() == **name);
    let needed = NEEDED.iter().filter(|(name, _)| is_missing(name));
    Ok(needed.map(|(name, why)| format!("{name} is missing, needed for {why}")).collect())
}

/// Keeps of what this thread has only `kept`; of the bounding set what the agent is started with,
/// since to remove more takes `CAP_SETPCAP`. Says so if it has others that it can't remove.
pub fn keep(kept: &[Capability]) -> io::Result<Option<String>> {
    let failed = io::Error::other;
    let kept: CapsHashSet = kept.iter().copied().collect();
    let is_superfluous = |one: &Capability| !AGENT.contains(one) && !OPENER.contains(one);
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    let bounding = caps::read(None, CapSet::Bounding).map_err(failed)?;
    let unbound = bounding
        .into_iter()
        .filter(is_superfluous)
        .filter(|capability| caps::drop(None, CapSet::Bounding, *capability).is_err())
        .count();
    let have = caps::read(None, CapSet::Permitted).map_err(failed)?;
    let left: CapsHashSet = have.intersection(&kept).copied().collect();
    // In this order: each set bounds the one before.
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(failed)?;
    caps::set(None, CapSet::Effective, &left).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &left).map_err(failed)?;
    Ok((unbound > 0).then(|| {
        format!("{unbound} stay in the bounding set, since CAP_SETPCAP is missing to remove them")
    }))
}
