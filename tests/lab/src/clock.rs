//! A wall clock of the test's own, for programs that are told of it before they start (libfaketime).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// What its programs' clocks show is read from a file, each time.
#[derive(Debug, Clone)]
pub struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// To be set before any program has it.
    pub fn in_file(file: &Path) -> Result<Clock> {
        Ok(Clock { file: file.to_owned(), library: library()? })
    }

    /// By which a program has this clock.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // Timers and deadlines go by the other clock, which never jumps.
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }

    /// So far from the time; whoever reads it never sees half of it.
    pub fn set(&self, seconds: i64) -> Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}s\n"))
            .and_then(|()| fs::rename(new, &self.file))
            .context("setting a clock")
    }
}

/// Below the directory of the machine's architecture.
fn library() -> Result<PathBuf> {
    let directories = fs::read_dir("/usr/lib").context("listing libraries")?.flatten();
    let mut libraries = directories.map(|at| at.path().join("faketime/libfaketime.so.1"));
    libraries.find(|library| library.is_file()).context("libfaketime is not installed")
}
