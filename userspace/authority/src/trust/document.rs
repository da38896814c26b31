//! `trust.json`: all that is to be remembered, in one file. No secret is in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use martlet_model::{Label, Quarantine, TrustDomain};
use serde::{Deserialize, Serialize};

use super::{Foreign, Step};
use crate::{files::parse_certificates, make::pem};

/// Raised when an older program could not read the file any more.
const FORMAT: u32 = 1;

/// How long an issuer is remembered after its end: no leaf outlives it.
const REMEMBERED: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Document {
    format: u32,
    /// Of the trust that nodes are told.
    pub version: u64,
    /// Which generation of the authority issues.
    pub generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// By the SHA-256 of their certificates.
    pub issuers: BTreeMap<String, Issuer>,
    pub nodes: BTreeSet<Label>,
    pub foreign: BTreeMap<TrustDomain, Bundle>,
    /// Removed by hand: what endpoints say about them is not taken.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub removed: BTreeSet<TrustDomain>,
    pub quarantines: BTreeMap<Quarantine, Note>,
}

/// Two generations at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rotation {
    pub step: StepName,
    /// Staged: the one that comes. Switched: the one that goes.
    pub other: u64,
    /// Since which version nodes are told of both.
    pub version: u64,
    /// Seconds since the Unix epoch.
    pub since: u64,
    pub is_paused: bool,
    /// Whose leaves are wanted, once switched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepName {
    Staged,
    Switched,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Issuer {
    pub generation: u64,
    /// PEM: reports show it.
    pub certificate: String,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
}

/// A [`Foreign`] as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Bundle {
    /// PEM.
    roots: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_hint_seconds: Option<u64>,
    /// Seconds since the Unix epoch.
    fetched: u64,
    source: String,
}

/// Why somebody is cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Note {
    /// Seconds since the Unix epoch.
    pub since: u64,
    pub reason: String,
}

impl Document {
    pub fn new(now: SystemTime) -> Self {
        Self {
            format: FORMAT,
            version: seconds(now).max(1),
            generation: 1,
            rotation: None,
            issuers: BTreeMap::new(),
            nodes: BTreeSet::new(),
            foreign: BTreeMap::new(),
            removed: BTreeSet::new(),
            quarantines: BTreeMap::new(),
        }
    }

    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let document: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if document.format != FORMAT {
            return Err(format!(
                "it has format {}, and this program knows {FORMAT}",
                document.format
            ));
        }
        for (domain, bundle) in &document.foreign {
            bundle.read().ok_or_else(|| format!("the roots of {domain} cannot be read"))?;
        }
        Ok(document)
    }

    pub fn to_json(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec_pretty(self).map_err(|error| error.to_string())
    }

    /// The next version: later than any before, also if the file was put back from a copy that is
    /// older than what nodes have seen.
    pub fn raise(&mut self, now: SystemTime) {
        self.version = (self.version + 1).max(seconds(now));
    }

    /// All generations that there are.
    pub fn generations(&self) -> impl Iterator<Item = u64> {
        [self.generation].into_iter().chain(self.rotation.as_ref().map(|rotation| rotation.other))
    }

    pub fn forget_issuers(&mut self, now: SystemTime) {
        let now = seconds(now);
        let generations: Vec<_> = self.generations().collect();
        self.issuers.retain(|_, issuer| {
            generations.contains(&issuer.generation)
                && issuer.not_after.saturating_add(REMEMBERED.as_secs()) > now
        });
    }
}

impl Bundle {
    pub fn of(foreign: &Foreign) -> Self {
        Self {
            roots: foreign.roots.iter().map(|der| pem(der)).collect(),
            sequence: foreign.sequence,
            refresh_hint_seconds: foreign.refresh_hint.map(|hint| hint.as_secs()),
            fetched: seconds(foreign.fetched),
            source: foreign.source.clone(),
        }
    }

    pub fn read(&self) -> Option<Foreign> {
        Some(Foreign {
            roots: parse_certificates(self.roots.as_bytes())?,
            sequence: self.sequence,
            refresh_hint: self.refresh_hint_seconds.map(Duration::from_secs),
            fetched: instant(self.fetched),
            source: self.source.clone(),
        })
    }
}

impl From<StepName> for Step {
    fn from(name: StepName) -> Self {
        match name {
            StepName::Staged => Self::Staged,
            StepName::Switched => Self::Switched,
        }
    }
}

pub fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub fn instant(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}
