//! Control groups of a cluster: each of its processes is in one, so none is ever forgotten.
//!
//! ```text
//!   cluster-NAME/control    etcd, API server, ...; only in the hierarchy of version 2
//!   cluster-NAME/node1      what the node sees as the root of its machine, in every hierarchy
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    place::{Node, Place},
    wait,
};

/// How one hierarchy is mounted on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mounted_at: PathBuf,
    pub is_second_version: bool,
    /// What to mount it with again.
    pub options: String,
}

/// All hierarchies of this machine. The second version is there, or nothing of ours would be.
pub struct Groups {
    hierarchies: Vec<Hierarchy>,
    unified: PathBuf,
    name: String,
}

impl Groups {
    pub fn of(place: &Place) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("reading the mounts")?;
        let hierarchies = hierarchies(&mounts);
        let unified = hierarchies.iter().find(|hierarchy| hierarchy.is_second_version);
        let unified = unified.context("cgroup v2 is not mounted")?.mounted_at.clone();
        Ok(Self { hierarchies, unified, name: place.netns() })
    }

    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    pub fn control(&self) -> PathBuf {
        self.unified.join(&self.name).join("control")
    }

    pub fn node(&self, node: Node) -> PathBuf {
        self.unified.join(&self.name).join(node.name())
    }

    /// A node's in every hierarchy.
    pub fn all_of_node(&self, node: Node) -> Vec<PathBuf> {
        let path = |hierarchy: &Hierarchy| hierarchy.mounted_at.join(&self.name).join(node.name());
        self.hierarchies.iter().map(path).collect()
    }

    pub fn make_control(&self) -> Result<()> {
        make(&self.control())?;
        // Where version 2 has controllers, nodes are given all that there are.
        delegate(&self.unified.join(&self.name))
    }

    pub fn make_node(&self, node: Node) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let of_cluster = hierarchy.mounted_at.join(&self.name);
            let of_node = of_cluster.join(node.name());
            for (group, above) in [(&of_cluster, &hierarchy.mounted_at), (&of_node, &of_cluster)] {
                make(group)?;
                inherit_cpus(group, above)?;
            }
        }
        Ok(())
    }

    /// Ends all that is in a group or below, and waits until nothing is.
    pub fn end(&self, group: &Path) -> Result<()> {
        if group.exists() {
            let kill = group.join("cgroup.kill");
            fs::write(&kill, "1").with_context(|| kill.display().to_string())?;
            let what = format!("the end of all in {}", group.display());
            wait::until(&what, 30, &group.join("cgroup.procs"), || Ok(!is_populated(group)))?;
        }
        Ok(())
    }

    /// Removes empty groups in every hierarchy; processes may still be leaving them.
    pub fn remove(&self, part: &str) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let group = hierarchy.mounted_at.join(&self.name).join(part);
            let what = format!("{} to be empty", group.display());
            wait::until(&what, 20, &group.join("cgroup.procs"), || Ok(remove_tree(&group)))?;
        }
        Ok(())
    }
}

/// Whether a process is in a group or below.
pub fn is_populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// The number, as this machine counts, of the process that its node counts as the first one.
pub fn first_process(group: &Path) -> Option<String> {
    let numbers = fs::read_to_string(group.join("init.scope/cgroup.procs")).ok()?;
    let is_first = |number: &&str| {
        fs::read_to_string(format!("/proc/{number}/status")).is_ok_and(|status| {
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            numbers.is_some_and(|numbers| numbers.split_whitespace().last() == Some("1"))
        })
    };
    numbers.lines().find(is_first).map(str::to_owned)
}

fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(at), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let is_own = |option: &&str| is_controller(option) || option.starts_with("name=");
        let own: Vec<_> = options.split(',').filter(is_own).collect();
        let hierarchy = Hierarchy {
            mounted_at: at.into(),
            is_second_version: kind == "cgroup2",
            options: own.join(","),
        };
        let is_known = found.iter().any(|known| {
            known.is_second_version == hierarchy.is_second_version
                && (known.is_second_version || known.options == hierarchy.options)
        });
        if matches!(kind, "cgroup" | "cgroup2") && !is_known {
            found.push(hierarchy);
        }
    }
    found
}

/// Not how the hierarchy happens to be mounted; `mount` wants the same controllers and nothing else.
fn is_controller(option: &str) -> bool {
    const KNOWN: &[&str] = &[
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "misc",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
        "rdma",
    ];
    KNOWN.contains(&option)
}

fn make(group: &Path) -> Result<()> {
    fs::create_dir_all(group).with_context(|| group.display().to_string())
}

fn delegate(group: &Path) -> Result<()> {
    let controllers = fs::read_to_string(group.join("cgroup.controllers"))
        .with_context(|| group.display().to_string())?;
    for controller in controllers.split_whitespace() {
        fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"))
            .with_context(|| format!("delegating {controller} below {}", group.display()))?;
    }
    Ok(())
}

/// In version 1 a new group has no processors, and takes no process before it has.
fn inherit_cpus(group: &Path, above: &Path) -> Result<()> {
    let first = group.join("cgroup.clone_children");
    if !group.join("cpuset.cpus").exists() || !first.exists() {
        return Ok(());
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read_to_string(above.join(name)).with_context(|| name.to_owned())?;
        fs::write(group.join(name), value.trim()).with_context(|| name.to_owned())?;
    }
    fs::write(&first, "1").context("letting groups below inherit processors")
}

/// From below; whether nothing is left.
fn remove_tree(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
    !group.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found_once() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,nosuid,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime,nsdelegate 0 0\n\
            cgroup /elsewhere cgroup rw,xattr,cpu,cpuacct 0 0\n\
            cgroup2 /elsewhere cgroup2 rw,relatime 0 0\n";
        let found: Vec<_> = hierarchies(mounts)
            .into_iter()
            .map(|hierarchy| (hierarchy.options, hierarchy.is_second_version))
            .collect();
        let wanted = [("cpu,cpuacct", false), ("name=systemd", false), ("", true)];
        assert_eq!(found, wanted.map(|(options, second)| (options.to_owned(), second)));
    }

    #[test]
    fn a_machine_of_version_2_alone_has_one_hierarchy() {
        let found = hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].is_second_version);
    }
}
