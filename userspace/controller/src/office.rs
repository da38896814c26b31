//! Who may have which certificate.

use std::{sync::Arc, time::SystemTime};

use martlet_authority::{self as authority, Registrar};
use martlet_control::{
    AccountToken, Arrival, Ask, Joined, Joining, JoiningBy, NodeCaller, Office, Refusal, Secret,
};
use martlet_identity::{Chain, Csr, Vouched};
use martlet_kubernetes::{attest::TokenError, lease::Holding};
use martlet_model::{Label, Part};
use martlet_standalone::Hosts;
use tokio::{sync::mpsc, task::spawn_blocking};
use tracing::warn;

use crate::{
    book::Book,
    cluster::Cluster,
    cut_off::{Guarded, NOT_HELD},
    files,
    members::{MembersError, NotGood},
    metrics::Counts,
    places::Places,
    scribe::RefusedPod,
};

/// The file is checked for it.
const NO_MEMBERS: &str = "a cluster's controller keeps no list of nodes";

pub struct Clerk {
    pub book: Arc<Book>,
    pub registrar: Registrar<Guarded<Places>>,
    pub counts: Arc<Counts>,
    /// Where nodes are attested; `None`: they have tokens of ours.
    pub cluster: Option<Cluster>,
    /// Whose certificates make a host a node.
    pub hosts: Option<Hosts>,
    /// Of one of several replicas.
    pub holding: Option<Holding>,
    /// Whoever says in a cluster what was refused. What it has no room for, the log has.
    pub refused: mpsc::Sender<RefusedPod>,
}

impl Office for Clerk {
    fn admit(&self, caller: &NodeCaller) -> Result<(), Refusal> {
        match self.book.is_node(&caller.node, &caller.key) {
            true => Ok(()),
            false => Err(Refusal::NotYours(
                match &self.cluster {
                    None => {
                        "this node was removed, or has joined again with another key; make it join \
                         anew with a token of `martlet node join`"
                    }
                    Some(_) => "no agent is known to run on this node",
                }
                .to_owned(),
            )),
        }
    }

    async fn join(&self, joining: Joining) -> Result<Joined, Refusal> {
        let Joining { by, node, csr } = joining;
        match by {
            JoiningBy::Secret(secret) => self.join_by_secret(secret, &node, &csr).await,
            JoiningBy::Account(token) => self.join_by_account(&token, &node).await,
            JoiningBy::Host(vouched) => self.join_by_host(vouched, &node, &csr).await,
        }
        .inspect_err(|_| self.counts.joins_refused())?;
        let chain = self.certify(&node, &csr).await?;
        Ok(Joined { chain, trust: self.book.trust() })
    }

    /// Where pods have statuses to say it in.
    fn wants_standings(&self) -> bool {
        self.cluster.is_some()
    }

    fn wants_arrivals(&self) -> bool {
        self.cluster.is_some()
    }

    fn arrive(&self, node: &Label, arrivals: Vec<Arrival>) {
        if let Some(cluster) = &self.cluster {
            cluster.arrive(node, arrivals);
        }
    }

    async fn renew(&self, caller: &NodeCaller, csr: Csr) -> Result<Chain, Refusal> {
        let key = csr.key().map_err(|error| Refusal::BadRequest(error.to_string()))?;
        if key != caller.key {
            let why = "a node's certificate is renewed for the key that it has joined with";
            return Err(Refusal::BadRequest(why.to_owned()));
        }
        self.certify(&caller.node, &csr).await
    }

    async fn issue(&self, caller: &NodeCaller, asks: Vec<Ask>) -> Vec<Result<Chain, Refusal>> {
        let workloads: Vec<_> = asks.iter().map(|ask| ask.workload.clone()).collect();
        let asks = asks.into_iter().map(|Ask { workload, csr }| authority::Ask { workload, csr });
        let (authority, now) = (self.book.authority(), SystemTime::now());
        let answers = self.registrar.issue(&authority, &caller.node, asks.collect(), now).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.map_err(told)).collect();
        self.counts.issued(&answers);
        for (workload, answer) in workloads.into_iter().zip(&answers) {
            // What is only unavailable is asked for again.
            if let Err(refusal) = answer
                && !matches!(refusal, Refusal::Unavailable(_))
            {
                let (node, why) = (caller.node.clone(), refusal.to_string());
                let _ = self.refused.try_send(RefusedPod { node, workload, why });
            }
        }
        answers
    }
}

impl Clerk {
    async fn join_by_secret(&self, secret: Secret, node: &Label, csr: &Csr) -> Result<(), Refusal> {
        let key = csr.key().map_err(|error| Refusal::BadRequest(error.to_string()))?;
        let (book, of) = (self.book.clone(), node.clone());
        let joined = spawn_blocking(move || {
            let members = book.members();
            members.map(|mut members| members.join(&secret, &of, &key, SystemTime::now()))
        });
        match joined.await.map_err(|_| stopping())? {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(match &error {
                NotGood::Token(why) => {
                    warn!(%node, why, "a join token was refused");
                    Refusal::NotYours(error.to_string())
                }
                NotGood::Kept(why) => {
                    warn!(%node, error = %why, "a node could not be kept");
                    Refusal::Unavailable(error.to_string())
                }
            }),
            None => {
                warn!(%node, "somebody shows a join token, and nodes of a cluster have none");
                let why = "nodes of this cluster join by their agents' service account";
                Err(Refusal::NotYours(why.to_owned()))
            }
        }
    }

    async fn join_by_account(&self, token: &AccountToken, node: &Label) -> Result<(), Refusal> {
        let Some(cluster) = &self.cluster else {
            warn!(%node, "somebody shows a service account, and this is no cluster's controller");
            let why = "nodes of this controller join with a token of `martlet node join`";
            return Err(Refusal::NotYours(why.to_owned()));
        };
        match cluster.agent(token).await {
            Ok(of) if of == *node => Ok(()),
            Ok(of) => {
                warn!(%node, %of, "an agent's token was shown for another node");
                Err(Refusal::NotYours(format!("the token is of the agent of node {of}")))
            }
            Err(error @ TokenError::Unavailable(_)) => {
                warn!(%node, %error, "a node could not be attested");
                Err(Refusal::Unavailable(error.to_string()))
            }
            Err(error) => {
                warn!(%node, %error, "a service account's token was refused");
                Err(Refusal::NotYours(error.to_string()))
            }
        }
    }

    /// The authorities are read each time: their owner replaces them when it is time.
    async fn join_by_host(&self, vouched: Vouched, node: &Label, csr: &Csr) -> Result<(), Refusal> {
        let Some(hosts) = self.hosts.clone() else {
            warn!(%node, "somebody shows a host's certificate, and the controller file has no `hosts`");
            let why = "this controller takes no hosts' certificates (`hosts` in its file)";
            return Err(Refusal::NotYours(why.to_owned()));
        };
        let key = csr.key().map_err(|error| Refusal::BadRequest(error.to_string()))?;
        let (book, of, csr) = (self.book.clone(), node.clone(), csr.clone());
        let joined = spawn_blocking(move || {
            let now = SystemTime::now();
            let authorities = files::hosts(&hosts).map_err(|error| {
                warn!(error = format!("{error:#}"), "hosts cannot be told from others");
                Refusal::Unavailable("the controller cannot read the authorities of hosts".into())
            })?;
            authorities.check(&vouched, &of, &csr, now).map_err(|problem| {
                warn!(node = %of, %problem, "a host's certificate was refused");
                Refusal::NotYours(format!("the host's certificate is refused: {problem}"))
            })?;
            let members = book.members();
            let mut members = members.ok_or_else(|| Refusal::Unavailable(NO_MEMBERS.into()))?;
            members.enlist(&of, &key, now).map_err(|error| {
                warn!(node = %of, %error, "a host was not made a node");
                match error {
                    MembersError::Removed(_) => Refusal::NotYours(error.to_string()),
                    _ => Refusal::Unavailable("the controller cannot keep it now".to_owned()),
                }
            })
        });
        joined.await.map_err(|_| stopping())?
    }

    async fn certify(&self, node: &Label, csr: &Csr) -> Result<Chain, Refusal> {
        let (authority, part) = (self.book.authority(), Part::Node(node.clone()));
        let issued = self.registrar.issue_part(&authority, &part, csr, SystemTime::now()).await;
        match &self.holding {
            Some(holding) if !holding.is_held() => Err(Refusal::Unavailable(NOT_HELD.to_owned())),
            _ => issued.map_err(told),
        }
    }
}

fn told(refusal: authority::Refusal) -> Refusal {
    use authority::Refusal as From;
    let text = refusal.to_string();
    match refusal {
        From::Request(_) => Refusal::BadRequest(text),
        From::Denied(authority::Denied::Quarantined(_)) => Refusal::Quarantined(text),
        From::Denied(authority::Denied::Unavailable(_))
        | From::TooMany
        | From::Changed
        | From::CannotSign
        | From::CannotLog => Refusal::Unavailable(text),
        From::Denied(_) | From::Identity => Refusal::NotYours(text),
    }
}

fn stopping() -> Refusal {
    Refusal::Unavailable("the controller is stopping".to_owned())
}
