//! Who may have which certificate.

use std::{sync::Arc, time::SystemTime};

use martlet_authority::{self as authority, Registrar};
use martlet_control::{Ask, Joined, Joining, NodeCaller, Office, Refusal};
use martlet_identity::{Chain, Csr};
use martlet_model::{Bearer, Label, Part, Quarantine};
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::{
    book::{Book, Places},
    members::NotGood,
    metrics::Counts,
};

pub struct Clerk {
    pub book: Arc<Book>,
    pub registrar: Registrar<Places>,
    pub counts: Arc<Counts>,
}

impl Office for Clerk {
    fn admit(&self, caller: &NodeCaller) -> Result<(), Refusal> {
        match self.book.members().has(&caller.node, &caller.key) {
            true => Ok(()),
            false => Err(Refusal::NotYours(
                "this node was removed, or has joined again with another key; make it join anew \
                 with a token of `martlet node join`"
                    .to_owned(),
            )),
        }
    }

    async fn join(&self, joining: Joining) -> Result<Joined, Refusal> {
        let Joining { secret, node, csr } = joining;
        let key = csr.key().map_err(|error| Refusal::BadRequest(error.to_string()))?;
        let (book, of) = (self.book.clone(), node.clone());
        let joined =
            spawn_blocking(move || book.members().join(&secret, &of, &key, SystemTime::now()));
        match joined.await.map_err(|_| stopping())? {
            Ok(()) => {}
            Err(error) => {
                self.counts.joins_refused();
                return Err(match &error {
                    NotGood::Token(why) => {
                        warn!(%node, why, "a join token was refused");
                        Refusal::NotYours(error.to_string())
                    }
                    NotGood::Kept(why) => {
                        warn!(%node, error = %why, "a node could not be kept");
                        Refusal::Unavailable(error.to_string())
                    }
                });
            }
        }
        let chain = self.certify(&node, &csr).await?;
        Ok(Joined { chain, trust: self.book.trust() })
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
        let cut_off: Vec<_> = asks.iter().map(|ask| self.quarantine(caller, ask)).collect();
        let granted = asks.into_iter().zip(&cut_off).filter(|(_, cut_off)| cut_off.is_none());
        let granted = granted.map(|(Ask { workload, csr }, _)| authority::Ask { workload, csr });
        let (authority, now) = (self.book.authority(), SystemTime::now());
        let asks = granted.collect();
        let mut answers =
            self.registrar.issue(&authority, &caller.node, asks, now).await.into_iter();
        let answer = |cut_off: Option<Quarantine>| match cut_off {
            Some(quarantine) => Err(Refusal::Quarantined(format!(
                "it is cut off by the quarantine of {quarantine}"
            ))),
            None => answers.next().unwrap_or(Err(authority::Refusal::CannotSign)).map_err(told),
        };
        let answers: Vec<_> = cut_off.into_iter().map(answer).collect();
        self.counts.issued(&answers);
        answers
    }
}

impl Clerk {
    async fn certify(&self, node: &Label, csr: &Csr) -> Result<Chain, Refusal> {
        let (authority, part) = (self.book.authority(), Part::Node(node.clone()));
        let issued = self.registrar.issue_part(&authority, &part, csr, SystemTime::now()).await;
        issued.map_err(told)
    }

    /// Which quarantine is about this workload on this node.
    fn quarantine(&self, caller: &NodeCaller, ask: &Ask) -> Option<Quarantine> {
        let directory = self.book.directory.load();
        let known = directory.workload(&ask.workload)?;
        let bearer = Bearer {
            identity: known.identity.clone(),
            workload: Some(ask.workload.clone()),
            node: Some(caller.node.clone()),
        };
        self.book.trust().quarantines.iter().find(|one| one.covers(&bearer)).cloned()
    }
}

fn told(refusal: authority::Refusal) -> Refusal {
    use authority::Refusal as From;
    let text = refusal.to_string();
    match refusal {
        From::Request(_) => Refusal::BadRequest(text),
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
