//! The two files: read at the start, and the directory file again when it changes or on SIGHUP. A
//! file that is not good changes nothing.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use martlet_identity::{HostAuthorities, fingerprint};
use martlet_model::TrustDomain;
use martlet_standalone::{ControllerFile, DirectoryFile, Hosts, MAX_FILE_BYTES};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tracing::warn;

pub fn controller(path: &Path) -> Result<ControllerFile> {
    Ok(ControllerFile::parse(&text(path)?, &path.display().to_string())?)
}

/// With the SHA-256 of its text, in hex.
pub fn directory(path: &Path, domain: &TrustDomain) -> Result<(DirectoryFile, String)> {
    let text = text(path)?;
    let file = DirectoryFile::parse(&text, &path.display().to_string())?;
    ensure!(
        file.trust_domain == *domain,
        "{}: its `trustDomain` is {}, and the controller's is {domain}",
        path.display(),
        file.trust_domain
    );
    Ok((file, fingerprint(text.as_bytes())))
}

/// Who certifies hosts.
pub fn hosts(hosts: &Hosts) -> Result<HostAuthorities> {
    let named = || format!("reading the authorities of hosts, {}", hosts.authorities.display());
    let text = bytes(&hosts.authorities).with_context(named)?;
    let domain = hosts.domain.as_ref().map(|domain| domain.as_str());
    HostAuthorities::from_pem(&text, domain).with_context(named)
}

/// Nothing if it cannot be read now.
pub fn digest(path: &Path) -> String {
    text(path).map(|text| fingerprint(text.as_bytes())).unwrap_or_default()
}

fn text(path: &Path) -> Result<String> {
    let named = || format!("reading {}", path.display());
    String::from_utf8(bytes(path).with_context(named)?).with_context(named)
}

/// No more than what is enough to see that it is too much.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Tells of changes in the file's directory as long as it is held. Without a watch there is still
/// SIGHUP.
pub fn watch(path: &Path, changed: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let on_event = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            changed.notify_one();
        }
    };
    // The file itself may be replaced: then a watch on it would see the old one.
    let directory: PathBuf = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let watcher = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        watcher.watch(&directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| {
            warn!(%error, "the directory file is not watched; send SIGHUP after a change");
        })
        .ok()
}
