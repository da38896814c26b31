//! Who the nodes are, and who may become one: `nodes.json` in the state directory.
//!
//! ```text
//!   token made ── the node's key is shown ──▶ spent by this key, until it expires
//!                                               │
//!                                               ▼
//!                            node with this key ── removed ──▶ nobody
//! ```
//!
//! Of a token only the hash of its secret is kept. Every change is on the disk before it has any
//! effect.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use martlet_control::Secret;
use martlet_identity::KeyDigest;
use martlet_model::Label;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits;

#[derive(Debug)]
pub struct Members {
    path: PathBuf,
    kept: Kept,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    nodes: BTreeMap<Label, Member>,
    /// By the SHA-256 of the secret, in hex.
    tokens: BTreeMap<String, Token>,
    /// Nodes that were removed, and that no host's certificate brings back.
    #[serde(default)]
    removed: BTreeSet<Label>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The SHA-256 of its public key, in hex.
    pub key: String,
    /// Seconds since the Unix epoch.
    pub joined: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    node: Label,
    /// Seconds since the Unix epoch.
    expires: u64,
    spent_by: Option<String>,
}

#[derive(Debug, Error)]
pub enum MembersError {
    #[error("{path}: {what}")]
    File {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} cannot be read; restore it from a backup, or move it away and join all nodes anew"
    )]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("there are {0} already, and no more are kept")]
    TooMany(&'static str),
    #[error("a token is good for a minute at least and {days} days at most", days = limits::LONGEST_TOKEN_LIFETIME.as_secs() / 86_400)]
    Lifetime,
    #[error("there is no node {0}")]
    NoNode(Label),
    #[error("node {0} was removed; `martlet node join {0}` on the controller lets it join again")]
    Removed(Label),
}

/// Why nobody joins with this token. The text is told to whoever tried.
#[derive(Debug, Error)]
pub enum NotGood {
    // A wrong secret, a wrong name and a token that was used are told apart in the log only.
    #[error("the join token is not good for this node: it was used, has expired, or is another's")]
    Token(&'static str),
    #[error("the controller cannot keep it now")]
    Kept(#[from] MembersError),
}

impl Members {
    pub fn open(directory: &Path) -> Result<Self, MembersError> {
        let path = directory.join("nodes.json");
        let failed = |what| {
            let path = path.clone();
            move |source| MembersError::File { path, what, source }
        };
        let mut text = String::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, kept: Kept::default() });
            }
            opened => {
                let opened = opened.map_err(failed("cannot be read"))?;
                let mut opened = opened.take(limits::REGISTRY_BYTES);
                opened.read_to_string(&mut text).map_err(failed("cannot be read"))?;
            }
        }
        match serde_json::from_str(&text) {
            Ok(kept) => Ok(Self { path, kept }),
            Err(source) => Err(MembersError::Damaged { path, source }),
        }
    }

    pub fn nodes(&self) -> &BTreeMap<Label, Member> {
        &self.kept.nodes
    }

    /// A token of which only the caller knows the secret.
    pub fn invite(
        &mut self,
        node: &Label,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Secret, MembersError> {
        if !(Duration::from_secs(60)..=limits::LONGEST_TOKEN_LIFETIME).contains(&lifetime) {
            return Err(MembersError::Lifetime);
        }
        let mut kept = self.kept.clone();
        kept.tokens.retain(|_, token| token.expires > seconds(now));
        if kept.tokens.len() >= limits::TOKENS {
            return Err(MembersError::TooMany("join tokens"));
        }
        kept.removed.remove(node);
        let secret = Secret::new();
        let expires = seconds(now + lifetime);
        kept.tokens.insert(secret.digest(), Token { node: node.clone(), expires, spent_by: None });
        self.keep(kept)?;
        Ok(secret)
    }

    /// Makes whoever holds this key the node. With the same key it can be done again while the token
    /// is good: the answer may have been lost.
    pub fn join(
        &mut self,
        secret: &Secret,
        node: &Label,
        key: &KeyDigest,
        now: SystemTime,
    ) -> Result<(), NotGood> {
        let mut kept = self.kept.clone();
        let Some(token) = kept.tokens.get_mut(&secret.digest()) else {
            return Err(NotGood::Token("there is none with this secret"));
        };
        if token.node != *node {
            return Err(NotGood::Token("it is for another node"));
        }
        if token.expires <= seconds(now) {
            return Err(NotGood::Token("it has expired"));
        }
        if token.spent_by.as_ref().is_some_and(|by| by != key.as_str()) {
            return Err(NotGood::Token("it was used"));
        }
        if !kept.nodes.contains_key(node) && kept.nodes.len() >= limits::NODES {
            return Err(MembersError::TooMany("nodes").into());
        }
        token.spent_by = Some(key.to_string());
        let member = Member { key: key.to_string(), joined: seconds(now) };
        kept.nodes.insert(node.clone(), member);
        self.keep(kept)?;
        Ok(())
    }

    /// Makes whoever holds this key the node, since its host is known.
    pub fn enlist(
        &mut self,
        node: &Label,
        key: &KeyDigest,
        now: SystemTime,
    ) -> Result<(), MembersError> {
        if self.kept.removed.contains(node) {
            return Err(MembersError::Removed(node.clone()));
        }
        if self.has(node, key) {
            return Ok(());
        }
        let mut kept = self.kept.clone();
        if !kept.nodes.contains_key(node) && kept.nodes.len() >= limits::NODES {
            return Err(MembersError::TooMany("nodes"));
        }
        let member = Member { key: key.to_string(), joined: seconds(now) };
        kept.nodes.insert(node.clone(), member);
        self.keep(kept)
    }

    /// Whether this is the node's key.
    pub fn has(&self, node: &Label, key: &KeyDigest) -> bool {
        self.kept.nodes.get(node).is_some_and(|member| member.key == key.as_str())
    }

    /// Its key is worth nothing any more, nor are tokens for its name, nor its host's certificate.
    pub fn remove(&mut self, node: &Label) -> Result<(), MembersError> {
        let mut kept = self.kept.clone();
        let was_node = kept.nodes.remove(node).is_some();
        let before = kept.tokens.len();
        kept.tokens.retain(|_, token| token.node != *node);
        if !was_node && kept.tokens.len() == before {
            return Err(MembersError::NoNode(node.clone()));
        }
        if was_node {
            if kept.removed.len() >= limits::NODES {
                return Err(MembersError::TooMany("removed nodes"));
            }
            kept.removed.insert(node.clone());
        }
        self.keep(kept)
    }

    fn keep(&mut self, kept: Kept) -> Result<(), MembersError> {
        if kept == self.kept {
            return Ok(());
        }
        let failed = |source| {
            let path = self.path.clone();
            MembersError::File { path, what: "cannot be written", source }
        };
        let text = serde_json::to_vec(&kept).map_err(|error| failed(error.into()))?;
        replace(&self.path, &text).map_err(failed)?;
        self.kept = kept;
        Ok(())
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    // What a crash has left.
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

pub fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
