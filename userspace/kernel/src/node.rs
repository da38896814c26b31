//! What belongs to the node: programs, cgroup links, maps, all pinned, and adopted from an earlier
//! agent process if there was one.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupAttachMode, CgroupSockAddr, SkLookup, SockOps, links::FdLink},
};
use martlet_ebpf_shared::{ABI_VERSION, Member};
use martlet_model::report::{Counter, Hook};

use crate::{
    Feature, KernelError, Netns, Pod, link,
    maps::{self, Maps},
    object::object,
};

const ESTABLISH: &str = "martlet_establish";
const LOOKUP: &str = "martlet_lookup";

/// Where the kernel half lives.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cgroup v2 directory below which workloads are steered; the root cgroup on a real node.
    pub cgroup: PathBuf,
    /// A directory on a bpffs; `/sys/fs/bpf/martlet` by convention.
    pub pin: PathBuf,
    /// A directory for notes on sysctls to restore.
    pub notes: PathBuf,
    /// Features to take as missing, for tests.
    pub without: Vec<Feature>,
}

/// The node's programs, attached.
pub struct Node {
    pub(crate) shared: Arc<Shared>,
    hooks: Vec<Hook>,
}

/// What pods use of the node.
pub(crate) struct Shared {
    pub maps: Maps,
    pub links: PathBuf,
    pub notes: PathBuf,
    ebpf: Mutex<Ebpf>,
}

impl Node {
    /// Loads and attaches, or adopts. Order: maps, `getpeername`, `sock_ops`, then `connect`, so
    /// that nothing is steered before the rest is in place.
    pub fn start(settings: &Settings) -> Result<Self, KernelError> {
        let directory = pin_directory(&settings.pin)?;
        let mut ebpf = load(&directory)?;
        let maps = Maps::take(&mut ebpf)?;
        let links = directory.join("links");
        let open = File::open(&settings.cgroup);
        let cgroup =
            open.map_err(|source| KernelError::Cgroup { path: settings.cgroup.clone(), source })?;
        let mut hooks = Vec::new();
        for name in ["martlet_peername4", "martlet_peername6"] {
            hooks.push(attach_sock_addr(&mut ebpf, name, &cgroup, &links)?);
        }
        hooks.push(attach_sock_ops(&mut ebpf, &cgroup, &links)?);
        for name in ["martlet_connect4", "martlet_connect6"] {
            hooks.push(attach_sock_addr(&mut ebpf, name, &cgroup, &links)?);
        }
        lookup(&mut ebpf)?.load().map_err(KernelError::program(LOOKUP))?;
        let notes = settings.notes.clone();
        let shared = Arc::new(Shared { maps, links, notes, ebpf: Mutex::new(ebpf) });
        Ok(Self { shared, hooks })
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

    /// Forgets what an earlier agent process left for pods that are none of these.
    pub fn retain(&self, pods: &[&Pod]) -> Result<(), KernelError> {
        let maps = &self.shared.maps;
        for cookie in maps.workload_cookies()? {
            if !pods.iter().any(|pod| pod.cookie() == cookie) {
                maps.remove_workload(cookie)?;
                unpin(&self.shared.lookup_link(cookie))?;
            }
        }
        for address in maps.receiver_addresses()? {
            if !pods.iter().any(|pod| pod.has_address(address)) {
                maps.remove_receiver(address)?;
                maps.clear_listening(address)?;
            }
        }
        Ok(())
    }

    /// The hooks of the node, and whether their pins are still there.
    pub fn hooks(&self) -> Vec<Hook> {
        let mut hooks = self.hooks.clone();
        for hook in &mut hooks {
            hook.attached = self.shared.links.join(&hook.name).exists();
        }
        hooks
    }

    pub fn counters(&self) -> Result<Vec<Counter>, KernelError> {
        self.shared.maps.counters()
    }
}

impl Shared {
    pub fn lookup_link(&self, cookie: u64) -> PathBuf {
        self.links.join(format!("{LOOKUP}-{cookie}"))
    }

    /// Attaches the `sk_lookup` program to a network namespace, or adopts the link.
    pub fn attach_lookup(&self, netns: &Netns) -> Result<(), KernelError> {
        let mut ebpf = self.ebpf.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let program = lookup(&mut ebpf)?;
        let path = self.lookup_link(netns.cookie());
        let failed = KernelError::program(LOOKUP);
        if link::adopt(&path, program.fd().map_err(KernelError::program(LOOKUP))?.as_fd())? {
            return Ok(());
        }
        let id = program.attach(netns).map_err(failed)?;
        let attached = program.take_link(id).map_err(KernelError::program(LOOKUP))?;
        link::pin(FdLink::from(attached), &path)
    }

    pub fn detach_lookup(&self, cookie: u64) -> Result<(), KernelError> {
        unpin(&self.lookup_link(cookie))
    }
}

/// Removes everything pinned below `pin`: programs detach and maps are freed with their last user.
pub fn uninstall(pin: &Path) -> Result<(), KernelError> {
    match fs::remove_dir_all(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::Pin { path: pin.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Makes `<pin>/v<ABI>/{maps,links}`; mounts a bpffs on `/sys/fs/bpf` if there is none.
fn pin_directory(pin: &Path) -> Result<PathBuf, KernelError> {
    let directory = pin.join(format!("v{ABI_VERSION}"));
    let failed = |source| KernelError::Pin { path: directory.clone(), source };
    mount_bpffs(pin).map_err(failed)?;
    for part in ["maps", "links"] {
        fs::create_dir_all(directory.join(part)).map_err(failed)?;
    }
    let found = nix::sys::statfs::statfs(&directory).map_err(io::Error::from).map_err(failed)?;
    if found.filesystem_type() != nix::sys::statfs::BPF_FS_MAGIC {
        let message = "is not on a bpffs; mount one there or choose a directory below /sys/fs/bpf";
        return Err(failed(io::Error::other(message)));
    }
    Ok(directory)
}

fn mount_bpffs(pin: &Path) -> io::Result<()> {
    let usual = Path::new("/sys/fs/bpf");
    let found = nix::sys::statfs::statfs(usual)?;
    if !pin.starts_with(usual) || found.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC {
        return Ok(());
    }
    let none: Option<&str> = None;
    nix::mount::mount(Some("bpf"), usual, Some("bpf"), nix::mount::MsFlags::empty(), none)?;
    tracing::info!(path = %usual.display(), "bpffs mounted");
    Ok(())
}

fn load(directory: &Path) -> Result<Ebpf, KernelError> {
    let object = object().ok_or(KernelError::NoObject)?;
    let mut loader = EbpfLoader::new();
    for name in maps::NAMES {
        loader.map_pin_path(name, directory.join("maps").join(name));
    }
    loader.load(object).map_err(|error| KernelError::Load(Box::new(error)))
}

/// Adopts the hook's pinned link, or attaches its program to the cgroup and pins the link. aya's
/// types for the two kinds of programs share no trait, but all names.
macro_rules! attach {
    ($ebpf:expr, $kind:ty, $name:expr, $cgroup:expr, $links:expr) => {{
        let name: &'static str = $name;
        let failed = || KernelError::program(name);
        let program = $ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
        let program: &mut $kind = program.try_into().map_err(KernelError::program(name))?;
        program.load().map_err(failed())?;
        let path = $links.join(name);
        let adopted = link::adopt(&path, program.fd().map_err(failed())?.as_fd())?;
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
    links: &Path,
) -> Result<Hook, KernelError> {
    attach!(ebpf, CgroupSockAddr, name, cgroup, links)
}

fn attach_sock_ops(ebpf: &mut Ebpf, cgroup: &File, links: &Path) -> Result<Hook, KernelError> {
    attach!(ebpf, SockOps, ESTABLISH, cgroup, links)
}

fn lookup(ebpf: &mut Ebpf) -> Result<&mut SkLookup, KernelError> {
    let program = ebpf.program_mut(LOOKUP).ok_or(KernelError::Absent(LOOKUP))?;
    program.try_into().map_err(KernelError::program(LOOKUP))
}

fn unpin(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::Pin { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}
