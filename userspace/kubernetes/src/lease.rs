//! A Lease: of several processes the one that holds it may do what must be done by one alone.
//!
//! [`election`](crate::election) decides; here it is asked, written and waited.

use std::{fmt, future::Future, sync::Arc};

use k8s_openapi::{
    api::coordination::v1::{Lease as Object, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use martlet_model::Label;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{
    election::{Act, Election, Record},
    limits,
};

/// Where the lease is.
pub struct Lease {
    api: Api<Object>,
    name: String,
}

/// Reads and writes a lease.
pub trait Register: Send + Sync {
    /// `None`: there is none yet.
    fn read(&self) -> impl Future<Output = Result<Option<Record>, String>> + Send;

    /// Over what was read, and nothing else.
    fn write(
        &self,
        holder: &str,
        over: Option<&Record>,
    ) -> impl Future<Output = Result<(), String>> + Send;
}

/// Wants the lease, or holds it.
pub struct Candidate<R> {
    register: R,
    election: Election,
    held: Arc<watch::Sender<Option<Instant>>>,
    /// Who holds it, as far as is known.
    holder: watch::Sender<String>,
    failure: Option<String>,
}

/// Whether this process still holds the lease. Cheap to clone.
#[derive(Clone)]
pub struct Holding(watch::Receiver<Option<Instant>>);

impl Holding {
    /// Now. What was begun while it was held may be finished by another one's.
    pub fn is_held(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }
}

impl Lease {
    pub fn new(client: &Client, namespace: &Label, name: &str) -> Self {
        let api = Api::namespaced(client.clone(), namespace.as_str());
        Self { api, name: name.to_owned() }
    }
}

impl Register for Lease {
    async fn read(&self) -> Result<Option<Record>, String> {
        let read = answered(self.api.get_opt(&self.name)).await?;
        Ok(read.map(|object| {
            let spec = object.spec.unwrap_or_default();
            Record {
                holder: spec.holder_identity.unwrap_or_default(),
                version: object.metadata.resource_version.unwrap_or_default(),
                transitions: spec.lease_transitions.unwrap_or_default(),
            }
        }))
    }

    async fn write(&self, holder: &str, over: Option<&Record>) -> Result<(), String> {
        let now = MicroTime(Timestamp::now());
        let is_other = over.is_none_or(|over| over.holder != holder);
        let before = over.map_or(0, |over| over.transitions);
        let duration = i32::try_from(limits::LEASE.as_secs()).unwrap_or(i32::MAX);
        let object = Object {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: over.map(|over| over.version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(duration),
                renew_time: Some(now),
                lease_transitions: Some(before + i32::from(is_other && !holder.is_empty())),
                ..LeaseSpec::default()
            }),
        };
        let parameters = PostParams::default();
        match over {
            Some(_) => answered(self.api.replace(&self.name, &parameters, &object)).await,
            None => answered(self.api.create(&parameters, &object)).await,
        }
        .map(drop)
    }
}

async fn answered<T>(asking: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(limits::LEASE_QUESTION, asking).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

impl<R: Register> Candidate<R> {
    /// `me`: no other living process has this name.
    pub fn new(register: R, me: String) -> Self {
        let (held, holder) = (Arc::new(watch::Sender::new(None)), watch::Sender::default());
        Self { register, election: Election::new(me), held, holder, failure: None }
    }

    pub fn holding(&self) -> Holding {
        Holding(self.held.subscribe())
    }

    /// Who holds it; empty if that is not known.
    pub fn holder(&self) -> watch::Receiver<String> {
        self.holder.subscribe()
    }

    /// Until this process holds it.
    pub async fn acquire(&mut self) {
        loop {
            self.step().await;
            if self.election.is_holder(Instant::now()) {
                info!("this process holds the lease");
                return;
            }
            sleep(limits::LEASE_RETRY).await;
        }
    }

    /// Until it cannot be said any more that this process holds it. Can be cut short at any time.
    pub async fn keep(&mut self) {
        while let Some(until) = self.election.held_until() {
            let renewing = async {
                sleep(limits::LEASE_RETRY).await;
                self.step().await;
            };
            tokio::select! {
                () = renewing => {}
                () = sleep_until(until) => return,
            }
            if !self.election.is_holder(Instant::now()) {
                return;
            }
        }
    }

    /// Lets somebody else have it at once. To be called when nothing is done any more that only the
    /// holder may do.
    pub async fn release(mut self) {
        self.election.step_down();
        self.held.send_replace(None);
        // A renewal may have been on its way, so that the first attempt comes too late.
        for _ in 0..2 {
            match self.try_release().await {
                Ok(()) => return info!("the lease is released"),
                Err(error) => warn!(error, "the lease was not released; it ends by itself"),
            }
        }
    }

    async fn try_release(&self) -> Result<(), String> {
        match self.register.read().await? {
            Some(record) if record.holder == self.election.me() => {
                self.register.write("", Some(&record)).await
            }
            _ => Ok(()),
        }
    }

    async fn step(&mut self) {
        let stepped = self.try_step().await;
        self.held.send_replace(self.election.held_until());
        let failure = stepped.err();
        if let Some(error) = failure.as_ref().filter(|_| failure != self.failure) {
            warn!(error, "the lease could not be read or written");
        }
        self.failure = failure;
    }

    async fn try_step(&mut self) -> Result<(), String> {
        let record = self.register.read().await?;
        let act = self.election.look(record.as_ref(), Instant::now());
        if let Some(Record { holder, .. }) = &record {
            self.holder.send_if_modified(|known| {
                let is_other = known != holder;
                holder.clone_into(known);
                is_other
            });
        }
        if act == Act::Take {
            let asked = Instant::now();
            self.register.write(self.election.me(), record.as_ref()).await?;
            self.election.won(asked);
        }
        Ok(())
    }
}

impl<R> fmt::Debug for Candidate<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.election.fmt(f)
    }
}

#[cfg(test)]
mod tests;
