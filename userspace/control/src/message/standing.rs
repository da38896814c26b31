//! How it stands with an agent's workloads.

use std::collections::BTreeMap;

use martlet_model::{Mode, WorkloadName};

use super::{Malformed, cut, name_from, name_to, text};
use crate::{
    Standing, Stands, limits,
    proto::{self, standing::State},
};

/// What has been said of some workloads; `None`: they are there no more.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Standings {
    pub of: BTreeMap<WorkloadName, Option<Standing>>,
    /// Nothing is left to say.
    pub is_complete: bool,
}

/// What is to be said so that the other side, which knows `said`, knows `now`: not too much at once.
pub fn standings_to(
    said: &mut BTreeMap<WorkloadName, Standing>,
    now: &BTreeMap<WorkloadName, Standing>,
) -> proto::Standings {
    let gone = said.keys().filter(|name| !now.contains_key(*name));
    let gone: Vec<_> = gone.take(limits::STANDINGS).cloned().collect();
    let other = now.iter().filter(|(name, standing)| said.get(*name) != Some(*standing));
    let other = other.take(limits::STANDINGS - gone.len());
    let other: Vec<_> = other.map(|(name, one)| (name.clone(), one.clone())).collect();
    let standings = other.iter().map(|(name, one)| standing_to(name, one)).collect();
    let names = gone.iter().map(name_to).collect();
    gone.iter().for_each(|name| drop(said.remove(name)));
    said.extend(other);
    proto::Standings { standings, gone: names, complete: said == now }
}

fn standing_to(name: &WorkloadName, standing: &Standing) -> proto::Standing {
    let (state, reason) = match &standing.stands {
        Stands::Enrolled(Mode::Permissive) => (State::EnrolledPermissive, ""),
        Stands::Enrolled(Mode::Strict) => (State::EnrolledStrict, ""),
        Stands::Pending(reason) => (State::Pending, reason.as_str()),
        Stands::Refused(reason) => (State::Refused, reason.as_str()),
    };
    proto::Standing {
        name: Some(name_to(name)),
        pod: standing.pod.to_string(),
        state: state.into(),
        reason: cut(reason),
    }
}

pub fn standings_from(said: proto::Standings) -> Result<Standings, Malformed> {
    let proto::Standings { standings, gone, complete } = said;
    let count = standings.len() + gone.len();
    if count > limits::STANDINGS {
        let most = limits::STANDINGS;
        let what = format_args!("has {count} entries, at most {most}");
        return Err(Malformed::new("standings", what));
    }
    let mut of = BTreeMap::new();
    for name in gone {
        of.insert(name_from(Some(name))?, None);
    }
    for one in standings {
        let name = name_from(one.name.clone())?;
        let standing = standing_from(one).map_err(|bad| bad.within(&name))?;
        of.insert(name, Some(standing));
    }
    Ok(Standings { of, is_complete: complete })
}

fn standing_from(said: proto::Standing) -> Result<Standing, Malformed> {
    let proto::Standing { pod, state, reason, .. } = said;
    if pod.len() > limits::UID_BYTES {
        return Err(Malformed::new("pod", format_args!("has {} bytes", pod.len())));
    }
    let reason = text("reason", reason)?;
    let stands = match State::try_from(state) {
        Ok(State::EnrolledPermissive) => Stands::Enrolled(Mode::Permissive),
        Ok(State::EnrolledStrict) => Stands::Enrolled(Mode::Strict),
        Ok(State::Pending) => Stands::Pending(reason),
        Ok(State::Refused) => Stands::Refused(reason),
        Ok(State::Unspecified) | Err(_) => return Err(Malformed::new("state", "is unknown")),
    };
    Ok(Standing { pod: pod.into(), stands })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> WorkloadName {
        let (namespace, name) = ("shop".parse().unwrap(), format!("x{number:05}").parse().unwrap());
        WorkloadName { namespace, name }
    }

    fn standing(stands: Stands) -> Standing {
        Standing { pod: "u1".into(), stands }
    }

    #[test]
    fn all_that_has_changed_is_said_in_the_end_and_nothing_else() {
        let why = || standing(Stands::Pending("its cgroup is empty".repeat(200)));
        let mut now: BTreeMap<_, _> = (0..1000).map(|number| (name(number), why())).collect();
        let (mut said, mut heard) = (BTreeMap::new(), BTreeMap::new());
        let mut hear = |said: &mut _, now: &_| {
            for messages in 1.. {
                let message = standings_to(said, now);
                assert!(prost::Message::encoded_len(&message) < limits::AGENT_MESSAGE_BYTES);
                let Standings { of, is_complete } = standings_from(message).unwrap();
                for (name, standing) in of {
                    match standing {
                        Some(standing) => drop(heard.insert(name, standing)),
                        None => drop(heard.remove(&name)),
                    }
                }
                if is_complete {
                    return (messages, heard.len());
                }
            }
            unreachable!("it is complete at some time")
        };
        assert_eq!(hear(&mut said, &now), (1000_usize.div_ceil(limits::STANDINGS), 1000));
        now.insert(name(7), standing(Stands::Enrolled(Mode::Strict)));
        now.remove(&name(8));
        assert_eq!(hear(&mut said, &now), (1, 999));
        let nothing = standings_to(&mut said, &now);
        assert!(nothing.standings.is_empty() && nothing.gone.is_empty() && nothing.complete);
    }

    #[test]
    fn every_standing_is_read_as_it_was_said() {
        for stands in [
            Stands::Enrolled(Mode::Permissive),
            Stands::Enrolled(Mode::Strict),
            Stands::Pending("why".to_owned()),
            Stands::Refused("why".to_owned()),
        ] {
            let now = [(name(1), standing(stands))].into();
            let read = standings_from(standings_to(&mut BTreeMap::new(), &now)).unwrap();
            assert_eq!(read.of.get(&name(1)).cloned().flatten().as_ref(), now.get(&name(1)));
        }
    }

    #[test]
    fn what_no_agent_says_is_refused() {
        let saying = |state, name: Option<proto::Name>, pod: &str| {
            let (pod, reason) = (pod.to_owned(), String::new());
            let standings = vec![proto::Standing { name, pod, state, reason }];
            standings_from(proto::Standings { standings, ..Default::default() })
        };
        let one = || Some(name_to(&name(1)));
        assert!(saying(1, one(), "u").is_ok());
        assert!(saying(0, one(), "u").is_err());
        assert!(saying(9, one(), "u").is_err());
        assert!(saying(1, None, "u").is_err());
        assert!(saying(1, one(), &"u".repeat(limits::UID_BYTES + 1)).is_err());
        let gone = vec![name_to(&name(1)); limits::STANDINGS + 1];
        assert!(standings_from(proto::Standings { gone, ..Default::default() }).is_err());
    }
}
