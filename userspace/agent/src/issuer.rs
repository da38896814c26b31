//! The authority in this process: standalone mode has no other.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use martlet_authority::{Authority, LEAF_LIFETIME, LeafRequest};
use martlet_identity::{SigningKey, Svid, TrustBundle};
use martlet_model::{TrustDomain, Workload};
use tracing::warn;

/// Issues for workloads of this node, and says whom to trust.
pub struct Issuer {
    directory: PathBuf,
    domain: TrustDomain,
    leaf_lifetime: Duration,
    current: ArcSwap<Current>,
}

struct Current {
    authority: Authority,
    trust: Arc<TrustBundle>,
}

impl Issuer {
    pub fn open(
        directory: &Path,
        domain: &TrustDomain,
        leaf_lifetime: Option<Duration>,
    ) -> Result<Self> {
        let current = ArcSwap::from_pointee(read(directory, domain)?);
        let leaf_lifetime = leaf_lifetime.unwrap_or(LEAF_LIFETIME);
        Ok(Self { directory: directory.to_owned(), domain: domain.clone(), leaf_lifetime, current })
    }

    /// Reads the files again, and says whether they are other ones; keeps what it has if they are
    /// not good.
    pub fn refresh(&self) -> Result<bool> {
        let new = read(&self.directory, &self.domain)?;
        let is_other = !self.current.load().authority.is_same(&new.authority);
        if is_other {
            self.current.store(Arc::new(new));
        }
        Ok(is_other)
    }

    /// With a new issuer below the same root if the old one is due, and the root's key is there.
    fn renewed(&self, now: SystemTime) -> Arc<Current> {
        let current = self.current.load_full();
        match current.authority.renewed(now) {
            Ok(None) => return current,
            Ok(Some(authority)) => {
                let trust = current.trust.clone();
                self.current.store(Arc::new(Current { authority, trust }));
            }
            // The old one may be valid still.
            Err(error) => warn!(error = format!("{error:#}"), "the issuer was not renewed"),
        }
        self.current.load_full()
    }

    pub fn trust(&self) -> Arc<TrustBundle> {
        self.current.load().trust.clone()
    }

    /// DER.
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.current.load().authority.roots().to_vec()
    }

    /// A new key, and a certificate for it.
    pub fn issue(&self, workload: &Workload, now: SystemTime) -> Result<Svid> {
        let key = SigningKey::generate()?;
        let request = LeafRequest {
            identity: workload.identity.clone(),
            workload: workload.name.clone(),
            node: workload.node.clone(),
            uid: None,
            lifetime: self.leaf_lifetime,
        };
        let chain = self.renewed(now).authority.issue(&key.csr()?, &request, now)?;
        Ok(Svid::new(&key, chain, &workload.identity)?)
    }
}

fn read(directory: &Path, domain: &TrustDomain) -> Result<Current> {
    let authority = Authority::load(directory, domain).with_context(|| {
        format!(
            "reading the authority in {} (made by `martlet authority init`)",
            directory.display()
        )
    })?;
    let trust = TrustBundle::new([(domain.clone(), authority.roots().to_vec())])?;
    Ok(Current { authority, trust: Arc::new(trust) })
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
