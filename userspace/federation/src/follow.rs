//! Looks at the endpoint of another trust domain, and looks again.
//!
//! Whether a document is taken, and what stays in force while looks fail, is for whoever keeps the
//! trust: here is known how the looks went.

use std::sync::Arc;
use std::{
    error::Error,
    future::Future,
    time::{Duration, SystemTime},
};

use martlet_identity::{BundleDocument, RootKey, TrustBundle};
use martlet_model::TrustDomain;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    endpoint::{Endpoint, EndpointError, Profile},
    fetch::fetch,
    limits::{ASKS, REFRESH_JITTER},
};

/// How the looks at an endpoint went, since the start.
#[derive(Debug, Clone, Default)]
pub struct Followed {
    /// When a document was taken last, be it the same as before.
    pub confirmed: Option<SystemTime>,
    /// What went wrong since, if the last look failed.
    pub failure: Option<Failure>,
    pub looks: u64,
    /// How many of these failed.
    pub failed: u64,
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

type Outcome = Result<(), String>;

/// Follows one endpoint.
pub struct Follower {
    endpoint: Endpoint,
    /// Our own roots and those of all domains that we trust; proves endpoints of `https_spiffe`.
    trust: watch::Receiver<Arc<TrustBundle>>,
    followed: watch::Sender<Followed>,
    asks: mpsc::Receiver<oneshot::Sender<Outcome>>,
    /// Of the document that is in force.
    hint: Option<Duration>,
}

/// What others have of a follower.
#[derive(Debug, Clone)]
pub struct Following {
    followed: watch::Receiver<Followed>,
    asks: mpsc::Sender<oneshot::Sender<Outcome>>,
}

impl Follower {
    /// `hint` is that of the document in force. `trust` is to have what was taken, as soon as it is
    /// in force.
    pub fn new(
        endpoint: Endpoint,
        own: &TrustDomain,
        hint: Option<Duration>,
        trust: watch::Receiver<Arc<TrustBundle>>,
    ) -> Result<(Self, Following), EndpointError> {
        if endpoint.domain == *own {
            return Err(EndpointError::OwnDomain(own.clone()));
        }
        let (followed, (ask, asks)) = (watch::Sender::default(), mpsc::channel(ASKS));
        let following = Following { followed: followed.subscribe(), asks: ask };
        Ok((Self { endpoint, trust, followed, asks, hint }, following))
    }

    /// `take` puts a document in force, or says why not.
    pub async fn run<F: Future<Output = Outcome> + Send>(
        mut self,
        take: impl Fn(BundleDocument) -> F + Send,
        shutdown: CancellationToken,
    ) {
        let mut waiting: Vec<oneshot::Sender<Outcome>> = Vec::new();
        loop {
            let trust = self.trust.borrow_and_update().clone();
            let Some(outcome) = shutdown.run_until_cancelled(self.look(&trust, &take)).await else {
                return;
            };
            for asked in waiting.drain(..) {
                // Whoever asked may have left.
                let _ = asked.send(outcome.clone());
            }
            let proof = self.proof(&trust).filter(|_| outcome.is_err());
            let pause = tokio::time::sleep(next_look(self.hint, rand::random()));
            tokio::select! {
                () = pause => {}
                Some(asked) = self.asks.recv() => waiting.push(asked),
                () = other_proof(&self.endpoint, &mut self.trust, proof) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn look<F: Future<Output = Outcome> + Send>(
        &mut self,
        trust: &Arc<TrustBundle>,
        take: &(impl Fn(BundleDocument) -> F + Send),
    ) -> Outcome {
        let outcome = self.fetched(trust, take).await;
        match &outcome {
            Ok(()) => self.confirm(),
            Err(reason) => self.fail(reason),
        }
        outcome
    }

    async fn fetched<F: Future<Output = Outcome> + Send>(
        &mut self,
        trust: &Arc<TrustBundle>,
        take: &(impl Fn(BundleDocument) -> F + Send),
    ) -> Outcome {
        if let Profile::Spiffe(identity) = &self.endpoint.profile
            && self.proof(trust).is_none_or(|roots| roots.is_empty())
        {
            let by = identity.trust_domain();
            return Err(format!(
                "no bundle of {by} is here that could prove the endpoint: martlet trust import {by} FILE"
            ));
        }
        let document =
            fetch(&self.endpoint, trust.clone()).await.map_err(|error| with_causes(&error))?;
        let hint = document.refresh_hint;
        take(document).await?;
        self.hint = hint;
        Ok(())
    }

    /// The roots that prove the endpoint, if it is roots of a trust domain that do.
    fn proof(&self, trust: &TrustBundle) -> Option<Vec<RootKey>> {
        proof(&self.endpoint, trust)
    }

    fn confirm(&self) {
        let Endpoint { domain, url, .. } = &self.endpoint;
        self.followed.send_modify(|followed| {
            followed.confirmed = Some(SystemTime::now());
            followed.looks += 1;
            if let Some(Failure { looks, .. }) = followed.failure.take() {
                info!(%domain, %url, looks, "bundle endpoint answers again");
            }
        });
    }

    fn fail(&self, reason: &str) {
        let Endpoint { domain, url, .. } = &self.endpoint;
        self.followed.send_modify(|followed| {
            let before = followed.failure.take();
            // Said on change only.
            if before.as_ref().is_none_or(|failure| failure.reason != reason) {
                warn!(%domain, %url, reason, "bundle endpoint not usable, what is trusted stays");
            }
            let (since, looks) = before
                .map_or((SystemTime::now(), 0), |Failure { since, looks, .. }| (since, looks));
            let (reason, looks) = (reason.to_owned(), looks.saturating_add(1));
            followed.failure = Some(Failure { reason, since, looks });
            followed.looks += 1;
            followed.failed += 1;
        });
    }
}

impl Following {
    pub fn followed(&self) -> watch::Receiver<Followed> {
        self.followed.clone()
    }

    /// Looks now, and says what came of it; `None` if nobody follows any more, or too many ask.
    pub async fn look(&self) -> Option<Outcome> {
        let (asked, outcome) = oneshot::channel();
        self.asks.try_send(asked).ok()?;
        outcome.await.ok()
    }
}

fn proof(endpoint: &Endpoint, trust: &TrustBundle) -> Option<Vec<RootKey>> {
    match &endpoint.profile {
        Profile::Spiffe(identity) => Some(trust.root_keys(&identity.trust_domain())),
        Profile::Web(_) => None,
    }
}

/// Until what would prove the endpoint is something else than `before`.
async fn other_proof(
    endpoint: &Endpoint,
    trust: &mut watch::Receiver<Arc<TrustBundle>>,
    before: Option<Vec<RootKey>>,
) {
    let Some(before) = before else { return std::future::pending().await };
    let is_other = |now: &Arc<TrustBundle>| proof(endpoint, now).is_some_and(|now| now != before);
    if trust.wait_for(is_other).await.is_err() {
        // Nobody changes it any more.
        std::future::pending().await
    }
}

/// How long to wait before the next look, also after one that failed (SPIFFE Federation, section
/// 6.2). `jitter` is between 0 and 1.
pub fn next_look(hint: Option<Duration>, jitter: f64) -> Duration {
    let jitter = 1.0 - REFRESH_JITTER + 2.0 * REFRESH_JITTER * jitter.clamp(0.0, 1.0);
    BundleDocument::interval(hint).mul_f64(jitter)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_honored_within_bounds_and_with_jitter() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        assert_eq!(next_look(None, 0.5), minutes(5));
        assert_eq!(next_look(Some(minutes(10)), 0.5), minutes(10));
        assert_eq!(next_look(Some(minutes(10)), 0.0), minutes(9));
        assert_eq!(next_look(Some(minutes(10)), 1.0), minutes(11));
        assert_eq!(next_look(Some(Duration::ZERO), 0.5), minutes(1));
        assert_eq!(next_look(Some(Duration::MAX), 0.5), minutes(24 * 60));
    }
}
