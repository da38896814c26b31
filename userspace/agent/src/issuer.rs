//! Who issues for this node's workloads, and says whom to trust: an authority in this process, for a
//! node that has no controller, or the controller.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use arc_swap::ArcSwap;
use martlet_authority::{Authority, LEAF_LIFETIME, LeafRequest};
use martlet_control::{Ask, Client};
use martlet_identity::{Chain, Csr, SigningKey, Svid, TrustBundle, fingerprint};
use martlet_model::{Trust, TrustDomain, Workload};
use tracing::warn;

use crate::{limits::RENEWAL_SPREAD, renewal::Renewal};

pub struct Issuer {
    source: Source,
    trusted: ArcSwap<Trusted>,
}

enum Source {
    Here {
        directory: PathBuf,
        domain: TrustDomain,
        leaf_lifetime: Duration,
        authority: ArcSwap<Authority>,
    },
    Controller(Client),
}

/// Whom to trust now.
struct Trusted {
    bundle: Arc<TrustBundle>,
    told: Arc<Trust>,
}

impl Trusted {
    fn of(told: Arc<Trust>) -> Result<Self> {
        Ok(Self { bundle: Arc::new(TrustBundle::of(&told)?), told })
    }

    fn of_authority(authority: &Authority) -> Result<Self> {
        let roots = [(authority.trust_domain().clone(), authority.roots().to_vec())].into();
        Self::of(Arc::new(Trust { roots, ..Trust::default() }))
    }
}

impl Issuer {
    /// An authority whose files are in `directory`.
    pub fn open(
        directory: &Path,
        domain: &TrustDomain,
        leaf_lifetime: Option<Duration>,
    ) -> Result<Self> {
        let authority = read(directory, domain)?;
        let trusted = ArcSwap::from_pointee(Trusted::of_authority(&authority)?);
        let source = Source::Here {
            directory: directory.to_owned(),
            domain: domain.clone(),
            leaf_lifetime: leaf_lifetime.unwrap_or(LEAF_LIFETIME),
            authority: ArcSwap::from_pointee(authority),
        };
        Ok(Self { source, trusted })
    }

    /// The controller, which has not said yet whom to trust.
    pub fn controller(client: Client) -> Result<Self> {
        let trusted = ArcSwap::from_pointee(Trusted::of(Arc::default())?);
        Ok(Self { source: Source::Controller(client), trusted })
    }

    /// Reads the authority's files again, and says whether they are other ones; keeps what it has if
    /// they are not good.
    pub fn refresh(&self) -> Result<bool> {
        let Source::Here { directory, domain, authority, .. } = &self.source else {
            return Ok(false);
        };
        let new = read(directory, domain)?;
        let is_other = !authority.load().is_same(&new);
        if is_other {
            self.trusted.store(Arc::new(Trusted::of_authority(&new)?));
            authority.store(Arc::new(new));
        }
        Ok(is_other)
    }

    /// Takes over what the controller says, and says whether it is something else.
    pub fn take(&self, told: &Arc<Trust>) -> Result<bool> {
        if self.trusted.load().told == *told {
            return Ok(false);
        }
        self.trusted.store(Arc::new(Trusted::of(told.clone())?));
        Ok(true)
    }

    pub fn trust(&self) -> Arc<TrustBundle> {
        self.trusted.load().bundle.clone()
    }

    /// DER, by trust domain.
    pub fn bundles(&self) -> BTreeMap<TrustDomain, Vec<Vec<u8>>> {
        self.trusted.load().told.roots.clone()
    }

    /// DER.
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.trusted.load().told.roots.values().flatten().cloned().collect()
    }

    /// Whether a certificate comes from another issuer than the one whose leaves are wanted.
    pub fn is_superseded(&self, svid: &Svid) -> bool {
        let trusted = self.trusted.load();
        let Some(wanted) = &trusted.told.issuer else { return false };
        svid.chain().0.get(1).is_none_or(|issuer| fingerprint(issuer) != *wanted)
    }

    /// When a certificate is replaced: at half of its life, or soon if its issuer is given up, and not
    /// all at once, since other nodes do the same.
    pub fn renewal(&self, svid: &Svid, now: SystemTime) -> Renewal {
        match self.is_superseded(svid) {
            true => Renewal::at(now + RENEWAL_SPREAD.mul_f64(rand::random()), now),
            false => Renewal::at(svid.renews_at(rand::random()), now),
        }
    }

    pub fn client(&self) -> Option<&Client> {
        match &self.source {
            Source::Here { .. } => None,
            Source::Controller(client) => Some(client),
        }
    }

    /// A new key for each workload, and certificates for them: of the authority in this process.
    pub fn issue(&self, workloads: &[Arc<Workload>], now: SystemTime) -> Vec<Result<Svid>> {
        let Source::Here { leaf_lifetime, authority, .. } = &self.source else { return Vec::new() };
        let authority = renewed(authority, now);
        let issue = |workload: &Arc<Workload>| issue(&authority, workload, *leaf_lifetime, now);
        workloads.iter().map(issue).collect()
    }

    /// Certificates for keys that were made elsewhere, in the order in which they are asked for.
    pub async fn certify(
        &self,
        asks: Vec<(Arc<Workload>, Csr)>,
        now: SystemTime,
    ) -> Vec<Result<Chain>> {
        match &self.source {
            Source::Here { leaf_lifetime, authority, .. } => {
                let authority = renewed(authority, now);
                let certify = |(workload, csr): &(Arc<Workload>, Csr)| {
                    certify(&authority, workload, *leaf_lifetime, csr, now)
                };
                asks.iter().map(certify).collect()
            }
            Source::Controller(client) => {
                let ask = |(workload, csr): (Arc<Workload>, Csr)| Ask {
                    workload: workload.name.clone(),
                    csr,
                };
                let answers = client.issue(asks.into_iter().map(ask).collect()).await;
                answers.into_iter().map(|answer| Ok(answer?)).collect()
            }
        }
    }
}

/// With a new issuer below the same root if the old one is due, and the root's key is there.
fn renewed(authority: &ArcSwap<Authority>, now: SystemTime) -> Arc<Authority> {
    match authority.load().renewed(now) {
        Ok(None) => {}
        Ok(Some(new)) => authority.store(Arc::new(new)),
        // The old one may be valid still.
        Err(error) => warn!(error = format!("{error:#}"), "the issuer was not renewed"),
    }
    authority.load_full()
}

fn issue(
    authority: &Authority,
    workload: &Workload,
    lifetime: Duration,
    now: SystemTime,
) -> Result<Svid> {
    let key = SigningKey::generate()?;
    let chain = certify(authority, workload, lifetime, &key.csr()?, now)?;
    Ok(Svid::new(&key, chain, &workload.identity)?)
}

fn certify(
    authority: &Authority,
    workload: &Workload,
    lifetime: Duration,
    csr: &Csr,
    now: SystemTime,
) -> Result<Chain> {
    let request = LeafRequest {
        identity: workload.identity.clone(),
        workload: workload.name.clone(),
        node: workload.node.clone(),
        uid: None,
        lifetime,
    };
    Ok(authority.issue(csr, &request, now)?)
}

/// The same, of a controller.
pub async fn ask(client: &Client, workloads: &[Arc<Workload>]) -> Vec<Result<Svid>> {
    let mut keys = Vec::new();
    let mut asks = Vec::new();
    for workload in workloads {
        let made = SigningKey::generate().and_then(|key| Ok((key.csr()?, key)));
        match made {
            Ok((csr, key)) => {
                asks.push(Ask { workload: workload.name.clone(), csr });
                keys.push(Ok(key));
            }
            Err(error) => keys.push(Err(error)),
        }
    }
    let mut chains = client.issue(asks).await.into_iter();
    let svid = |(key, workload): (Result<SigningKey, _>, &Arc<Workload>)| {
        let key = key?;
        let chain = chains.next().context("the controller left out an answer")??;
        ensure!(!chain.0.is_empty(), "the controller sent no certificate");
        Ok(Svid::new(&key, chain, &workload.identity)?)
    };
    keys.into_iter().zip(workloads).map(svid).collect()
}

fn read(directory: &Path, domain: &TrustDomain) -> Result<Authority> {
    Authority::load(directory, domain).with_context(|| {
        format!(
            "reading the authority in {} (made by `martlet authority init`)",
            directory.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn only_other_files_are_news_and_bad_ones_change_nothing() {
        let directory = TempDir::new().unwrap();
        let (path, domain) = (directory.path().join("authority"), "a.org".parse().unwrap());
        Authority::init(&path, &domain).unwrap();
        let issuer = Issuer::open(&path, &domain, None).unwrap();
        let before = issuer.roots();
        assert!(!issuer.refresh().unwrap());
        fs::remove_dir_all(&path).unwrap();
        assert!(issuer.refresh().is_err());
        assert_eq!(issuer.roots(), before);
        Authority::init(&path, &domain).unwrap();
        assert!(issuer.refresh().unwrap());
        assert_ne!(issuer.roots(), before);
    }
}
