//! What belongs to the node: programs, cgroup links, maps, all pinned, and adopted from an earlier
//! agent process if there was one.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    net::IpAddr,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupAttachMode, CgroupSockAddr, SkLookup, SockOps, links::FdLink},
};
use martlet_ebpf_shared::{Member, Used};
use martlet_model::report::{Counter, Hook};

use crate::{
    Feature, KernelError, KernelLog, Netns, Pod,
    feature::has_feature,
    guard,
    link::{self, Target},
    maps::{self, Maps},
    object::object,
    pins::Pins,
    process, sysctl,
};

const ESTABLISH: &str = "martlet_establish";
/// Two programs for pods, permissive and strict; the link of a pod has one name.
const LOOKUP: &str = "martlet_lookup";
const LOOKUP_STRICT: &str = "martlet_lookup_strict";
/// The map of lines, unpinned: an agent reads only those of its own programs.
const LOG: &str = "AYA_LOGS";
/// A ring must have a size, also if nothing is ever written to it: one page.
const LOG_OFF_BYTES: u32 = 4096;

/// Where the kernel half lives.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cgroup v2 directory below which workloads are steered; the root cgroup on a real node.
    /// The agent must be below it too: its own sockets pass the same hooks.
    pub cgroup: PathBuf,
    /// A directory on a bpffs; `/sys/fs/bpf/martlet` by convention.
    pub pin: PathBuf,
    /// A directory for notes on sysctls to restore.
    pub notes: PathBuf,
    /// The network namespace of the node, with the host's ends of the pods' interfaces; the agent's
    /// own, `/proc/self/ns/net`, unless it runs elsewhere.
    pub host: PathBuf,
    /// Features to take as missing, for tests.
    pub without: Vec<Feature>,
    /// Whether the programs write a line for each verdict, to be read by [`Node::take_log`].
    pub verbose: bool,
}

/// The node's programs, attached.
pub struct Node {
    pub(crate) shared: Arc<Shared>,
    hooks: Vec<Hook>,
    target: Target,
    pins: Pins,
    log: Option<KernelLog>,
}

/// What pods use of the node.
pub(crate) struct Shared {
    pub maps: Maps,
    pub links: PathBuf,
    pub notes: PathBuf,
    pub host: Netns,
    /// Whether the guard is attached by tcx, and by clsact otherwise.
    pub tcx: bool,
    ebpf: Mutex<Ebpf>,
}

impl Node {
    /// Loads and attaches, or adopts. Order: maps, `getpeername`, `sock_ops`, then `connect`, so
    /// that nothing is steered before the rest is in place.
    pub fn start(settings: &Settings) -> Result<Self, KernelError> {
        let pins = Pins::open(&settings.pin)?;
        let links = pins.links();
        let mut ebpf = load(&pins.maps(), settings.verbose)?;
        let maps = Maps::take(&mut ebpf)?;
        let failed = |source| KernelError::Cgroup { path: settings.cgroup.clone(), source };
        let cgroup = File::open(&settings.cgroup).map_err(failed)?;
        let inode = cgroup.metadata().map_err(failed)?.ino();
        if process::is_below_cgroup(inode).map_err(failed)? == Some(false) {
            return Err(KernelError::AgentOutside { path: settings.cgroup.clone() });
        }
        let host = Netns::open(&settings.host)?;
        maps.outside.add(host.cookie())?;
        let target = Target::Cgroup(inode);
        let mut hooks = Vec::new();
        for name in ["martlet_peername4", "martlet_peername6"] {
            hooks.push(attach_sock_addr(&mut ebpf, name, &cgroup, target, &links)?);
        }
        hooks.push(attach_sock_ops(&mut ebpf, &cgroup, target, &links)?);
        for name in ["martlet_connect4", "martlet_connect6"] {
            hooks.push(attach_sock_addr(&mut ebpf, name, &cgroup, target, &links)?);
        }
        for name in [LOOKUP, LOOKUP_STRICT] {
            lookup(&mut ebpf, name)?.load().map_err(KernelError::program(name))?;
        }
        guard::load(&mut ebpf)?;
        let log = settings.verbose.then(|| KernelLog::open(&mut ebpf)).transpose()?;
        let notes = settings.notes.clone();
        let tcx = has_feature(settings, Feature::Tcx);
        let ebpf = Mutex::new(ebpf);
        let shared = Arc::new(Shared { maps, links, notes, host, tcx, ebpf });
        Ok(Self { shared, hooks, target, pins, log })
    }

    /// The lines of the programs, to be taken once; `None` if they write none.
    pub fn take_log(&mut self) -> Option<KernelLog> {
        self.log.take()
    }

    /// Makes the addresses of the mesh exactly these.
    pub fn set_members(
        &self,
        members: impl Iterator<Item = (IpAddr, Member)>,
    ) -> Result<(), KernelError> {
        let members: HashMap<_, _> =
            members.map(|(ip, member)| (maps::address(ip), member as u32)).collect();
        self.shared.maps.set_members(members)
    }

    /// Enrolls the pod of a network namespace: its listeners are in place before anything is
    /// steered to them.
    pub fn enroll(
        &self,
        netns: &Netns,
        addresses: &[IpAddr],
        strict: bool,
    ) -> Result<Pod, KernelError> {
        Pod::enroll(self.shared.clone(), netns, addresses, strict)
    }

    /// Forgets what earlier agent processes left for pods that are none of these, and detaches the
    /// programs of agents with another layout of the maps. To be called when all pods are enrolled.
    pub fn retain(&self, pods: &[&Pod]) -> Result<(), KernelError> {
        let declared = pods.iter().flat_map(|pod| pod.addresses().iter().copied());
        self.retain_declared(declared, &[])
    }

    /// The same by the addresses and by the namespaces' cookies of this node's workloads. A pod that
    /// could not be enrolled this time stays closed if it is among them; forgotten, it would be
    /// open.
    pub fn retain_declared(
        &self,
        declared: impl IntoIterator<Item = IpAddr>,
        namespaces: &[u64],
    ) -> Result<(), KernelError> {
        let maps = &self.shared.maps;
        let declared: HashSet<_> = declared.into_iter().map(maps::address).collect();
        let namespaces: HashSet<_> = namespaces.iter().copied().collect();
        let (kept, forgotten): (Vec<_>, Vec<_>) =
            maps.receivers()?.into_iter().partition(|(address, receiver)| {
                declared.contains(address) || namespaces.contains(&receiver.netns)
            });
        let mut cookies: HashSet<u64> = maps.workload_cookies()?.into_iter().collect();
        cookies.extend(maps.guarded_cookies()?);
        let kept: HashSet<u64> = kept.iter().map(|(_, receiver)| receiver.netns).collect();
        for cookie in cookies.difference(&kept).copied() {
            maps.remove_workload(cookie)?;
            guard::detach(&self.shared, cookie)?;
            self.shared.detach_lookup(cookie)?;
            let of_cookie = forgotten.iter().filter(|(_, receiver)| receiver.netns == cookie);
            let addresses: Vec<_> = of_cookie.map(|(address, _)| *address).collect();
            maps.close_quota(cookie, &addresses)?;
            let notes = &self.shared.notes;
            sysctl::restore_by_cookie(cookie, notes)
                .map_err(|source| KernelError::Notes { path: notes.clone(), source })?;
        }
        for (address, _) in forgotten {
            maps.remove_receiver(address)?;
        }
        maps.retain_ports(&kept)?;
        link::unpin_others(&self.shared.links, &kept)?;
        self.pins.retire_other_versions()
    }

    /// The hooks of the node, and whether the kernel says that they are attached.
    pub fn hooks(&self) -> Vec<Hook> {
        let mut hooks = self.hooks.clone();
        for hook in &mut hooks {
            let path = self.shared.links.join(&hook.name);
            hook.attached = link::is_attached(&path, self.target).unwrap_or(false);
        }
        hooks
    }

    /// What the pod of a network namespace uses of its quotas; `None` if it is not enrolled.
    pub fn used(&self, netns: &Netns) -> Result<Option<Used>, KernelError> {
        self.shared.maps.used(netns.cookie())
    }

    pub fn counters(&self) -> Result<Vec<Counter>, KernelError> {
        self.shared.maps.counters()
    }
}

impl Shared {
    pub fn programs(&self) -> MutexGuard<'_, Ebpf> {
        self.ebpf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lookup_link(&self, cookie: u64) -> PathBuf {
        self.links.join(format!("{LOOKUP}-{cookie}"))
    }

    /// Attaches the `sk_lookup` program to a network namespace, or puts it behind the link there.
    pub fn attach_lookup(&self, netns: &Netns, strict: bool) -> Result<(), KernelError> {
        let mut ebpf = self.programs();
        let name = if strict { LOOKUP_STRICT } else { LOOKUP };
        let failed = || KernelError::program(name);
        let program = lookup(&mut ebpf, name)?;
        let path = self.lookup_link(netns.cookie());
        let target = target(netns)?;
        if link::adopt(&path, program.fd().map_err(failed())?.as_fd(), target)? {
            return Ok(());
        }
        let id = program.attach(netns).map_err(failed())?;
        let attached = program.take_link(id).map_err(failed())?;
        link::pin(FdLink::from(attached), &path)
    }

    pub fn is_lookup_attached(&self, netns: &Netns) -> Result<bool, KernelError> {
        link::is_attached(&self.lookup_link(netns.cookie()), target(netns)?)
    }

    pub fn detach_lookup(&self, cookie: u64) -> Result<(), KernelError> {
        link::unpin(&self.lookup_link(cookie))
    }
}

fn target(netns: &Netns) -> Result<Target, KernelError> {
    let failed = |source| KernelError::Netns { path: netns.path().to_owned(), source };
    Ok(Target::Netns(netns.inode().map_err(failed)?))
}

fn load(pins: &Path, verbose: bool) -> Result<Ebpf, KernelError> {
    let object = object().ok_or(KernelError::NoObject)?;
    let switch = u8::from(verbose);
    let mut loader = EbpfLoader::new();
    loader.override_global("VERBOSE", &switch, true);
    if !verbose {
        loader.map_max_entries(LOG, LOG_OFF_BYTES);
    }
    for name in maps::NAMES {
        loader.map_pin_path(name, pins.join(name));
    }
    loader.load(object).map_err(|error| KernelError::Load(Box::new(error)))
}

/// Adopts the hook's pinned link, or attaches its program to the cgroup and pins the link. aya's
/// types for the two kinds of programs share no trait, but all names.
macro_rules! attach {
    ($ebpf:expr, $kind:ty, $name:expr, $cgroup:expr, $target:expr, $links:expr) => {{
        let name: &'static str = $name;
        let failed = || KernelError::program(name);
        let program = $ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
        let program: &mut $kind = program.try_into().map_err(KernelError::program(name))?;
        program.load().map_err(failed())?;
        let path = $links.join(name);
        let adopted = link::adopt(&path, program.fd().map_err(failed())?.as_fd(), $target)?;
        if !adopted {
            // A `bpf_link` lets other programs on the cgroup run too, whatever this mode is called.
            let id = program.attach($cgroup, CgroupAttachMode::Single).map_err(failed())?;
            let attached = program.take_link(id).map_err(failed())?;
            let attached =
                FdLink::try_from(attached).map_err(|_| KernelError::Absent("bpf_link"))?;
            link::pin(attached, &path)?;
        }
        Ok(Hook { name: name.to_owned(), attached: true, adopted })
    }};
}

fn attach_sock_addr(
    ebpf: &mut Ebpf,
    name: &'static str,
    cgroup: &File,
    target: Target,
    links: &Path,
) -> Result<Hook, KernelError> {
    attach!(ebpf, CgroupSockAddr, name, cgroup, target, links)
}

fn attach_sock_ops(
    ebpf: &mut Ebpf,
    cgroup: &File,
    target: Target,
    links: &Path,
) -> Result<Hook, KernelError> {
    attach!(ebpf, SockOps, ESTABLISH, cgroup, target, links)
}

fn lookup<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SkLookup, KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
    program.try_into().map_err(KernelError::program(name))
}
