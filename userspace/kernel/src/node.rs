//! What belongs to the node: programs, cgroup links, maps, all pinned, and adopted from an earlier
//! agent process if there was one.

use std::{
    collections::{HashMap, HashSet},
    ffi::{OsStr, OsString},
    fs, io,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{SkLookup, links::FdLink},
};
use martlet_ebpf_shared::{ListenerKey, Membership, Used, ledger::Pair};
use martlet_model::report::{Counter, Hook, RepairKind};

use crate::{
    Feature, Finding, KernelError, KernelLog, Netns, Pod, Terms,
    changes::Changes,
    deserted,
    estate::{Estate, Inherited},
    feature::has_feature,
    guard,
    hooks::{self, Hooks},
    link::{self, Links, Target},
    maps::{self, Maps},
    object::object,
    pins::{Hold, MapPins, Pins},
    quotas,
    repair::or_unknown,
    sysctl,
};

/// Two programs for pods, permissive and strict; the link of a pod has one name.
const LOOKUP: &str = "martlet_lookup";
const LOOKUP_STRICT: &str = "martlet_lookup_strict";
/// The map of lines, unpinned: an agent reads only those of its own programs.
const LOG: &str = "AYA_LOGS";
/// The map whose capacity is the caller's to choose.
const LEDGER: &str = "LEDGER";
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
    /// How many entries the ledger has room for: [`Pair::ROOM`], fewer for tests.
    pub ledger_room: u32,
    /// Whether the programs write a line for each verdict, to be read by [`Node::take_log`].
    pub verbose: bool,
}

/// The node's programs, attached.
pub struct Node {
    pub(crate) shared: Arc<Shared>,
    hooks: Hooks,
    map_pins: MapPins,
    pub(crate) pins: Pins,
    log: Option<KernelLog>,
    pub(crate) desertions: Option<deserted::Ring>,
}

/// The node's programs, loaded and not attached: nothing is other than before.
pub struct Prepared {
    settings: Settings,
    pins: Pins,
    ebpf: Ebpf,
    map_pins: MapPins,
    hooks: Hooks,
    host: Netns,
}

/// What pods use of the node.
pub(crate) struct Shared {
    pub maps: Maps,
    /// Where the links are pinned.
    pub directory: PathBuf,
    pub links: Links,
    /// Listeners of a predecessor.
    pub inherited: Inherited,
    pub notes: PathBuf,
    pub host: Netns,
    /// Whether the guard is attached by tcx, and by clsact otherwise.
    pub tcx: bool,
    /// Whether connections of others can be ended.
    pub destroys: bool,
    /// The numbers of the programs that pods use.
    numbers: HashMap<&'static str, u32>,
    /// Of the host's interfaces.
    changes: Changes,
    generation: AtomicU64,
    ebpf: Mutex<Ebpf>,
}

/// What a pass of repairs has read once for all pods.
#[derive(Debug, Default)]
pub struct Look {
    /// As [`Shared::generation`] says it.
    pub(crate) generation: u64,
    /// The names of the pinned links.
    pinned: HashSet<OsString>,
    /// Those of the agent's listeners that the kernel can hand connections to.
    pub(crate) listeners: HashSet<ListenerKey>,
}

impl Look {
    pub(crate) fn is_pinned(&self, name: &str) -> bool {
        self.pinned.contains(OsStr::new(name))
    }
}

impl Prepared {
    /// To be called while this process holds the pin directory, or while the one that does has the
    /// same layout of the maps.
    pub fn load(settings: &Settings) -> Result<Self, KernelError> {
        let pins = Pins::open(&settings.pin)?;
        let mut ebpf = load(&pins.maps(), settings)?;
        let map_pins = MapPins::open(pins.maps(), maps::NAMES)?;
        let host = Netns::open(&settings.host)?;
        let hooks = Hooks::load(&mut ebpf, &settings.cgroup, &pins.links())?;
        for name in [LOOKUP, LOOKUP_STRICT] {
            lookup(&mut ebpf, name)?.load().map_err(KernelError::program(name))?;
        }
        guard::load(&mut ebpf)?;
        Ok(Self { settings: settings.clone(), pins, ebpf, map_pins, hooks, host })
    }

    /// Attaches, or adopts. Order: maps, `getpeername`, `sock_ops`, then `connect`, so that nothing is
    /// steered before the rest is in place.
    ///
    /// Where an earlier agent's links are adopted and its maps are gone, because somebody has removed
    /// their pins, `members` are members before anything else: no pod is known yet, so what connects
    /// to them is refused. To maps without members they would all be outside the mesh.
    pub fn attach(
        self,
        estate: Estate,
        members: impl Iterator<Item = (IpAddr, Membership)>,
    ) -> Result<Node, KernelError> {
        let Self { settings, pins, mut ebpf, map_pins, mut hooks, host } = self;
        let settings = &settings;
        let Estate { hold, life, listeners } = estate;
        pins.hold(hold.map_or_else(|| Hold::take(&settings.pin), Ok)?);
        let inherited = Inherited::new(listeners);
        let (directory, links) = (pins.links(), Links::default());
        let maps = Maps::take(&mut ebpf, life)?;
        maps.outside.set(host.cookie(), 1)?;
        if !maps.has_members() && link::are_any(&directory)? {
            maps.set_members(members.map(|(ip, member)| (maps::address(ip), member)).collect())?;
        }
        hooks.start(&mut ebpf, &links)?;
        let of_pods = [LOOKUP, LOOKUP_STRICT].into_iter().chain(guard::names());
        let numbers = of_pods.map(|name| Ok((name, hooks::number(&ebpf, name)?)));
        let numbers = numbers.collect::<Result<_, KernelError>>()?;
        let log = settings.verbose.then(|| KernelLog::open(&mut ebpf)).transpose()?;
        let desertions = Some(deserted::ring(&mut ebpf)?);
        for pair in [Pair::OTHERS, Pair::GONE] {
            maps.open_ledger(pair)?;
        }
        let notes = settings.notes.clone();
        let tcx = has_feature(settings, Feature::Tcx);
        let destroys = has_feature(settings, Feature::SockDestroy);
        let changes =
            Changes::open(&host).map_err(KernelError::in_netns(&host, "watching interfaces"))?;
        let (generation, ebpf) = (AtomicU64::new(0), Mutex::new(ebpf));
        let shared = Shared {
            maps,
            directory,
            links,
            inherited,
            notes,
            host,
            tcx,
            destroys,
            numbers,
            changes,
            generation,
            ebpf,
        };
        let shared = Arc::new(shared);
        Ok(Node { shared, hooks, map_pins, pins, log, desertions })
    }
}

impl Node {
    /// Loads and attaches, or adopts, where no other agent lives.
    pub fn start(settings: &Settings) -> Result<Self, KernelError> {
        Self::start_among(settings, std::iter::empty())
    }

    /// The same, with members as [`Prepared::attach`] takes them.
    pub fn start_among(
        settings: &Settings,
        members: impl Iterator<Item = (IpAddr, Membership)>,
    ) -> Result<Self, KernelError> {
        let estate = Estate::of(Hold::take(&settings.pin)?);
        Prepared::load(settings)?.attach(estate, members)
    }

    /// The lines of the programs, to be taken once; `None` if they write none.
    pub fn take_log(&mut self) -> Option<KernelLog> {
        self.log.take()
    }

    /// Makes the addresses of the mesh exactly these.
    pub fn set_members(
        &self,
        members: impl Iterator<Item = (IpAddr, Membership)>,
    ) -> Result<(), KernelError> {
        let members: HashMap<_, _> =
            members.map(|(ip, member)| (maps::address(ip), member)).collect();
        self.shared.maps.set_members(members)
    }

    /// Enrolls the pod of a network namespace: its listeners are in place before anything is
    /// steered to them.
    pub fn enroll(
        &self,
        netns: &Netns,
        addresses: &[IpAddr],
        terms: Terms,
    ) -> Result<Pod, KernelError> {
        Pod::enroll(self.shared.clone(), netns, addresses, terms)
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
            maps.receivers().into_iter().partition(|(address, receiver)| {
                declared.contains(address) || namespaces.contains(&receiver.netns)
            });
        let mut cookies: HashSet<u64> = maps.workload_cookies().into_iter().collect();
        cookies.extend(maps.guarded_cookies());
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
        self.shared.links.unpin_others(&self.shared.directory, &kept)?;
        self.pins.retire_other_versions()
    }

    /// The hooks of the node, and whether the kernel says that they are attached.
    pub fn hooks(&self) -> Vec<Hook> {
        self.hooks.report()
    }

    /// Compares what belongs to the node, and all that the maps should hold, with the kernel, and
    /// puts back what is not there. Pods are repaired afterwards, by [`Pod::repair`].
    pub fn repair(&self) -> Vec<Finding> {
        let mut findings =
            or_unknown(self.hooks.repair(&mut self.shared.programs(), &self.shared.links));
        findings.extend(or_unknown(self.map_pins.repair()));
        findings.extend(self.shared.maps.repair());
        findings
    }

    /// Reads what [`Pod::repair`] needs to know, once for all pods.
    pub fn look(&self) -> Result<Look, KernelError> {
        self.shared.look()
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
    pub fn look(&self) -> Result<Look, KernelError> {
        let failed = |source| KernelError::Pin { path: self.directory.clone(), source };
        let names = fs::read_dir(&self.directory).map_err(failed)?;
        let pinned = names.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>();
        Ok(Look {
            generation: self.generation(),
            pinned: pinned.map_err(failed)?,
            listeners: self.maps.listeners()?,
        })
    }

    /// Rises when an interface of the host has changed.
    pub fn generation(&self) -> u64 {
        let risen = u64::from(self.changes.are_there());
        self.generation.fetch_add(risen, Ordering::Relaxed) + risen
    }

    pub fn programs(&self) -> MutexGuard<'_, Ebpf> {
        self.ebpf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lookup_link(&self, cookie: u64) -> PathBuf {
        self.directory.join(format!("{LOOKUP}-{cookie}"))
    }

    /// Attaches the `sk_lookup` program to a network namespace, or puts it behind the link there.
    pub fn attach_lookup(&self, netns: &Netns, strict: bool) -> Result<(), KernelError> {
        let mut ebpf = self.programs();
        let name = if strict { LOOKUP_STRICT } else { LOOKUP };
        let failed = || KernelError::program(name);
        let program = lookup(&mut ebpf, name)?;
        let path = self.lookup_link(netns.cookie());
        let target = target(netns)?;
        if self.links.adopt(&path, program.fd().map_err(failed())?.as_fd(), target)? {
            return Ok(());
        }
        let id = program.attach(netns).map_err(failed())?;
        let attached = program.take_link(id).map_err(failed())?;
        self.links.pin(FdLink::from(attached), &path)
    }

    /// What is wrong with the link of a pod's `sk_lookup` program.
    pub fn wrong_lookup(
        &self,
        netns: &Netns,
        strict: bool,
    ) -> Result<Option<RepairKind>, KernelError> {
        let program = self.number(if strict { LOOKUP_STRICT } else { LOOKUP });
        link::wrong(&self.lookup_link(netns.cookie()), target(netns)?, program)
    }

    /// The number of a program of pods.
    pub fn number(&self, name: &str) -> u32 {
        *self.numbers.get(name).expect("every program of pods was numbered when it was loaded")
    }

    pub fn detach_lookup(&self, cookie: u64) -> Result<(), KernelError> {
        self.links.unpin(&self.lookup_link(cookie))
    }
}

fn target(netns: &Netns) -> Result<Target, KernelError> {
    let failed = |source| KernelError::Netns { path: netns.path().to_owned(), source };
    Ok(Target::Netns(netns.inode().map_err(failed)?))
}

fn load(pins: &Path, settings: &Settings) -> Result<Ebpf, KernelError> {
    let verbose = settings.verbose;
    let object = object().ok_or(KernelError::NoObject)?;
    let switch = u8::from(verbose);
    let mut loader = EbpfLoader::new();
    loader.override_global("VERBOSE", &switch, true);
    if !verbose {
        loader.map_max_entries(LOG, LOG_OFF_BYTES);
    }
    loader.map_max_entries(LEDGER, settings.ledger_room);
    for name in maps::NAMES {
        loader.map_pin_path(name, pins.join(name));
    }
    quotas::prepare_plain(&pins.join("PLAIN"))?;
    loader.load(object).map_err(|error| KernelError::Load(Box::new(error)))
}

fn lookup<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SkLookup, KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
    program.try_into().map_err(KernelError::program(name))
}
