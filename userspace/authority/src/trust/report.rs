//! What `martlet trust status` shows.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use martlet_identity::{BundleDocument, describe};
use martlet_model::report::{
    CertificateReport, ForeignReport, IssuerReport, KeyPlace, QuarantineReport, RootReport,
    RootRole, RotationReport, RotationStep, TrustNode, TrustReport,
};

use super::{
    Node, Store, TrustError,
    document::{Issuer, StepName, seconds},
    foreign::keys,
    generation,
};
use crate::{files, settings::Settings};

/// A bundle that says nothing about it is stale when it is older than this (SPIFFE federation,
/// section 5.1.3 leaves it to whoever asks).
const STALE: Duration = Duration::from_secs(86_400);

impl Store {
    /// A page of facts; `nodes` as in [`Store::tick`].
    pub fn report(&self, nodes: &[Node], now: SystemTime) -> Result<TrustReport, TrustError> {
        let mut roots = Vec::new();
        for generation in self.document.generations() {
            roots.extend(self.roots(generation, nodes)?);
        }
        let waiting = self.obstacles(nodes, now);
        let rotation = self.document.rotation.as_ref().map(|rotation| RotationReport {
            step: match rotation.step {
                StepName::Staged => RotationStep::Staged,
                StepName::Switched => RotationStep::Switched,
            },
            since: rotation.since,
            is_paused: rotation.is_paused,
            version: rotation.version,
            waits_for: waiting.iter().map(ToString::to_string).collect(),
        });
        let mut issuers = Vec::new();
        for (print, issuer) in &self.document.issuers {
            let used = used(nodes, |node| node.leaves.get(print));
            issuers.extend(self.issuer(print, issuer, used));
        }
        let unknown = |node: &Node| -> u64 {
            let leaves = node.leaves.iter();
            leaves.filter(|(of, _)| !self.document.issuers.contains_key(*of)).map(|(_, n)| n).sum()
        };
        Ok(TrustReport {
            trust_domain: self.domain.clone(),
            version: self.document.version,
            rotation,
            roots,
            issuers,
            leaves_of_unknown_issuers: nodes.iter().map(unknown).sum(),
            renewal_error: self.renewal_error.clone(),
            nodes: self.nodes(nodes),
            foreign: self.foreign_reports(nodes, now),
            // Who follows them knows them.
            endpoints: Vec::new(),
            quarantines: self.quarantine_reports(),
        })
    }

    fn roots(&self, generation: u64, nodes: &[Node]) -> Result<Vec<RootReport>, TrustError> {
        let at = generation::path(&self.directory, generation);
        let ders = files::certificates(&at.join(files::ROOT))?;
        let keys = keys(&self.domain, &ders).map_err(TrustError::State)?;
        let settings = Settings::read(&at)?;
        let key = match (at.join(files::ROOT_KEY).exists(), &settings.root) {
            (true, _) => KeyPlace::Here,
            (false, Some(_)) => KeyPlace::Command,
            (false, None) => KeyPlace::Elsewhere,
        };
        let step = self.document.rotation.as_ref().map(|rotation| rotation.step);
        let role = match (generation == self.document.generation, step) {
            (true, _) => RootRole::Issuing,
            (false, Some(StepName::Switched)) => RootRole::Leaving,
            (false, _) => RootRole::Coming,
        };
        let issuers = self.document.issuers.iter();
        let issuers = issuers.filter(|(_, issuer)| issuer.generation == generation);
        let leaves = issuers.map(|(print, _)| used(nodes, |node| node.leaves.get(print))).sum();
        let report = |(der, digest): (&Vec<u8>, &String)| {
            let connections = used(nodes, |node| node.connections.get(digest));
            described(der).map(|certificate| RootReport {
                certificate,
                role,
                key,
                leaves,
                connections,
            })
        };
        ders.iter().zip(&keys).map(report).collect()
    }

    fn issuer(&self, print: &str, issuer: &Issuer, leaves: u64) -> Option<IssuerReport> {
        let ders = files::parse_certificates(issuer.certificate.as_bytes())?;
        let certificate = described(ders.first()?).ok()?;
        let is_current = martlet_identity::fingerprint(self.authority.issuer()) == print;
        let lasting = is_current.then(|| self.authority.lasts().ok()).flatten();
        let renews_at = lasting.and_then(|lasting| lasting.renews).map(seconds);
        Some(IssuerReport { certificate, is_current, renews_at, leaves })
    }

    fn nodes(&self, nodes: &[Node]) -> Vec<TrustNode> {
        let said: BTreeMap<_, _> = nodes.iter().map(|node| (&node.name, node)).collect();
        let names = self.document.nodes.iter().chain(said.keys().copied());
        let names: std::collections::BTreeSet<_> = names.collect();
        let node = |name: &martlet_model::Label| {
            let node = said.get(name);
            TrustNode {
                name: name.clone(),
                last_seen: node.map(|node| seconds(node.last_seen)),
                trust_version: node.map(|node| node.trust_version),
                is_current: node.is_some_and(|node| node.trust_version >= self.document.version),
                leaves: node.map_or(0, |node| node.leaves.values().sum()),
                connections: node.map_or(0, |node| node.connections.values().sum()),
                oldest_expiry: node.and_then(|node| node.oldest_expiry).map(seconds),
                quarters: node.map_or([0; 4], |node| node.quarters),
                next_renewal: node.and_then(|node| node.next_renewal).map(seconds),
            }
        };
        names.into_iter().map(node).collect()
    }

    fn foreign_reports(&self, nodes: &[Node], now: SystemTime) -> Vec<ForeignReport> {
        let report = |(domain, foreign): (martlet_model::TrustDomain, super::Foreign)| {
            let keys = keys(&domain, &foreign.roots).unwrap_or_default();
            let of = |digest: &String| used(nodes, |node| node.connections.get(digest));
            let age = now.duration_since(foreign.fetched).unwrap_or_default();
            let roots = foreign.roots.iter().filter_map(|der| described(der).ok());
            ForeignReport {
                roots: roots.collect(),
                sequence: foreign.sequence,
                refresh_hint: foreign.refresh_hint.map(|hint| hint.as_secs()),
                fetched: seconds(foreign.fetched),
                is_stale: age > stale_after(foreign.refresh_hint),
                source: foreign.source,
                connections: keys.iter().map(of).sum(),
                trust_domain: domain,
            }
        };
        self.foreign().into_iter().map(report).collect()
    }

    fn quarantine_reports(&self) -> Vec<QuarantineReport> {
        let report = |(whom, note): (&martlet_model::Quarantine, &super::document::Note)| {
            QuarantineReport { whom: whom.clone(), since: note.since, reason: note.reason.clone() }
        };
        self.document.quarantines.iter().map(report).collect()
    }
}

/// One look that fails is no news, three are.
fn stale_after(hint: Option<Duration>) -> Duration {
    hint.map_or(STALE, |hint| 3 * BundleDocument::interval(Some(hint)))
}

fn used<'a>(nodes: &'a [Node], count: impl Fn(&'a Node) -> Option<&'a u64>) -> u64 {
    nodes.iter().filter_map(count).sum()
}

fn described(der: &[u8]) -> Result<CertificateReport, TrustError> {
    describe(der).map_err(|error| TrustError::State(error.to_string()))
}
