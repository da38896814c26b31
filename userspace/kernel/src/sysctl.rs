//! The one sysctl that Martlet sets in a pod's network namespace, and puts back.
//!
//! `tcp_tw_reuse = 1` lets the kernel reuse a source port in TIME_WAIT for a new connection after a
//! second. Without it thousands of short connections a second use up all source ports; the default,
//! 2, does that only for loopback addresses.

use std::{fs, io, path::PathBuf};

use crate::Netns;

const TW_REUSE: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";
const WANTED: &str = "1";

/// Remembers in a file what was there before, so that also a later agent process can restore it.
pub struct Sysctl {
    netns: Netns,
    note: PathBuf,
}

impl Sysctl {
    /// Sets the sysctl. `notes` is a directory for the old values.
    pub fn set(netns: &Netns, notes: &std::path::Path) -> io::Result<Self> {
        let note = notes.join(format!("tcp_tw_reuse-{}", netns.cookie()));
        let old = netns.run(|| fs::read_to_string(TW_REUSE))?;
        if !note.exists() {
            fs::create_dir_all(notes)?;
            fs::write(&note, old.trim())?;
        }
        netns.run(|| fs::write(TW_REUSE, WANTED))?;
        Ok(Self { netns: netns.clone(), note })
    }

    /// Puts the old value back, unless somebody else has changed it meanwhile.
    pub fn restore(self) -> io::Result<()> {
        let old = fs::read_to_string(&self.note)?;
        self.netns.run(|| match fs::read_to_string(TW_REUSE)?.trim() {
            WANTED => fs::write(TW_REUSE, old.trim()),
            _ => Ok(()),
        })?;
        fs::remove_file(&self.note)
    }
}
