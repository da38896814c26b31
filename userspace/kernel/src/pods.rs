//! Where the pods of this node are: each has a cgroup with its UID in the name.
//!
//! Kubelet makes it before any process of the pod, whichever container runtime there is: with the
//! cgroupfs driver `…/pod<UID>`, with systemd's `…-pod<UID, with underscores>.slice`, below whatever
//! the node's administrator has named as the root. So nothing has to be asked of the runtime, whose
//! socket is worth as much as the node.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{
    KernelError, Netns,
    netns::{is_gone, processes},
    process::cgroup_root,
};

/// Deeper ones than this are within pods.
const DEPTH: usize = 8;

/// In which directories pods have been found: the next one is most likely there, too.
static PARENTS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

impl Netns {
    /// The namespace that the runtime has made for a pod; it may be that of the agent's own pod.
    ///
    /// Processes of a pod may make namespaces of their own below, as a container runtime in a pod
    /// does. The pod's is the one that its oldest process is in: that process was there before any
    /// code of the pod ran.
    pub fn of_pod(uid: &str) -> Result<Self, KernelError> {
        let absent = || KernelError::PodAbsent { uid: uid.to_owned() };
        let path = cgroup_of(uid).map_err(|source| KernelError::Pods { source })?;
        let path = path.ok_or_else(absent)?;
        let failed = |source| KernelError::CgroupProcesses { path: path.clone(), source };
        let pids = match processes(&path) {
            // It has ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(absent()),
            pids => pids.map_err(failed)?,
        };
        let mut by_age: Vec<_> =
            pids.into_iter().filter_map(|pid| Some((started(pid)?, pid))).collect();
        by_age.sort_unstable();
        for (_, pid) in by_age {
            match Self::of_pid(pid) {
                // The process has ended meanwhile.
                Err(KernelError::Netns { source, .. }) if is_gone(&source) => {}
                netns => return netns,
            }
        }
        Err(KernelError::CgroupEmpty { path })
    }
}

/// The cgroup of the oldest process of root's with this name (`/proc/<pid>/comm`) that is in no pod.
/// `last`: where it was found before, which is looked at first.
pub fn cgroup_of_process(name: &str, last: Option<&Path>) -> Result<PathBuf, KernelError> {
    let failed = |source| KernelError::Pods { source };
    let is_one = |pid: &u32| {
        let is_roots = fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == 0);
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        is_roots && comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    let has = |cgroup: &Path, is_wanted: &dyn Fn(&u32) -> bool| {
        let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        listed.lines().filter_map(|line| line.parse().ok()).any(|pid| is_wanted(&pid))
    };
    if let Some(last) = last.filter(|last| has(last, &is_one)) {
        return Ok(last.to_owned());
    }
    let names = fs::read_dir("/proc").map_err(failed)?.flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let mut found: Vec<(u64, u32)> =
        pids.filter(is_one).filter_map(|pid| Some((started(pid)?, pid))).collect();
    found.sort_unstable();
    let root = cgroup_root().map_err(failed)?;
    for (_, pid) in found {
        let is_it = |path: &Path| !is_pod(path) && has(path, &|one| *one == pid);
        if let Some(cgroup) = search(&root, DEPTH, &is_it).map_err(failed)? {
            return Ok(cgroup);
        }
    }
    Err(KernelError::NoSuchProcess { name: name.to_owned() })
}

/// When a process has begun, in clock ticks since the machine has: the 22nd field of
/// `/proc/<pid>/stat` (proc_pid_stat(5)). `None` once it is gone.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in brackets, with whatever its process likes in it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

fn cgroup_of(uid: &str) -> io::Result<Option<PathBuf>> {
    let names = names(uid);
    let is_wanted = |path: &Path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| names.iter().any(|wanted| ends_with_word(&name, wanted)))
    };
    let known = PARENTS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for parent in &known {
        // A parent may be gone: kubelet removes those of empty classes.
        if let Some(found) =
            children(parent).unwrap_or_default().into_iter().find(|one| is_wanted(one))
        {
            return Ok(Some(found));
        }
    }
    let found = search(&cgroup_root()?, DEPTH, &is_wanted)?;
    if let Some(parent) = found.as_deref().and_then(Path::parent) {
        PARENTS.lock().unwrap_or_else(PoisonError::into_inner).insert(parent.to_owned());
    }
    Ok(found)
}

fn names(uid: &str) -> [String; 2] {
    [format!("pod{uid}"), format!("pod{}.slice", uid.replace('-', "_"))]
}

/// `pod1` is not the end of `kubepods-nopod1`, since nothing separates the two there.
fn ends_with_word(name: &str, wanted: &str) -> bool {
    name.strip_suffix(wanted).is_some_and(|before| before.is_empty() || before.ends_with('-'))
}

fn search(
    directory: &Path,
    depth: usize,
    is_wanted: &impl Fn(&Path) -> bool,
) -> io::Result<Option<PathBuf>> {
    let children = match children(directory) {
        // Cgroups come and go while one looks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        children => children?,
    };
    if let Some(found) = children.iter().find(|child| is_wanted(child)) {
        return Ok(Some(found.clone()));
    }
    if depth > 0 {
        for child in children.iter().filter(|child| !is_pod(child)) {
            if let Some(found) = search(child, depth - 1, is_wanted)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// What a pod calls its own processes and cgroups is its business.
fn is_pod(cgroup: &Path) -> bool {
    let name = cgroup.file_name().map(|name| name.to_string_lossy().into_owned());
    let last = name.as_deref().map(|name| name.strip_suffix(".slice").unwrap_or(name));
    last.and_then(|name| name.rsplit_once("pod")).is_some_and(|(before, uid)| {
        (before.is_empty() || before.ends_with('-')) && is_uid(&uid.replace('_', "-"))
    })
}

/// As Kubernetes makes them, or of static pods without hyphens.
fn is_uid(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    digits == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f3c2a1e-11aa-22bb-33cc-445566778899";

    #[test]
    fn a_pods_cgroup_is_known_by_either_name() {
        let is = |name: &str| names(UID).iter().any(|wanted| ends_with_word(name, wanted));
        assert!(is("pod0f3c2a1e-11aa-22bb-33cc-445566778899"));
        assert!(is("kubepods-burstable-pod0f3c2a1e_11aa_22bb_33cc_445566778899.slice"));
        assert!(is("kubepods-pod0f3c2a1e_11aa_22bb_33cc_445566778899.slice"));
        assert!(!is("kubepods-besteffort-nopod0f3c2a1e_11aa_22bb_33cc_445566778899.slice"));
        assert!(!is("pod0f3c2a1e-11aa-22bb-33cc-445566778890"));
        assert!(!is("kubepods-pod0f3c2a1e-11aa-22bb-33cc-445566778899.slice"));
    }

    #[test]
    fn a_pods_cgroup_is_found_wherever_it_is() {
        let root = std::env::temp_dir().join(format!("martlet-pods-{}", std::process::id()));
        let pod = root.join("kubelet.slice/kubelet-kubepods.slice").join(names(UID)[0].as_str());
        fs::create_dir_all(&pod).unwrap();
        fs::create_dir_all(root.join("system.slice/a.service")).unwrap();
        let wanted = |path: &Path| path.ends_with(&names(UID)[0]);
        let found = search(&root, DEPTH, &wanted).unwrap();
        let other = search(&root, DEPTH, &|path: &Path| path.ends_with("podx")).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!((found, other), (Some(pod), None));
    }

    #[test]
    fn what_is_within_a_pod_is_not_looked_at() {
        for pod in [
            "pod0f3c2a1e-11aa-22bb-33cc-445566778899",
            "pod0f3c2a1e11aa22bb33cc445566778899",
            "kubepods-burstable-pod0f3c2a1e_11aa_22bb_33cc_445566778899.slice",
        ] {
            assert!(is_pod(Path::new(pod)), "{pod}");
        }
        let others = ["kubepods", "kubepods.slice", "podman.service", "kubelet.service", "pod"];
        for other in others {
            assert!(!is_pod(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn a_process_says_when_it_began() {
        let own = started(std::process::id()).unwrap();
        assert!(own > started(1).unwrap());
        assert_eq!(started(u32::MAX), None);
    }
}
