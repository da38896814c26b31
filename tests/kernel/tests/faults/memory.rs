//! A bound on a process's memory, by the memory controller of cgroup v1 or v2.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Where v1 is mounted on machines that have both.
const V1: &str = "/sys/fs/cgroup/memory";
/// Less than any next step of an agent takes.
const BYTES: &str = "16384";

pub struct Memory {
    group: PathBuf,
    is_v1: bool,
}

impl Memory {
    /// With v1, what the process has is not counted, and nothing more is to be had. With v2 all is
    /// counted, which is too much at once.
    pub fn limit(node: &Path, pid: u32) -> Result<Memory> {
        if Path::new(V1).join("memory.limit_in_bytes").exists() {
            let group = Path::new(V1).join(format!("martlet-fault-{pid}"));
            fs::create_dir(&group).context("making a memory cgroup")?;
            let memory = Memory { group, is_v1: true };
            memory.write("memory.limit_in_bytes", BYTES)?;
            memory.write("cgroup.procs", &pid.to_string())?;
            return Ok(memory);
        }
        let root = node.ancestors().take_while(|path| path.join("cgroup.procs").exists());
        let mut above: Vec<_> = root.collect();
        above.reverse();
        for group in above {
            fs::write(group.join("cgroup.subtree_control"), "+memory")
                .with_context(|| format!("counting memory below {}", group.display()))?;
        }
        let memory = Memory { group: node.join("agent"), is_v1: false };
        memory.write("memory.max", BYTES)?;
        Ok(memory)
    }

    fn write(&self, name: &str, value: &str) -> Result<()> {
        let path = self.group.join(name);
        fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))
    }

    /// How many processes the kernel has killed for it.
    pub fn kills(&self) -> Result<u64> {
        let name = if self.is_v1 { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.group.join(name)).context("reading what was killed")?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(line.context("the kernel does not count what it kills")?.trim().parse()?)
    }

    pub fn remove(&self) -> Result<()> {
        match self.is_v1 {
            true => fs::remove_dir(&self.group).context("removing the memory cgroup"),
            false => self.write("memory.max", "max"),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // After a failure; else it is gone already.
        let _ = self.remove();
    }
}
