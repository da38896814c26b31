//! The authority's directory and its copy in the cluster: what is in effect is in both.
//!
//! ```text
//!   start:   vault ──▶ directory ──▶ store
//!   change:  store ──▶ directory ──▶ vault ──▶ in effect
//!                          ▲           │ not written
//!                          └───────────┘
//! ```
//!
//! The directory is in memory and ends with the pod. A change that is not in the vault would be
//! forgotten by the next controller, which would then make what nodes do not trust; so it is taken
//! back.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use martlet_kubernetes::vault::{Files, Kept, Vault, VaultError};
use tokio::runtime::Handle;

/// Files that say nothing to the next process.
const OWN: [&str; 1] = ["lock"];

pub struct Mirror {
    vault: Vault,
    directory: PathBuf,
    kept: Option<Kept>,
}

impl Mirror {
    /// Puts what is in the vault into the directory, and nothing else.
    pub async fn open(vault: Vault, directory: &Path) -> Result<Self> {
        let kept = vault.read().await?;
        let directory = directory.to_owned();
        let files = kept.as_ref().map(|kept| kept.files.clone()).unwrap_or_default();
        restore(&directory, &files).context("making the authority's directory")?;
        Ok(Self { vault, directory, kept })
    }

    /// Puts what has changed in the directory into the vault. Blocks.
    pub fn keep(&mut self) -> Result<(), String> {
        let files = collect(&self.directory).map_err(|error| error.to_string())?;
        if self.kept.as_ref().is_some_and(|kept| kept.files == files) {
            return Ok(());
        }
        let written = Handle::current().block_on(self.vault.write(&files, self.kept.as_ref()));
        match written {
            Ok(kept) => {
                self.kept = Some(kept);
                Ok(())
            }
            Err(error) => {
                self.take_back(&error);
                Err(error.to_string())
            }
        }
    }

    /// What may have been written, and what somebody else has, is read anew.
    fn take_back(&mut self, error: &VaultError) {
        let read = Handle::current().block_on(self.vault.read());
        match read {
            Ok(kept) => self.kept = kept,
            // Then what was read before is the best that is known; the next attempt to write over
            // it is refused if it is not there any more.
            Err(unread) => tracing::warn!(%error, %unread, "the vault cannot be read either"),
        }
        let files = self.kept.as_ref().map(|kept| kept.files.clone()).unwrap_or_default();
        if let Err(error) = restore(&self.directory, &files) {
            tracing::error!(%error, "the authority's directory could not be put back");
        }
    }
}

fn collect(directory: &Path) -> io::Result<Files> {
    let mut files = Files::default();
    let mut open = vec![(directory.to_owned(), String::new())];
    while let Some((at, prefix)) = open.pop() {
        for entry in fs::read_dir(&at)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                open.push((entry.path(), format!("{name}/")));
            } else if !OWN.contains(&name.as_str()) {
                files.0.insert(name, fs::read(entry.path())?);
            }
        }
    }
    Ok(files)
}

/// The directory stays the same one: whoever has a file open in it has its lock.
fn restore(directory: &Path, files: &Files) -> io::Result<()> {
    let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    make(directory)?;
    for name in collect(directory)?.0.keys() {
        fs::remove_file(directory.join(name))?;
    }
    for (name, bytes) in &files.0 {
        let path = directory.join(name);
        // Whoever may write the Secret may not write elsewhere.
        let is_below = Path::new(name)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_below {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name:?} leads out")));
        }
        make(path.parent().unwrap_or(directory))?;
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        opened?.write_all(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn files(all: &[(&str, &str)]) -> Files {
        let each = all.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
        Files(each.collect())
    }

    #[test]
    fn a_directory_becomes_what_was_kept_and_nothing_else() {
        let place = TempDir::new().unwrap();
        let at = place.path().join("authority");
        let first = files(&[("trust.json", "1"), ("generations/2/root.key", "k")]);
        restore(&at, &first).unwrap();
        fs::write(at.join("lock"), "").unwrap();
        assert_eq!(collect(&at).unwrap(), first);
        let second = files(&[("trust.json", "2")]);
        restore(&at, &second).unwrap();
        assert_eq!(collect(&at).unwrap(), second);
        assert!(at.join("lock").exists(), "who holds it still does");
    }

    #[test]
    fn what_leads_out_of_the_directory_is_refused() {
        let place = TempDir::new().unwrap();
        let at = place.path().join("authority");
        for name in ["../out", "/out", "a/../../out"] {
            assert!(restore(&at, &files(&[(name, "x")])).is_err(), "{name}");
        }
        assert!(!place.path().join("out").exists());
    }
}
