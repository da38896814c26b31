//! What the log keeps of a decision.

use martlet_identity::{Chain, describe, fingerprint};
use martlet_model::{Label, WorkloadName};

use super::Refusal;
use crate::{Attested, log::Event, rate::Taken};

pub fn of(
    node: &Label,
    workload: Option<&WorkloadName>,
    attested: Option<&Attested>,
    answer: &Result<Chain, Refusal>,
) -> Event {
    let (node, workload) = (node.clone(), workload.map(WorkloadName::to_string));
    let identity = attested.map(|attested| attested.identity.clone());
    let leaf = |chain: &Chain| describe(chain.0.first()?).ok();
    match answer {
        Ok(chain) => {
            let leaf = leaf(chain);
            Event::Issued {
                node,
                workload,
                identity,
                uid: attested.and_then(|attested| attested.uid.clone()),
                serial: leaf.as_ref().map(|leaf| leaf.serial.clone()).unwrap_or_default(),
                fingerprint: chain.0.first().map(|der| fingerprint(der)).unwrap_or_default(),
                issuer: chain.0.get(1).map(|der| fingerprint(der)).unwrap_or_default(),
                not_after: leaf.map(|leaf| leaf.not_after).unwrap_or_default(),
            }
        }
        Err(refusal) => Event::Refused {
            node,
            workload,
            identity,
            reason: refusal.code().to_owned(),
            detail: refusal.to_string(),
            count: 1,
        },
    }
}

/// One line for all that were refused for their number since the last such line.
pub fn too_many(node: &Label, taken: &Taken) -> impl Iterator<Item = Event> {
    let summed = match taken {
        Taken::Granted { summed } | Taken::Refused { summed } => *summed,
    };
    let event = |count: usize| Event::Refused {
        node: node.clone(),
        workload: None,
        identity: None,
        reason: Refusal::TooMany.code().to_owned(),
        detail: Refusal::TooMany.to_string(),
        count: count as u64,
    };
    summed.map(event).into_iter()
}
