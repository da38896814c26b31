//! The node file: read at the start, and again when it changes or on SIGHUP. A file that is not
//! good changes nothing; the status says why.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use martlet_identity::fingerprint;
use martlet_model::Label;
use martlet_standalone::{MAX_FILE_BYTES, NodeFile, parse_of};
use martlet_telemetry::{Metrics, Outcome};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{limits::SETTLE, reports::Shared};

/// A good file.
pub struct Loaded {
    pub file: NodeFile,
    /// SHA-256 of its text, in hex.
    pub digest: String,
}

/// `node`: who this node is, if the agent was told.
pub fn read(path: &Path, node: Option<&Label>) -> Result<Loaded> {
    let named = || format!("reading the node file {}", path.display());
    let text = String::from_utf8(bytes(path).with_context(named)?).with_context(named)?;
    let file = parse_of(&text, &path.display().to_string(), node)?;
    Ok(Loaded { file, digest: fingerprint(text.as_bytes()) })
}

/// What is too much is not read: the allocator would keep some of the room for it.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_FILE_BYTES as u64 {
        let why = format!("it has {length} bytes, and at most {MAX_FILE_BYTES} are read");
        return Err(io::Error::other(why));
    }
    let mut bytes = Vec::with_capacity(length as usize + 1);
    // It may grow meanwhile, and some files say that they are empty.
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Watches the file, and hands good new ones on.
pub struct Reloader {
    path: PathBuf,
    node: Option<Label>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    /// What was asked for by SIGHUP.
    asked: Arc<Notify>,
    to: mpsc::Sender<Loaded>,
    /// The latest that was handed on; it may not be in use yet.
    sent: String,
}

impl Reloader {
    pub fn new(
        path: PathBuf,
        node: Option<Label>,
        shared: Arc<Shared>,
        metrics: Arc<Metrics>,
        to: mpsc::Sender<Loaded>,
        asked: Arc<Notify>,
    ) -> Self {
        let sent = shared.configuration().digest;
        Self { path, node, shared, metrics, asked, to, sent }
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        let changed = Arc::new(Notify::new());
        let _watching = self.watch(changed.clone());
        let mut seen = self.shared.configuration().digest;
        loop {
            let asked = tokio::select! {
                () = self.asked.notified() => true,
                () = changed.notified() => {
                    tokio::time::sleep(SETTLE).await;
                    false
                }
                () = shutdown.cancelled() => return,
            };
            let digest = bytes(&self.path).map(|text| fingerprint(&text)).unwrap_or_default();
            // The directory is watched: most changes there are another file's.
            if !asked && digest == seen {
                continue;
            }
            seen = digest;
            let taken = self.take(asked).await;
            let outcome = if taken.is_ok() { Outcome::Success } else { Outcome::Failure };
            self.metrics.configuration_reload(outcome);
            if let Err(refused) = taken {
                let refused = format!("{refused:#}");
                error!(error = refused, "the new node file was not taken; the old one stays");
                self.shared.set_configuration_error(refused);
            }
        }
    }

    async fn take(&mut self, asked: bool) -> Result<()> {
        let loaded = read(&self.path, self.node.as_ref())?;
        let now = self.shared.configuration();
        if let Some(key) = now.file.needs_restart(&loaded.file) {
            bail!("`{key}` only changes with a restart of the agent; put the old value back");
        }
        if !asked && loaded.digest == now.digest && loaded.digest == self.sent {
            self.shared.clear_configuration_error();
            return Ok(());
        }
        info!(configuration = loaded.digest, "node file changed");
        self.sent.clone_from(&loaded.digest);
        self.to.send(loaded).await.context("the agent is stopping")
    }

    /// Without a watch there is still SIGHUP.
    fn watch(&self, changed: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
        let on_event = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                changed.notify_one();
            }
        };
        // The file itself may be replaced: then a watch on it would see the old one.
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let watcher = notify::recommended_watcher(on_event).and_then(|mut watcher| {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                warn!(%error, "the node file is not watched; send SIGHUP after a change");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use arc_swap::ArcSwap;
    use martlet_authority::Authority;
    use martlet_dataplane::{Dataplane, View};
    use tempfile::TempDir;

    use super::*;
    use crate::{issuer::Issuer, reports::InUse};

    fn text(directory: &Path, remark: &str) -> String {
        let authority = directory.join("authority");
        format!(
            "trustDomain: a.org\nauthority: {{ directory: {} }}\nnode: {{ name: one }} # {remark}\n",
            authority.display(),
        )
    }

    /// In use is what says `first`.
    fn reloader(directory: &Path) -> (Reloader, mpsc::Receiver<Loaded>) {
        let domain = "a.org".parse().unwrap();
        Authority::init(&directory.join("authority"), &domain).unwrap();
        let issuer = Issuer::open(&directory.join("authority"), &domain, None).unwrap();
        let path = directory.join("node.yaml");
        fs::write(&path, text(directory, "first")).unwrap();
        let Loaded { file, digest } = read(&path, None).unwrap();
        let in_use = InUse { file: Arc::new(file), digest, error: None };
        let view = Arc::new(ArcSwap::from_pointee(View::default()));
        let dataplane = Dataplane::new(view.clone(), mpsc::channel(1).0);
        let shared = Shared::new(in_use, vec![], Arc::new(issuer), dataplane, view);
        let (to, files) = mpsc::channel(2);
        let metrics = Arc::new(Metrics::new("0"));
        (Reloader::new(path, None, Arc::new(shared), metrics, to, Arc::default()), files)
    }

    #[tokio::test]
    async fn a_change_that_is_taken_back_before_it_was_taken_over_is_handed_on_too() {
        let directory = TempDir::new().unwrap();
        let (mut reloader, mut files) = reloader(directory.path());
        for remark in ["second", "first"] {
            fs::write(&reloader.path, text(directory.path(), remark)).unwrap();
            reloader.take(false).await.unwrap();
        }
        let digests = [files.try_recv(), files.try_recv()].map(|file| file.unwrap().digest);
        assert_ne!(digests[0], digests[1]);
        assert_eq!(digests[1], reloader.shared.configuration().digest);
    }

    #[test]
    fn what_is_too_large_is_refused_with_both_sizes() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("node.yaml");
        let file = File::create(&path).unwrap();
        for length in [MAX_FILE_BYTES as u64 + 1, 1 << 40] {
            file.set_len(length).unwrap();
            let error = format!("{:#}", read(&path, None).err().unwrap());
            let said = format!("it has {length} bytes, and at most {MAX_FILE_BYTES} are read");
            assert!(error.contains("node.yaml") && error.ends_with(&said), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_in_use_is_not_handed_on_again() {
        let directory = TempDir::new().unwrap();
        let (mut reloader, mut files) = reloader(directory.path());
        reloader.shared.set_configuration_error("a broken file in between".to_owned());
        reloader.take(false).await.unwrap();
        assert!(files.try_recv().is_err());
        assert_eq!(reloader.shared.configuration().error, None);
    }
}
