//! What a client keeps on its disk: `node.pb`, the node's key and certificate, and `directory.pb`,
//! what was declared last, without a secret.
//!
//! Both are replaced as a whole: after a crash there is the old one or the new one. A checksum tells
//! a damaged one.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use martlet_identity::{Chain, NodeKey};
use martlet_model::Trust;
use prost::Message;
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    limits,
    message::{Malformed, chain_from, chain_to, trust_from, trust_to},
    proto,
};

const MAGIC: &[u8; 8] = b"martlet1";
const NODE: &str = "node.pb";
const DIRECTORY: &str = "directory.pb";
/// What there may be in a state directory, by its names.
pub const KEPT_FILES: [&str; 2] = [NODE, DIRECTORY];

/// Why what is kept cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    #[error("{path}: {what}")]
    File {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{0} may be read by others than its owner; make it 0600")]
    Open(PathBuf),
    #[error("{0} is damaged; remove it, and what it held is told again")]
    Damaged(PathBuf),
    #[error("{0} is another node's, or of another trust domain; move it away, and join anew")]
    Foreign(PathBuf),
    #[error("{path} cannot be read: {why}; move it away, and join anew")]
    Unreadable { path: PathBuf, why: String },
}

/// What makes a node one.
pub struct Membership {
    pub key: NodeKey,
    /// `None`: it has asked, and had no answer yet.
    pub chain: Option<Chain>,
    pub trust: Trust,
}

#[derive(Debug, Clone)]
pub struct State {
    directory: PathBuf,
    trust_domain: String,
    node: String,
}

impl State {
    /// Makes the directory, for its owner only, if there is none.
    pub fn open(directory: &Path, trust_domain: &str, node: &str) -> Result<Self, StateError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| failed(directory, "cannot be made", source))?;
        let (trust_domain, node) = (trust_domain.to_owned(), node.to_owned());
        Ok(Self { directory: directory.to_owned(), trust_domain, node })
    }

    pub fn membership(&self) -> Result<Option<Membership>, StateError> {
        let path = self.directory.join(NODE);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
                return Err(StateError::Open(path));
            }
            _ => {}
        }
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let Ok(mut kept) = proto::Membership::decode(bytes.as_slice()) else {
            return Err(StateError::Damaged(path));
        };
        let key = NodeKey::from_der(&kept.key);
        kept.key.zeroize();
        if kept.trust_domain != self.trust_domain || kept.node != self.node {
            return Err(StateError::Foreign(path));
        }
        let key = key.map_err(|error| unreadable(&path, &error.to_string()))?;
        let malformed = |error: Malformed| unreadable(&path, &error.to_string());
        let chain =
            kept.chain.map(|chain| chain_from(Some(chain))).transpose().map_err(malformed)?;
        let trust = trust_from(kept.trust.unwrap_or_default()).map_err(malformed)?;
        Ok(Some(Membership { key, chain, trust }))
    }

    pub fn keep_membership(&self, membership: &Membership) -> Result<(), StateError> {
        let path = self.directory.join(NODE);
        let key = membership.key.to_der().map_err(|error| unreadable(&path, &error.to_string()))?;
        let mut kept = proto::Membership {
            trust_domain: self.trust_domain.clone(),
            node: self.node.clone(),
            key: key.to_vec(),
            chain: membership.chain.clone().map(chain_to),
            trust: Some(trust_to(&membership.trust)),
        };
        let bytes = Zeroizing::new(kept.encode_to_vec());
        kept.key.zeroize();
        replace(&path, &bytes)
    }

    /// The messages of which a controller's word consisted.
    pub fn snapshot(&self) -> Result<Option<Vec<proto::ToAgent>>, StateError> {
        let path = self.directory.join(DIRECTORY);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let Ok(kept) = proto::Snapshot::decode(bytes.as_slice()) else {
            return Err(StateError::Damaged(path));
        };
        match kept.trust_domain == self.trust_domain && kept.node == self.node {
            true => Ok(Some(kept.declared)),
            false => Err(StateError::Foreign(path)),
        }
    }

    /// When a snapshot was kept last; `None` while there is none.
    pub fn snapshot_time(&self) -> Option<SystemTime> {
        fs::metadata(self.directory.join(DIRECTORY)).ok()?.modified().ok()
    }

    pub fn keep_snapshot(&self, declared: Vec<proto::ToAgent>) -> Result<(), StateError> {
        let (trust_domain, node) = (self.trust_domain.clone(), self.node.clone());
        let kept = proto::Snapshot { trust_domain, node, declared };
        replace(&self.directory.join(DIRECTORY), &kept.encode_to_vec())
    }
}

fn failed(path: &Path, what: &'static str, source: io::Error) -> StateError {
    StateError::File { path: path.to_owned(), what, source }
}

fn unreadable(path: &Path, why: &str) -> StateError {
    StateError::Unreadable { path: path.to_owned(), why: why.to_owned() }
}

/// Overwritten after use: it may be a key.
fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let cannot = |source| failed(path, "cannot be read", source);
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(cannot)?,
    };
    let length = file.metadata().map_err(cannot)?.len();
    let damaged = || StateError::Damaged(path.to_owned());
    if length > limits::SNAPSHOT_BYTES {
        return Err(damaged());
    }
    // At once as large as it has to be, so that growing leaves no copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(length).read_to_end(&mut bytes).map_err(cannot)?;
    let Some((head, payload)) = bytes.split_at_checked(12) else { return Err(damaged()) };
    let sum = crc32fast::hash(payload).to_le_bytes();
    match &head[..8] == MAGIC && head[8..] == sum {
        true => Ok(Some(Zeroizing::new(payload.to_vec()))),
        false => Err(damaged()),
    }
}

fn replace(path: &Path, payload: &[u8]) -> Result<(), StateError> {
    let cannot = |source| failed(path, "cannot be written", source);
    let draft = path.with_extension("new");
    // What a crash has left.
    let _ = fs::remove_file(&draft);
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(MAGIC)?;
        file.write_all(&crc32fast::hash(payload).to_le_bytes())?;
        file.write_all(payload)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        File::open(directory)?.sync_all()
    };
    written().map_err(cannot)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn state(directory: &TempDir) -> State {
        State::open(directory.path(), "a.org", "one").unwrap()
    }

    fn membership() -> Membership {
        let trust = Trust { version: 3, ..Trust::default() };
        let (key, chain) = (NodeKey::generate().unwrap(), Some(Chain(vec![vec![1], vec![2]])));
        Membership { key, chain, trust }
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let directory = TempDir::new().unwrap();
        let state = state(&directory);
        assert!(state.membership().unwrap().is_none() && state.snapshot().unwrap().is_none());
        let kept = membership();
        state.keep_membership(&kept).unwrap();
        let found = state.membership().unwrap().unwrap();
        assert_eq!(found.key.to_der().unwrap(), kept.key.to_der().unwrap());
        assert_eq!((found.chain, found.trust), (kept.chain, kept.trust));
        let said = vec![proto::ToAgent { version: 7, full: true, ..Default::default() }];
        state.keep_snapshot(said.clone()).unwrap();
        assert_eq!(state.snapshot().unwrap(), Some(said));
    }

    #[test]
    fn what_is_kept_is_for_its_owner_only() {
        let directory = TempDir::new().unwrap();
        let state = state(&directory);
        state.keep_membership(&membership()).unwrap();
        state.keep_snapshot(Vec::new()).unwrap();
        for name in [NODE, DIRECTORY] {
            let mode = fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let path = directory.path().join(NODE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(state.membership(), Err(StateError::Open(_))));
    }

    #[test]
    fn what_is_damaged_or_anothers_is_not_used() {
        let directory = TempDir::new().unwrap();
        let state = state(&directory);
        state.keep_membership(&membership()).unwrap();
        let path = directory.path().join(NODE);
        let good = fs::read(&path).unwrap();
        for at in [0, 9, 13, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(matches!(state.membership(), Err(StateError::Damaged(_))), "byte {at}");
        }
        for length in [0, 5, 12, good.len() - 1] {
            fs::write(&path, &good[..length]).unwrap();
            assert!(state.membership().is_err(), "{length} bytes");
        }
        fs::write(&path, &good).unwrap();
        let other = State::open(directory.path(), "a.org", "two").unwrap();
        assert!(matches!(other.membership(), Err(StateError::Foreign(_))));
        assert!(state.membership().unwrap().is_some());
    }
}
