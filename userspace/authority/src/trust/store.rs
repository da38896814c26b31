//! The trust of one domain, kept in a directory: what is there, and every change of it.
//!
//! ```text
//! trust.json               all that is remembered; replaced as a whole, and only then in effect
//! keys.yaml                how the keys are reached, if they are not plain files
//! root.crt root.key …      the first authority, if `martlet authority init` made it here
//! generations/2/root.crt … an authority that a rotation has brought, a directory of the same form
//! lock                     one process at a time
//! ```
//!
//! A process that dies between any two steps leaves the state before or the state after: a generation
//! is complete before `trust.json` names it, and is removed only when `trust.json` does not.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use martlet_identity::fingerprint;
use martlet_model::{Label, Trust, TrustDomain};

use super::{
    Node, Obstacle, TrustError,
    document::{Document, Issuer, Rotation, StepName, instant, seconds},
    foreign::keys as root_keys,
    generation::{self, FIRST},
    issuer::{self, IssuerState},
    rotation::{Facts, obstacles},
};
use crate::{Authority, NewRoot, files, limits::SHOWN, make::pem};

const STATE: &str = "trust.json";
const LOCK: &str = "lock";

/// One owner has it; others have what [`Store::trust`] and [`Store::authority`] give.
pub struct Store {
    pub(super) directory: PathBuf,
    pub(super) domain: TrustDomain,
    pub(super) document: Document,
    pub(super) authority: Arc<Authority>,
    pub(super) renewal_error: Option<String>,
    trust: Arc<Trust>,
    _lock: File,
}

impl Store {
    /// Goes on with what is in `directory`, which may be one that `martlet authority init` has made;
    /// in an empty one a root and an issuer are made.
    pub fn open(
        directory: &Path,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, TrustError> {
        files::make_directory(directory)?;
        let lock = lock(directory)?;
        let state = directory.join(STATE);
        let document = match state.symlink_metadata() {
            Ok(_) => document(&state)?,
            Err(_) => Document::new(now),
        };
        let is_new = !state.exists();
        if is_new && generation::has_later(directory)? {
            let what = "is missing, but generations are there that only it explains; restore it";
            return Err(TrustError::State(format!("{}: {what}", state.display())));
        }
        if is_new && !generation::path(directory, FIRST).join(files::ROOT).exists() {
            let place = generation::place(directory, FIRST);
            let from = (directory, None);
            let made = generation::prepare(from, &place, domain, NewRoot::Made, now)?;
            generation::finish(&made, &place)?;
        }
        generation::clean(directory, &document)?;
        let at = generation::path(directory, document.generation);
        let authority = Arc::new(Authority::load_at(&at, domain, now)?);
        let (directory, domain) = (directory.to_owned(), domain.clone());
        let (trust, renewal_error) = (Arc::default(), None);
        let mut store =
            Self { directory, domain, document, authority, renewal_error, trust, _lock: lock };
        let mut document = store.document.clone();
        store.issues(&mut document, &store.authority, now);
        store.commit(document)?;
        Ok(store)
    }

    /// Takes over what somebody else has put into the directory. After an error, what was in effect
    /// still is.
    pub fn reload(&mut self, now: SystemTime) -> Result<(), TrustError> {
        let document = document(&self.directory.join(STATE))?;
        let at = generation::path(&self.directory, document.generation);
        let authority = Arc::new(Authority::load_at(&at, &self.domain, now)?);
        let trust = Arc::new(self.told(&document)?);
        (self.document, self.authority, self.trust) = (document, authority, trust);
        Ok(())
    }

    /// Whose authority it is.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// What nodes are told. Later versions are greater, also over restarts.
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.clone()
    }

    /// Who issues now. Ask again after every change.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.clone()
    }

    /// To be called every few seconds: renews the issuer, takes over one that was installed, and goes
    /// on with a rotation if nothing is in its way. Whether [`Store::trust`] or [`Store::authority`]
    /// changed.
    pub fn tick(&mut self, nodes: &[Node], now: SystemTime) -> Result<bool, TrustError> {
        let before = (self.trust.version, self.authority.clone());
        self.know(nodes)?;
        self.catch_up(nodes, now)?;
        self.renew(now)?;
        if self.document.rotation.is_some() && self.obstacles(nodes, now).is_empty() {
            self.advance(now)?;
        }
        Ok(before.0 != self.trust.version || !Arc::ptr_eq(&before.1, &self.authority))
    }

    /// What the rotation waits for; nothing without one.
    pub fn obstacles(&self, nodes: &[Node], now: SystemTime) -> Vec<Obstacle> {
        let Some(rotation) = &self.document.rotation else { return vec![] };
        let stays = |issuer: &Issuer| issuer.generation == self.document.generation;
        let issuers = self.document.issuers.iter().filter(|(_, issuer)| stays(issuer));
        let other = generation::path(&self.directory, rotation.other);
        let leaving = files::certificates(&other.join(files::ROOT)).ok();
        let leaving = leaving.and_then(|roots| root_keys(&self.domain, &roots).ok());
        let is_staged = rotation.step == StepName::Staged;
        let since = instant(rotation.since);
        obstacles(&Facts {
            step: rotation.step.into(),
            is_paused: rotation.is_paused,
            issuer: if is_staged { issuer::state(&other, now) } else { IssuerState::Good },
            shown_until: (is_staged && !self.document.foreign.is_empty()).then(|| since + SHOWN),
            now,
            version: rotation.version,
            since,
            known: &self.document.nodes,
            nodes,
            staying_issuers: &issuers.map(|(print, _)| print.clone()).collect(),
            leaving_roots: leaving.map(|keys| keys.into_iter().collect()).as_ref(),
        })
    }

    /// Stages a new root: from the next version of the trust on, every node trusts both. `keys` is the
    /// text of its `keys.yaml`; without it, its keys are kept as those of the present one.
    pub fn rotate(
        &mut self,
        root: NewRoot,
        keys: Option<&[u8]>,
        nodes: &[Node],
        now: SystemTime,
    ) -> Result<(), TrustError> {
        if self.document.rotation.is_some() {
            return Err(TrustError::Rotating);
        }
        self.know(nodes)?;
        let number = self.document.generation + 1;
        let place = generation::place(&self.directory, number);
        let from = generation::path(&self.directory, self.document.generation);
        let made = generation::prepare((&from, keys), &place, &self.domain, root, now)?;
        let roots = files::certificates(&made.join(files::ROOT))?;
        let mut taken = self.foreign_keys();
        taken.extend(
            self.own_keys().into_iter().map(|key| (key, "the root that is there".to_owned())),
        );
        let new = root_keys(&self.domain, &roots).map_err(TrustError::State)?;
        if let Some(whose) = new.iter().find_map(|key| taken.get(key)) {
            let _ = fs::remove_dir_all(&made);
            return Err(TrustError::SameKey(whose.clone()));
        }
        generation::finish(&made, &place)?;
        self.change(now, |document| {
            document.rotation = Some(Rotation {
                step: StepName::Staged,
                other: number,
                version: document.version,
                since: seconds(now),
                is_paused: false,
                wanted: None,
            });
            Ok(())
        })
    }

    /// Goes on whatever is in the way, and says what that has broken.
    pub fn force(&mut self, nodes: &[Node], now: SystemTime) -> Result<Vec<Obstacle>, TrustError> {
        let broken = self.obstacles(nodes, now);
        if self.document.rotation.is_none() {
            return Err(TrustError::NotRotating);
        }
        if broken.iter().any(|of| matches!(of, Obstacle::NoIssuer | Obstacle::IssuerExpired)) {
            return Err(TrustError::NoIssuer);
        }
        self.advance(now)?;
        Ok(broken.into_iter().filter(|obstacle| *obstacle != Obstacle::Paused).collect())
    }

    /// Until [`Store::resume`] no step is taken by itself.
    pub fn pause(&mut self) -> Result<(), TrustError> {
        self.set_paused(true)
    }

    pub fn resume(&mut self) -> Result<(), TrustError> {
        self.set_paused(false)
    }

    fn set_paused(&mut self, is_paused: bool) -> Result<(), TrustError> {
        let mut document = self.document.clone();
        document.rotation.as_mut().ok_or(TrustError::NotRotating)?.is_paused = is_paused;
        self.commit(document)
    }

    /// Takes the rotation back: the root that was there issues again, and the other one is retired
    /// when nobody needs it. Done twice, it goes on forwards.
    pub fn back(&mut self, now: SystemTime) -> Result<(), TrustError> {
        let rotation = self.document.rotation.clone().ok_or(TrustError::NotRotating)?;
        match rotation.step {
            // The same one issues as before; only the other one is now to go.
            StepName::Staged => self.switch(self.document.generation, rotation.other, now),
            StepName::Switched => {
                let other = generation::path(&self.directory, rotation.other);
                match issuer::state(&other, now) {
                    IssuerState::Good => self.switch(rotation.other, self.document.generation, now),
                    IssuerState::Missing | IssuerState::Expired => Err(TrustError::NoIssuer),
                }
            }
        }
    }

    fn advance(&mut self, now: SystemTime) -> Result<(), TrustError> {
        let rotation = self.document.rotation.clone().ok_or(TrustError::NotRotating)?;
        match rotation.step {
            StepName::Staged => self.switch(rotation.other, self.document.generation, now),
            StepName::Switched => {
                self.change(now, |document| {
                    document.rotation = None;
                    document.forget_issuers(now);
                    Ok(())
                })?;
                generation::clean(&self.directory, &self.document)
            }
        }
    }

    /// From now on `to` issues, and `from` is to go.
    fn switch(&mut self, to: u64, from: u64, now: SystemTime) -> Result<(), TrustError> {
        let authority = match to == self.document.generation {
            true => self.authority.clone(),
            false => {
                let at = generation::path(&self.directory, to);
                Arc::new(Authority::load_at(&at, &self.domain, now)?)
            }
        };
        let mut document = self.document.clone();
        document.generation = to;
        if let Some(rotation) = &mut document.rotation {
            rotation.step = StepName::Switched;
            (rotation.other, rotation.since) = (from, seconds(now));
            rotation.wanted = None;
        }
        self.issues(&mut document, &authority, now);
        self.commit(document)?;
        self.authority = authority;
        Ok(())
    }

    /// A new issuer below the same root, made or installed.
    fn renew(&mut self, now: SystemTime) -> Result<(), TrustError> {
        let at = generation::path(&self.directory, self.document.generation);
        let installed = self.authority.was_replaced(&at);
        let installed = installed.then(|| Authority::load_at(&at, &self.domain, now)).transpose();
        // What issues may do so for days, so an error stops nothing; `report` says it.
        self.renewal_error = installed.as_ref().err().map(|error| text(error));
        let fresh = match installed {
            Ok(Some(authority)) => Ok(Some(authority)),
            Ok(None) | Err(_) => self.authority.renewed(now),
        };
        let fresh = fresh.unwrap_or_else(|error| {
            self.renewal_error = Some(text(&error));
            None
        });
        let Some(authority) = fresh else { return Ok(()) };
        let mut document = self.document.clone();
        document.forget_issuers(now);
        self.issues(&mut document, &authority, now);
        self.commit(document)?;
        self.authority = Arc::new(authority);
        Ok(())
    }

    /// Remembers who issues: that an issuer is of a root is known before it has issued anything.
    fn issues(&self, document: &mut Document, authority: &Authority, now: SystemTime) {
        let print = fingerprint(authority.issuer());
        let not_after =
            authority.lasts().map(|lasting| seconds(lasting.issuer)).unwrap_or_default();
        let certificate = pem(authority.issuer());
        let issuer = Issuer { generation: document.generation, certificate, not_after };
        document.issuers.insert(print.clone(), issuer);
        let rotation = document.rotation.as_mut();
        if let Some(rotation) = rotation.filter(|at| at.step == StepName::Switched)
            && rotation.wanted.as_ref() != Some(&print)
        {
            rotation.wanted = Some(print);
            document.raise(now);
        }
    }

    /// Nodes are remembered, so that they are waited for also if nobody mentions them.
    fn know(&mut self, nodes: &[Node]) -> Result<(), TrustError> {
        if nodes.iter().all(|node| self.document.nodes.contains(&node.name)) {
            return Ok(());
        }
        let mut document = self.document.clone();
        document.nodes.extend(nodes.iter().map(|node| node.name.clone()));
        self.commit(document)
    }

    /// Nodes that know a later version were told so before this state was put back from a copy; they
    /// would not take an older one. No version of ours was ever greater than the time.
    fn catch_up(&mut self, nodes: &[Node], now: SystemTime) -> Result<(), TrustError> {
        let known = nodes.iter().map(|node| node.trust_version);
        let latest = known.filter(|version| *version <= seconds(now)).max();
        match latest.is_some_and(|latest| latest > self.document.version) {
            true => self.change(now, |_| Ok(())),
            false => Ok(()),
        }
    }

    /// A node that is gone for good: nobody waits for it any more.
    pub fn forget(&mut self, node: &Label) -> Result<bool, TrustError> {
        let mut document = self.document.clone();
        let was_known = document.nodes.remove(node);
        if was_known {
            self.commit(document)?;
        }
        Ok(was_known)
    }

    /// A change that nodes are told.
    pub(super) fn change(
        &mut self,
        now: SystemTime,
        change: impl FnOnce(&mut Document) -> Result<(), TrustError>,
    ) -> Result<(), TrustError> {
        let mut document = self.document.clone();
        document.raise(now);
        change(&mut document)?;
        self.commit(document)
    }

    /// On the disk first, and only then in effect.
    pub(super) fn commit(&mut self, document: Document) -> Result<(), TrustError> {
        let path = self.directory.join(STATE);
        let trust = self.told(&document)?;
        if document != self.document || !path.exists() {
            files::replace(&path, 0o600, &document.to_json().map_err(TrustError::State)?)?;
        }
        (self.document, self.trust) = (document, Arc::new(trust));
        Ok(())
    }

    fn told(&self, document: &Document) -> Result<Trust, TrustError> {
        let mut own = Vec::new();
        for generation in document.generations() {
            let at = generation::path(&self.directory, generation);
            own.extend(files::certificates(&at.join(files::ROOT))?);
        }
        let mut roots = BTreeMap::from([(self.domain.clone(), own)]);
        for (domain, bundle) in &document.foreign {
            let bundle = bundle.read();
            let bundle = bundle.ok_or_else(|| TrustError::NotTrusted(domain.clone()))?;
            roots.insert(domain.clone(), bundle.roots);
        }
        let quarantines = document.quarantines.keys().cloned().collect();
        let issuer = document.rotation.as_ref().and_then(|rotation| rotation.wanted.clone());
        Ok(Trust { version: document.version, roots, quarantines, issuer })
    }

    pub(super) fn own_keys(&self) -> Vec<String> {
        let own = self.trust.roots.get(&self.domain).map(Vec::as_slice).unwrap_or_default();
        root_keys(&self.domain, own).unwrap_or_default()
    }

    pub(super) fn foreign_keys(&self) -> BTreeMap<String, String> {
        let foreign = self.trust.roots.iter().filter(|(domain, _)| **domain != self.domain);
        let keys = foreign.flat_map(|(domain, roots)| {
            let keys = root_keys(domain, roots).unwrap_or_default();
            keys.into_iter().map(|key| (key, domain.to_string()))
        });
        keys.collect()
    }
}

fn document(path: &Path) -> Result<Document, TrustError> {
    let text = files::read_owned(path, 0o022, "may be changed by others")?;
    let unreadable = |why| TrustError::State(format!("{}: {why}", path.display()));
    Document::from_json(&text).map_err(unreadable)
}

fn lock(directory: &Path) -> Result<File, TrustError> {
    let path = directory.join(LOCK);
    let opened =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(files::error(&path, "cannot be opened"))?;
    let taken = |_| TrustError::State(format!("{}: another process has it", path.display()));
    file.try_lock().map_err(taken)?;
    Ok(file)
}

fn text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", text(source)),
        None => error.to_string(),
    }
}
