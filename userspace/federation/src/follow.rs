//! Keeps the roots of another trust domain fresh: looks at its endpoint, and looks again.
//!
//! What was fetched last stays in force while looks fail; how old it is can be seen.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use martlet_identity::{BundleDocument, TrustBundle};
use martlet_model::TrustDomain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    endpoint::{Endpoint, EndpointError},
    fetch::fetch,
    judge::{judge, next_look},
};

/// What is known of another trust domain.
#[derive(Debug, Clone, Default)]
pub struct Followed {
    /// The last good one.
    pub document: Option<Arc<BundleDocument>>,
    /// When the endpoint confirmed it last; `None` if that was not since the start.
    pub confirmed: Option<SystemTime>,
    /// What went wrong since, if the last look failed.
    pub failure: Option<Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Of the last look, with its causes.
    pub reason: String,
    /// The first of the looks that failed one after the other.
    pub since: SystemTime,
    /// How many they are.
    pub looks: u32,
}

/// Follows one endpoint.
pub struct Follower {
    endpoint: Endpoint,
    /// Our own roots and those of all domains that we trust; proves endpoints of `https_spiffe`.
    trust: watch::Receiver<Arc<TrustBundle>>,
    followed: watch::Sender<Followed>,
}

impl Follower {
    /// `held` is what is in force already: from an earlier run, or brought by a person. `trust` is
    /// to have it too, as soon as it is in force.
    pub fn new(
        endpoint: Endpoint,
        own: &TrustDomain,
        held: Option<Arc<BundleDocument>>,
        trust: watch::Receiver<Arc<TrustBundle>>,
    ) -> Result<Self, EndpointError> {
        if endpoint.domain == *own {
            return Err(EndpointError::OwnDomain(own.clone()));
        }
        let followed = Followed { document: held, ..Followed::default() };
        Ok(Self { endpoint, trust, followed: watch::Sender::new(followed) })
    }

    pub fn followed(&self) -> watch::Receiver<Followed> {
        self.followed.subscribe()
    }

    pub async fn run(self, shutdown: CancellationToken) {
        while let Some(wait) = shutdown.run_until_cancelled(self.look()).await {
            if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Looks once, and says how long to wait until the next time.
    async fn look(&self) -> Duration {
        let trust = self.trust.borrow().clone();
        let held = self.followed.borrow().document.clone();
        let found = match fetch(&self.endpoint, trust.clone()).await {
            Ok(found) => judge(&self.endpoint.domain, held.as_deref(), &found, &trust)
                .map(|()| found)
                .map_err(|refusal| format!("the document is refused: {refusal}")),
            Err(error) => Err(with_causes(&error)),
        };
        let hint = match found {
            Ok(found) => self.confirm(found, held),
            Err(reason) => {
                self.fail(reason);
                held.and_then(|held| held.refresh_hint)
            }
        };
        next_look(hint, rand::random())
    }

    fn confirm(
        &self,
        found: BundleDocument,
        held: Option<Arc<BundleDocument>>,
    ) -> Option<Duration> {
        let Endpoint { domain, url, .. } = &self.endpoint;
        let hint = found.refresh_hint;
        let document = match held {
            Some(held) if *held == found => held,
            _ => {
                let (roots, sequence) = (found.roots.len(), found.sequence);
                info!(%domain, %url, roots, sequence, "roots of a federated domain fetched");
                Arc::new(found)
            }
        };
        let confirmed = Some(SystemTime::now());
        let before = self.followed.send_replace(Followed {
            document: Some(document),
            confirmed,
            failure: None,
        });
        if let Some(Failure { looks, .. }) = before.failure {
            info!(%domain, %url, looks, "bundle endpoint answers again");
        }
        hint
    }

    fn fail(&self, reason: String) {
        let Endpoint { domain, url, .. } = &self.endpoint;
        self.followed.send_modify(|followed| {
            let before = followed.failure.take();
            // Said on change only.
            if before.as_ref().is_none_or(|failure| failure.reason != reason) {
                warn!(%domain, %url, reason, "bundle endpoint not usable, last roots stay");
            }
            followed.failure = Some(match before {
                Some(Failure { since, looks, .. }) => {
                    Failure { reason, since, looks: looks.saturating_add(1) }
                }
                None => Failure { reason, since: SystemTime::now(), looks: 1 },
            });
        });
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
