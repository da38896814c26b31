//! What a cluster of our own has on this machine, and what is left of it when it is down.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};

use crate::own::Own;

/// Everything by which a cluster could be noticed, written as text.
#[derive(Debug, Default)]
pub struct Traces {
    /// By their numbers and when they began: numbers are used again.
    pub processes: BTreeSet<(u32, String)>,
    /// Network, mount and process namespaces of those.
    pub namespaces: BTreeSet<String>,
    pub groups: BTreeSet<String>,
    /// Of this process's mount namespace, which is the machine's.
    pub mounts: BTreeSet<String>,
}

const KINDS: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

impl Traces {
    pub fn of(own: &Own) -> Result<Self> {
        let name = format!("cluster-{}", own.name());
        let groups = groups(&name)?;
        let mut processes = BTreeSet::new();
        for group in &groups {
            let members = fs::read_to_string(Path::new(group).join("cgroup.procs"));
            for number in members.unwrap_or_default().lines() {
                let number: u32 = number.parse().context("reading a group's processes")?;
                processes.extend(beginning(number).map(|began| (number, began)));
            }
        }
        let ours = namespaces_of(std::process::id());
        let namespaces = processes.iter().flat_map(|(number, _)| namespaces_of(*number));
        let namespaces = namespaces.filter(|namespace| !ours.contains(namespace)).collect();
        Ok(Self { processes, namespaces, groups, mounts: mounts(&[&name, own.name()])? })
    }

    /// What is still there of what was there.
    pub fn left(&self, own: &Own) -> Result<Self> {
        let now = Self::of(own)?;
        let is_there =
            |(number, began): &&(u32, String)| beginning(*number).as_ref() == Some(began);
        let mut alive = BTreeSet::new();
        for entry in fs::read_dir("/proc").context("listing processes")?.flatten() {
            if let Ok(number) = entry.file_name().to_string_lossy().parse() {
                alive.extend(namespaces_of(number));
            }
        }
        Ok(Self {
            processes: self.processes.iter().filter(is_there).cloned().collect(),
            namespaces: self.namespaces.intersection(&alive).cloned().collect(),
            groups: now.groups,
            mounts: now.mounts,
        })
    }

    pub fn is_empty(&self) -> bool {
        [self.namespaces.len(), self.groups.len(), self.mounts.len(), self.processes.len()]
            .iter()
            .all(|count| *count == 0)
    }
}

/// When a process began, in ticks since the machine did; nothing of one that has ended, even if
/// nobody has asked how yet.
fn beginning(number: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = fields.split(' ').collect();
    let has_ended = matches!(*fields.first()?, "Z" | "X");
    (!has_ended).then(|| fields.get(19).map(|&began| began.to_owned()))?
}

fn namespaces_of(number: u32) -> BTreeSet<String> {
    let link = |kind: &&str| fs::read_link(format!("/proc/{number}/ns/{kind}")).ok();
    KINDS.iter().filter_map(link).map(|link| link.display().to_string()).collect()
}

/// The cluster's control groups, in every hierarchy.
fn groups(name: &str) -> Result<BTreeSet<String>> {
    let mounts = fs::read_to_string("/proc/mounts").context("reading the mounts")?;
    let mut found = BTreeSet::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(at), Some("cgroup" | "cgroup2")) = (fields.next(), fields.next()) {
            collect(&Path::new(at).join(name), &mut found);
        }
    }
    Ok(found)
}

fn collect(group: &Path, found: &mut BTreeSet<String>) {
    if group.is_dir() {
        found.insert(group.display().to_string());
        for entry in fs::read_dir(group).into_iter().flatten().flatten() {
            collect(&entry.path(), found);
        }
    }
}

/// Namespaces that have a name are mounts, too.
fn mounts(names: &[&str]) -> Result<BTreeSet<String>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    let is_ours = |line: &&str| names.iter().any(|name| line.contains(name));
    Ok(mounts.lines().filter(is_ours).map(str::to_owned).collect())
}
