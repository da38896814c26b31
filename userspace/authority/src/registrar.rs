//! Issues for whoever asks: the attestor decides, and the log keeps what was decided.
//!
//! ```text
//! ask ─▶ rate ─▶ request ─▶ attestor ─▶ names ─▶ sign ─▶ attestor again ─▶ log, on the disk ─▶ chain
//! ```
//!
//! No certificate leaves before its line of the log is on the disk.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use martlet_identity::{Chain, Csr};
use martlet_model::{Label, Part, WorkloadName};
use thiserror::Error;
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use crate::{
    Attested, Attestor, Authority, AuthorityError, BadRequest, Denied, LeafRequest,
    limits::{ATTESTATION, BATCH, ISSUER_LIFETIME},
    log::{Anchor, Event, Log, LogError},
    rate::{Rate, Taken},
    request,
};

mod event;

/// One certificate that a node asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    pub workload: WorkloadName,
    pub csr: Csr,
}

/// Why there is no certificate. Its text is safe to send to whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("the node asks for too many certificates; it may ask again later")]
    TooMany,
    #[error("the request is refused: {0}")]
    Request(#[from] BadRequest),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("what is known about the workload changed while its certificate was made; ask again")]
    Changed,
    #[error("the workload's identity is none that this authority may certify")]
    Identity,
    #[error("the authority cannot sign now; its own log says why")]
    CannotSign,
    #[error("the authority's log cannot be written, and without it nothing is issued")]
    CannotLog,
}

/// Cheap to share: one serves every node.
pub struct Registrar<A> {
    attestor: A,
    log: Arc<Mutex<Log>>,
    rate: Mutex<Rate>,
    lifetime: Duration,
}

impl<A: Attestor> Registrar<A> {
    /// Leaves live for `lifetime`, and a day at most.
    pub fn new(attestor: A, log: Log, lifetime: Duration) -> Self {
        let log = Arc::new(Mutex::new(log));
        Self { attestor, log, rate: Mutex::default(), lifetime }
    }

    pub fn attestor(&self) -> &A {
        &self.attestor
    }

    /// Brings to the disk what was refused since the last certificate; to be called every few
    /// seconds: it costs nothing if there is nothing.
    /// Gives the head of the log, to be kept elsewhere now and then.
    pub async fn sync(&self) -> Result<Anchor, LogError> {
        let log = self.log.clone();
        let sync = move || {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.sync().map(|()| log.head())
        };
        spawn_blocking(sync).await.map_err(|_| LogError::Ended)?
    }

    /// Answers in the order of the asks. `node` is proven: it is that of the certificate by which
    /// the node is known, and nothing that it says.
    pub async fn issue(
        &self,
        authority: &Authority,
        node: &Label,
        asks: Vec<Ask>,
        now: SystemTime,
    ) -> Vec<Result<Chain, Refusal>> {
        let until = Instant::now() + ATTESTATION;
        let mut answers = Vec::with_capacity(asks.len());
        let mut events = Vec::with_capacity(asks.len());
        for (index, ask) in asks.iter().enumerate() {
            let taken = match index < BATCH {
                true => self.take(node, now),
                false => Taken::Refused { summed: (index == BATCH).then_some(asks.len() - BATCH) },
            };
            let (answer, attested) = match taken {
                Taken::Granted { .. } => self.decide(authority, node, ask, until, now).await,
                Taken::Refused { .. } => (Err(Refusal::TooMany), None),
            };
            events.extend(event::too_many(node, &taken));
            if !matches!(taken, Taken::Refused { .. }) {
                events.push(event::of(node, Some(&ask.workload), attested.as_ref(), &answer));
            }
            answers.push(answer);
        }
        match self.write(events, now).await {
            Ok(()) => answers,
            Err(_) => {
                answers.into_iter().map(|answer| answer.and(Err(Refusal::CannotLog))).collect()
            }
        }
    }

    /// A certificate for a part of the control plane; whoever calls has proven that it is that.
    pub async fn issue_part(
        &self,
        authority: &Authority,
        part: &Part,
        csr: &Csr,
        now: SystemTime,
    ) -> Result<Chain, Refusal> {
        let controller = "controller".parse().map_err(|_| Refusal::Identity)?;
        let node = match part {
            Part::Controller => &controller,
            Part::Node(node) => node,
        };
        let taken = self.take(node, now);
        let mut events: Vec<_> = event::too_many(node, &taken).collect();
        let answer = match taken {
            Taken::Refused { .. } => Err(Refusal::TooMany),
            Taken::Granted { .. } => {
                let identity = part.identity(authority.trust_domain());
                let lifetime = match part {
                    Part::Controller => self.lifetime,
                    Part::Node(_) => ISSUER_LIFETIME,
                };
                let answer = request::read(csr).map_err(Refusal::Request).and_then(|_| {
                    let made = authority.issue_part(csr, part, lifetime, now);
                    made.map_err(|_| Refusal::CannotSign)
                });
                let attested = Attested { identity, node: node.clone(), uid: None };
                events.push(event::of(node, None, Some(&attested), &answer));
                answer
            }
        };
        self.write(events, now).await.map_err(|_| Refusal::CannotLog)?;
        answer
    }

    async fn decide(
        &self,
        authority: &Authority,
        node: &Label,
        ask: &Ask,
        until: Instant,
        now: SystemTime,
    ) -> (Result<Chain, Refusal>, Option<Attested>) {
        if let Err(bad) = request::read(&ask.csr) {
            return (Err(bad.into()), None);
        }
        let attested = match self.attest(node, &ask.workload, until).await {
            Ok(attested) => attested,
            Err(denied) => return (Err(denied.into()), None),
        };
        let answer = match check(authority, node, &ask.workload, &attested) {
            Ok(()) => self.sign(authority, ask, &attested, now),
            Err(refusal) => Err(refusal),
        };
        // What was so before and after was so when the certificate was made.
        let answer = match answer {
            Ok(chain)
                if self.attest(node, &ask.workload, until).await.as_ref() == Ok(&attested) =>
            {
                Ok(chain)
            }
            Ok(_) => Err(Refusal::Changed),
            Err(refusal) => Err(refusal),
        };
        (answer, Some(attested))
    }

    async fn attest(
        &self,
        node: &Label,
        workload: &WorkloadName,
        until: Instant,
    ) -> Result<Attested, Denied> {
        let late = |_| Denied::Unavailable(format!("no answer within {} s", ATTESTATION.as_secs()));
        timeout_at(until, self.attestor.attest(node, workload)).await.map_err(late)?
    }

    fn sign(
        &self,
        authority: &Authority,
        ask: &Ask,
        attested: &Attested,
        now: SystemTime,
    ) -> Result<Chain, Refusal> {
        let request = LeafRequest {
            identity: attested.identity.clone(),
            workload: ask.workload.clone(),
            node: attested.node.clone(),
            uid: attested.uid.clone(),
            lifetime: self.lifetime,
        };
        authority.issue(&ask.csr, &request, now).map_err(|error| match error {
            AuthorityError::Request(bad) => bad.into(),
            _ => Refusal::CannotSign,
        })
    }

    fn take(&self, node: &Label, now: SystemTime) -> Taken {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).take(node, now)
    }

    async fn write(&self, events: Vec<Event>, now: SystemTime) -> Result<(), LogError> {
        let log = self.log.clone();
        let write = move || log.lock().unwrap_or_else(PoisonError::into_inner).append(&events, now);
        spawn_blocking(write).await.map_err(|_| LogError::Ended)?
    }
}

/// An attestor's answer is believed only as far as it fits the question.
fn check(
    authority: &Authority,
    node: &Label,
    workload: &WorkloadName,
    attested: &Attested,
) -> Result<(), Refusal> {
    if attested.node != *node {
        return Err(Denied::OtherNode.into());
    }
    let is_ours = attested.identity.trust_domain() == *authority.trust_domain();
    // Identities below /martlet/ are those of the control plane.
    let names = attested.identity.workload_names();
    let is_of_namespace =
        names.is_some_and(|(namespace, _)| namespace == workload.namespace.as_str());
    match is_ours && is_of_namespace {
        true => Ok(()),
        false => Err(Refusal::Identity),
    }
}

impl Refusal {
    /// For logs and programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::Request(bad) => bad.code(),
            Self::Denied(denied) => denied.code(),
            Self::Changed => "changed",
            Self::Identity => "identity",
            Self::CannotSign => "cannot_sign",
            Self::CannotLog => "cannot_log",
        }
    }
}

#[cfg(test)]
mod tests;
