//! Connects for ever, says how it stands, and keeps on the disk what was declared.

use std::{
    error::Error,
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use martlet_model::{Label, Trust};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Inner, Link, Start, clock,
    follow::follow,
    link::{LinkError, connect},
    member::{Member, join},
    pauses::Pauses,
};
use crate::{
    Acknowledgement, Declared, limits,
    message::bundle_digest,
    table::{Receiving, Refused, Scope, Table, messages},
};

/// What was declared last, as it is kept.
pub struct Told {
    table: Arc<Table>,
    instance: u64,
    version: u64,
}

impl Inner {
    pub(super) async fn keep_connected(&self, start: &mut Start, shutdown: &CancellationToken) {
        let mut pauses = Pauses::default();
        loop {
            let began = Instant::now();
            let attempt = shutdown.run_until_cancelled(self.attempt(start)).await;
            self.channel.send_replace(None);
            let Some(error) = attempt else { return };
            if matches!(error, LinkError::Renewed) {
                // Nothing is wrong, and the renewals of all nodes are spread already.
                continue;
            }
            self.is_down(&error);
            let pause = pauses.next(began.elapsed(), rand::random());
            if shutdown.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Until it fails.
    async fn attempt(&self, start: &mut Start) -> LinkError {
        match self.try_attempt(start).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_attempt(&self, start: &mut Start) -> Result<std::convert::Infallible, LinkError> {
        let Start { receiving, member, key } = start;
        let is_over = |at: Option<SystemTime>| at.is_none_or(|at| at <= SystemTime::now());
        if member.as_ref().is_none_or(|member| is_over(member.expires())) {
            let joined = join(&self.settings, &self.state, key).await?;
            if let Some(declared) = &*self.declared.borrow() {
                // What was declared is newer than what a new token's root vouches for, or the same.
                joined.trust(&self.settings, &declared.trust).map_err(LinkError::Certificate)?;
            }
            *member = Some(joined);
        }
        let Some(joined) = member else { return Err(LinkError::Ended) };
        let ended = self.try_member(joined, receiving).await;
        if self.settings.proof.is_lasting() && ended.is_refusal() {
            // The next attempt is to join anew.
            *member = None;
        }
        Err(ended)
    }

    async fn try_member(&self, member: &Member, receiving: &mut Receiving) -> LinkError {
        let channel = match connect(&self.settings.controller, &member.credentials).await {
            Ok(channel) => channel,
            Err(error) => return error,
        };
        self.channel.send_replace(Some(channel.clone()));
        self.is_up(member.expires());
        tokio::select! {
            ended = follow(self, member, receiving, channel.clone()) => match ended {
                Ok(never) => match never {},
                Err(error) => error,
            },
            ended = member.renew(self, channel.clone()) => ended,
            never = clock::watch(self, channel) => match never {},
        }
    }

    /// The latest known.
    pub(super) fn trust(&self) -> Arc<Trust> {
        match &*self.declared.borrow() {
            Some(declared) => declared.trust.clone(),
            None => self.first_trust.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn is_up(&self, certificate_expires: Option<SystemTime>) {
        info!(controller = %self.settings.controller, "connected to the controller");
        self.link.send_modify(|link| {
            let since = SystemTime::now();
            let refused = link.refused.take();
            let clock = link.clock;
            *link = Link { connected: Ok(()), since, refused, certificate_expires, clock };
        });
    }

    /// Said on change only.
    fn is_down(&self, error: &LinkError) {
        let why = self.explain(error);
        self.link.send_if_modified(|link| {
            if link.connected.as_ref() == Err(&why) {
                return false;
            }
            warn!(reason = why, "no connection to the controller; what was declared stays");
            if link.connected.is_ok() {
                link.since = SystemTime::now();
            }
            link.connected = Err(why);
            true
        });
    }

    pub(super) fn is_heard(&self) {
        self.link.send_if_modified(|link| link.refused.take().is_some());
    }

    pub(super) fn is_refused(&self, refused: &Refused) {
        let why = refused.to_string();
        self.link.send_if_modified(|link| {
            let differs = link.refused.as_ref() != Some(&why);
            if differs {
                warn!(
                    reason = why,
                    "what the controller said was not taken; what was before stays"
                );
            }
            link.refused = Some(why);
            differs
        });
    }

    pub(super) fn is_told(&self, declared: Declared, receiving: &Receiving) {
        self.is_heard();
        let told = Told {
            table: receiving.table().clone(),
            instance: receiving.instance(),
            version: receiving.version(),
        };
        self.told.send_replace(Some(Arc::new(told)));
        self.declared.send_replace(Some(Arc::new(declared)));
    }

    /// That something was not taken; what is in effect is told beside.
    pub(super) fn acknowledgement(&self, version: u64, error: &str) -> Acknowledgement {
        let trust = self.trust();
        Acknowledgement {
            version,
            trust_version: trust.version,
            bundle: bundle_digest(&trust),
            error: Some(error.to_owned()),
        }
    }

    pub(super) fn explain(&self, error: &LinkError) -> String {
        chain_of(error)
    }

    async fn keep_snapshot(&self, told: &Told, node: &Label) {
        let Told { table, instance, version } = told;
        let Ok(said) = messages(table, node, *instance, *version, Scope::Full) else { return };
        let state = self.state.clone();
        let kept = tokio::task::spawn_blocking(move || state.keep_snapshot(said)).await;
        if let Ok(Err(error)) = kept {
            warn!(error = chain_of(&error), "what was declared was not kept");
        }
    }
}

/// After every version, but not more often than once a second; and at the end.
pub async fn keep_snapshots(inner: &Inner, shutdown: &CancellationToken) {
    let mut told = inner.told.subscribe();
    loop {
        let changed = shutdown.run_until_cancelled(told.changed()).await;
        let latest = told.borrow_and_update().clone();
        match (changed, latest) {
            (Some(Ok(())), Some(latest)) => {
                inner.keep_snapshot(&latest, &inner.settings.node).await;
                // A pause that is cut short is followed by the last look.
                shutdown.run_until_cancelled(sleep(limits::SNAPSHOT_PAUSE)).await;
            }
            (Some(Ok(())), None) => {}
            (Some(Err(_)) | None, _) => return,
        }
    }
}

/// An error and its causes, on one line.
pub fn chain_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
