//! An agent whose wall clock jumps, by libfaketime: what it proves itself with is not valid for
//! others then, or theirs not for it.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use martlet_lab::{Agent, Stage};

fn file(agent: &Agent) -> Result<PathBuf> {
    Ok(agent.node().directory()?.join("clock"))
}

/// To be done before the agents start: both read what their clocks show from files.
pub fn with_own_clocks(stage: &mut Stage) -> Result<()> {
    let library = library()?.display().to_string();
    for agent in [&mut stage.one, &mut stage.two] {
        let file = file(agent)?;
        set(agent, 0)?;
        agent.set_env("LD_PRELOAD", &library);
        agent.set_env("FAKETIME_TIMESTAMP_FILE", &file.display().to_string());
        agent.set_env("FAKETIME_NO_CACHE", "1");
        // Timers and deadlines go by the other clock, which never jumps.
        agent.set_env("DONT_FAKE_MONOTONIC", "1");
        agent.set_env("NO_FAKE_STAT", "1");
    }
    Ok(())
}

/// Below the directory of the machine's architecture.
fn library() -> Result<PathBuf> {
    let directories = fs::read_dir("/usr/lib").context("listing libraries")?.flatten();
    let mut libraries = directories.map(|at| at.path().join("faketime/libfaketime.so.1"));
    libraries.find(|library| library.is_file()).context("libfaketime is not installed")
}

/// Whoever reads it never sees half of it.
pub fn set(agent: &Agent, seconds: i64) -> Result<()> {
    let (file, new) = (file(agent)?, file(agent)?.with_extension("new"));
    fs::write(&new, format!("{seconds:+}s\n"))?;
    fs::rename(new, file).context("setting a clock")
}
