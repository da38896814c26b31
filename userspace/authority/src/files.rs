//! The authority's directory: `root.crt`, `root.key`, `issuer.crt`, `issuer.key`, `keys.yaml`.
//!
//! A key is read only from a file of this process's user that nobody else can read. Whatever is
//! replaced is replaced as a whole: a new file is written, brought to the disk, and renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use zeroize::Zeroizing;

use crate::{AuthorityError, command, cut, limits::FILE_BYTES, settings::Settings};

pub const ROOT: &str = "root.crt";
pub const ROOT_KEY: &str = "root.key";
pub const ISSUER: &str = "issuer.crt";
pub const ISSUER_KEY: &str = "issuer.key";
/// A key whose certificate is still to come, and then that certificate until both have taken their
/// places.
pub const NEXT_ISSUER: &str = "issuer.crt.next";
pub const NEXT_ISSUER_KEY: &str = "issuer.key.next";
/// Keys first: whoever removes them begins with what must not be left.
pub const ALL: [&str; 6] = [ROOT_KEY, ISSUER_KEY, NEXT_ISSUER_KEY, ISSUER, NEXT_ISSUER, ROOT];

/// What an authority is loaded from.
pub struct Found {
    pub roots: Vec<Vec<u8>>,
    pub issuer: Vec<u8>,
    pub key: Zeroizing<Vec<u8>>,
    /// Absent if the root is kept elsewhere.
    pub root_key: Option<Zeroizing<Vec<u8>>>,
}

pub fn error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::File { path, what, source: Some(source) }
}

fn unfit(path: &Path, what: &'static str) -> AuthorityError {
    AuthorityError::File { path: path.to_owned(), what, source: None }
}

pub fn make_directory(directory: &Path) -> Result<(), AuthorityError> {
    let made = cut::here()
        .and_then(|()| fs::DirBuilder::new().recursive(true).mode(0o700).create(directory));
    made.map_err(error(directory, "cannot be made"))
}

/// The names in a directory; none if there is no directory.
pub fn names(directory: &Path) -> Result<Vec<String>, AuthorityError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(other) => return Err(error(directory, "cannot be read")(other)),
    };
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let names: Result<_, _> = entries.map(|entry| entry.map(name)).collect();
    names.map_err(error(directory, "cannot be read"))
}

/// With all that is in it, keys first; not being there is as good.
pub fn remove_directory(directory: &Path) -> Result<(), AuthorityError> {
    if !directory.exists() {
        return Ok(());
    }
    for name in ALL {
        remove(&directory.join(name))?;
    }
    for name in names(directory)? {
        remove(&directory.join(name))?;
    }
    let removed = cut::here().and_then(|()| fs::remove_dir(directory));
    removed.map_err(error(directory, "cannot be removed"))
}

/// Not being there is as good.
pub fn remove(path: &Path) -> Result<(), AuthorityError> {
    match cut::here().and_then(|()| fs::remove_file(path)) {
        Ok(()) => Ok(()),
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(other) => Err(error(path, "cannot be removed")(other)),
    }
}

pub fn rename(from: &Path, to: &Path) -> Result<(), AuthorityError> {
    let renamed = cut::here().and_then(|()| fs::rename(from, to));
    renamed.map_err(error(to, "cannot be replaced"))
}

/// Whether there is an issuer's certificate, or one that takes its place.
pub fn has_issuer(directory: &Path) -> bool {
    directory.join(issuer_names(directory).0).exists()
}

/// The issuer's certificate that an authority would be loaded with.
pub fn issuer(directory: &Path) -> Result<Vec<u8>, AuthorityError> {
    let (certificate, _) = issuer_names(directory);
    Ok(certificates(&directory.join(certificate))?.swap_remove(0))
}

/// Refuses if any of the names is taken.
pub fn check_free(directory: &Path, names: &[&str]) -> Result<(), AuthorityError> {
    let taken = |path: &PathBuf| path.symlink_metadata().is_ok();
    match names.iter().map(|name| directory.join(name)).find(taken) {
        Some(path) => Err(unfit(&path, "exists already; an authority is never overwritten")),
        None => Ok(()),
    }
}

pub fn read(directory: &Path, settings: &Settings) -> Result<Found, AuthorityError> {
    let (certificate, key) = issuer_names(directory);
    let key = read_key(&directory.join(key), settings)?;
    let issuer = certificates(&directory.join(certificate))?.swap_remove(0);
    let roots = certificates(&directory.join(ROOT))?;
    let root_key = directory.join(ROOT_KEY);
    let root_key = match root_key.symlink_metadata() {
        Ok(_) => Some(read_key(&root_key, settings)?),
        Err(_) => None,
    };
    Ok(Found { roots, issuer, key, root_key })
}

/// A pair that was being put into its place when the process died is complete already.
fn issuer_names(directory: &Path) -> (&'static str, &'static str) {
    let is_there = |name: &str| directory.join(name).exists();
    match (is_there(NEXT_ISSUER), is_there(NEXT_ISSUER_KEY)) {
        (true, true) => (NEXT_ISSUER, NEXT_ISSUER_KEY),
        (true, false) => (NEXT_ISSUER, ISSUER_KEY),
        (false, _) => (ISSUER, ISSUER_KEY),
    }
}

/// Puts a new issuer in the place of the old one. It is the issuer from the moment on in which its
/// certificate is there under the first of its names.
pub fn install_issuer(directory: &Path, certificate: &str) -> Result<(), AuthorityError> {
    let at = |name: &str| directory.join(name);
    replace(&at(NEXT_ISSUER), 0o644, certificate.as_bytes())?;
    settle(directory)
}

/// Finishes what [`install_issuer`] began.
pub fn settle(directory: &Path) -> Result<(), AuthorityError> {
    let at = |name: &str| directory.join(name);
    if !at(NEXT_ISSUER).exists() {
        return Ok(());
    }
    for (from, to) in [(NEXT_ISSUER_KEY, ISSUER_KEY), (NEXT_ISSUER, ISSUER)] {
        if at(from).exists() {
            rename(&at(from), &at(to))?;
        }
    }
    sync(directory)
}

/// PEM, whatever is in the file.
pub fn read_key(path: &Path, settings: &Settings) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
    let found = read_owned(path, 0o077, "may be read by others; make it 0600")?;
    match &settings.decrypt {
        Some(decrypt) => command::run(decrypt, &found),
        None => Ok(found),
    }
}

/// In clear only if no command is given that encrypts it.
pub fn create_key(path: &Path, pem: &[u8], settings: &Settings) -> Result<(), AuthorityError> {
    match &settings.encrypt {
        Some(encrypt) => create(path, 0o600, &command::run(encrypt, pem)?),
        None => create(path, 0o600, pem),
    }
}

/// As [`create_key`], whatever was there; after a death at any point it is there as a whole or not.
pub fn replace_key(path: &Path, pem: &[u8], settings: &Settings) -> Result<(), AuthorityError> {
    match &settings.encrypt {
        Some(encrypt) => replace(path, 0o600, &command::run(encrypt, pem)?),
        None => replace(path, 0o600, pem),
    }
}

/// Reads a file of this process's user of which others have none of the rights in `forbidden`.
pub fn read_owned(
    path: &Path,
    forbidden: u32,
    what: &'static str,
) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
    let looked = path.symlink_metadata().map_err(error(path, "cannot be read"))?;
    if looked.is_symlink() {
        return Err(unfit(path, "is a link; name the file itself"));
    }
    if !looked.is_file() {
        return Err(unfit(path, "is no file"));
    }
    let file = File::open(path).map_err(error(path, "cannot be read"))?;
    let opened = file.metadata().map_err(error(path, "cannot be read"))?;
    if (opened.dev(), opened.ino()) != (looked.dev(), looked.ino()) {
        return Err(unfit(path, "was replaced while it was read; try again"));
    }
    if opened.uid()
        != own_user().map_err(error(Path::new("/proc/self/status"), "cannot be read"))?
    {
        return Err(unfit(path, "belongs to another user than this process"));
    }
    if opened.mode() & forbidden != 0 {
        return Err(unfit(path, what));
    }
    if opened.len() > FILE_BYTES {
        return Err(unfit(path, "is too long"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(opened.len() as usize + 1));
    file.take(FILE_BYTES).read_to_end(&mut bytes).map_err(error(path, "cannot be read"))?;
    Ok(bytes)
}

/// The effective user: the second of four numbers (proc_pid_status(5)).
fn own_user() -> io::Result<u32> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// At least one.
pub fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, AuthorityError> {
    let length = fs::metadata(path).map_err(error(path, "cannot be read"))?.len();
    if length > FILE_BYTES {
        return Err(unfit(path, "is too long"));
    }
    let text = fs::read(path).map_err(error(path, "cannot be read"))?;
    parse_certificates(&text).ok_or_else(|| AuthorityError::Pem { path: path.to_owned() })
}

/// DER, at least one.
pub fn parse_certificates(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let ders: Vec<_> = found.ok()?.iter().map(|der| der.to_vec()).collect();
    (!ders.is_empty()).then_some(ders)
}

pub fn create(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), AuthorityError> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let opened = cut::here().and_then(|()| open());
    let mut file = opened.map_err(error(path, "cannot be made"))?;
    let written = cut::within(bytes, |bytes| file.write_all(bytes));
    written.map_err(error(path, "cannot be written"))?;
    let synced = cut::here().and_then(|()| file.sync_all());
    synced.map_err(error(path, "cannot be written"))
}

/// Whoever reads `path` sees the old content or the new one, also after a crash at any point.
pub fn replace(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), AuthorityError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    remove(&new)?;
    create(&new, mode, bytes)?;
    rename(&new, path)?;
    path.parent().map_or(Ok(()), sync)
}

/// Brings the names in a directory to the disk.
pub fn sync(directory: &Path) -> Result<(), AuthorityError> {
    let open = || File::open(directory).and_then(|directory| directory.sync_all());
    let synced = cut::here().and_then(|()| open());
    synced.map_err(error(directory, "cannot be written"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_file_of_another_user_is_refused() {
        let place = TempDir::new().unwrap();
        let own = place.path().join("own");
        create(&own, 0o600, b"secret").unwrap();
        assert_eq!(read_owned(&own, 0o077, "").unwrap().as_slice(), b"secret");
        // Root can give a file away; for everybody else there are files of root's.
        let other = match own_user().unwrap() {
            0 => chown(&own, Some(12_345), None).map(|()| own).unwrap(),
            _ => PathBuf::from("/etc/passwd"),
        };
        let refused = read_owned(&other, 0, "").unwrap_err().to_string();
        assert!(refused.contains("belongs to another user"), "{refused}");
    }

    #[test]
    fn who_reads_a_file_that_is_replaced_sees_the_old_or_the_new() {
        for steps in 0.. {
            let place = TempDir::new().unwrap();
            let path = place.path().join("file");
            replace(&path, 0o600, b"the old content").unwrap();
            let died = cut::after(steps, || drop(replace(&path, 0o600, b"new")));
            let found = fs::read(&path).unwrap();
            assert!(found == b"the old content" || found == b"new", "{steps}: {found:?}");
            replace(&path, 0o600, b"newer").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"newer");
            if !died {
                assert!(steps >= 6, "{steps}");
                break;
            }
        }
    }
}
