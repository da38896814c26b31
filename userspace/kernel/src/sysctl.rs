//! The one sysctl that Martlet sets in a pod's network namespace, and puts back.
//!
//! `tcp_tw_reuse = 1` lets the kernel reuse a source port in TIME_WAIT for a new connection after a
//! second. Without it thousands of short connections a second use up all source ports; the default,
//! 2, does that only for loopback addresses.
//!
//! What was there before stands in a file, so that also a later agent process can restore it. The
//! file's name carries the boot, since a namespace's cookie is given again after the next one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::{FsFlags, statvfs};

use crate::Netns;

const TW_REUSE: &str = "ipv4/tcp_tw_reuse";
/// The network's sysctls. Which namespace's they are depends on who opens them.
const OWN: &str = "/proc/sys/net";
/// The same, where a container is given the host's: its own are mounted read-only.
const HOSTS: &str = "/host/proc/sys/net";
const WANTED: &str = "1";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
const PREFIX: &str = "tcp_tw_reuse-";

/// What was there before, and where the namespace is found.
struct Note {
    old: String,
    netns: PathBuf,
}

/// Below which the network's sysctls are written.
pub fn directory() -> &'static Path {
    let is_read_only =
        |path| statvfs(path).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    match is_read_only(OWN) && Path::new(HOSTS).is_dir() {
        true => Path::new(HOSTS),
        false => Path::new(OWN),
    }
}

fn tw_reuse() -> PathBuf {
    directory().join(TW_REUSE)
}

/// Sets the sysctl; `notes` is a directory for the old values.
pub fn set(netns: &Netns, notes: &Path) -> io::Result<()> {
    let old = netns.run(|| fs::read_to_string(tw_reuse()))?;
    let note = note_path(notes, netns.cookie())?;
    if read(&note)?.is_none() {
        fs::create_dir_all(notes)?;
        forget_other_boots(notes)?;
        let text = format!("{}\n{}\n", old.trim(), netns.path().display());
        let beside = note.with_extension("new");
        fs::write(&beside, text)?;
        fs::rename(&beside, &note)?;
    }
    netns.run(|| fs::write(tw_reuse(), WANTED))
}

pub fn is_set(netns: &Netns) -> io::Result<bool> {
    Ok(netns.run(|| fs::read_to_string(tw_reuse()))?.trim() == WANTED)
}

/// Puts the old value back, unless somebody else has changed it meanwhile.
pub fn restore(netns: &Netns, notes: &Path) -> io::Result<()> {
    let path = note_path(notes, netns.cookie())?;
    let Some(note) = read(&path)? else { return Ok(()) };
    netns.run(|| match fs::read_to_string(tw_reuse())?.trim() {
        WANTED => fs::write(tw_reuse(), &note.old),
        _ => Ok(()),
    })?;
    fs::remove_file(path)
}

/// The same for a namespace that an earlier agent has enrolled, if it is still there.
pub fn restore_by_cookie(cookie: u64, notes: &Path) -> io::Result<()> {
    let path = note_path(notes, cookie)?;
    let Some(note) = read(&path)? else { return Ok(()) };
    match Netns::find(cookie, &note.netns)? {
        Some(netns) => restore(&netns, notes),
        None => fs::remove_file(path),
    }
}

/// The namespaces of this boot whose sysctl an agent has set and not restored.
pub fn noted(notes: &Path) -> io::Result<Vec<u64>> {
    let ours = format!("{PREFIX}{}-", boot()?);
    let cookie = |name: &str| name.strip_prefix(&ours)?.parse().ok();
    match fs::read_dir(notes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let names = entries?.map(|entry| Ok(entry?.file_name()));
            let names = names.collect::<io::Result<Vec<_>>>()?;
            Ok(names.iter().filter_map(|name| cookie(&name.to_string_lossy())).collect())
        }
    }
}

fn note_path(notes: &Path, cookie: u64) -> io::Result<PathBuf> {
    Ok(notes.join(format!("{PREFIX}{}-{cookie}", boot()?)))
}

/// Which start of the machine this is.
pub fn boot() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT)?.trim().to_owned())
}

fn read(path: &Path) -> io::Result<Option<Note>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let note = text.split_once('\n');
    let note = note.map(|(old, netns)| Note { old: old.to_owned(), netns: netns.trim().into() });
    let damaged = || io::Error::other(format!("{} is damaged", path.display()));
    note.map(Some).ok_or_else(damaged)
}

/// Their namespaces are gone.
fn forget_other_boots(notes: &Path) -> io::Result<()> {
    let ours = format!("{PREFIX}{}-", boot()?);
    for entry in fs::read_dir(notes)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && !name.starts_with(&ours) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_an_earlier_boot_are_forgotten() -> io::Result<()> {
        let notes = tempfile::tempdir()?;
        let old = notes.path().join("tcp_tw_reuse-0000-7");
        let ours = note_path(notes.path(), 7)?;
        let other = notes.path().join("something-else");
        for file in [&old, &ours, &other] {
            fs::write(file, "2\n/run/netns/web\n")?;
        }
        forget_other_boots(notes.path())?;
        assert_eq!([&old, &ours, &other].map(|file| file.exists()), [false, true, true]);
        let note = read(&ours)?.expect("the note is there");
        assert_eq!((note.old.as_str(), note.netns), ("2", "/run/netns/web".into()));
        assert!(read(&old)?.is_none());
        fs::write(&ours, "")?;
        assert!(read(&ours).is_err(), "an empty note is not taken for a value");
        Ok(())
    }
}
