//! Pods that have just arrived on an agent's node.

use std::collections::BTreeMap;

use martlet_model::WorkloadName;

use super::{Malformed, each, name_from, name_to, parsed};
use crate::{Arrival, limits, proto};

/// What is to be said so that the other side, which was told `said`, knows `now`: not too much at once.
pub fn arrivals_to(
    said: &mut BTreeMap<WorkloadName, Arrival>,
    now: &BTreeMap<WorkloadName, Arrival>,
) -> proto::Arrivals {
    let other = now.values().filter(|arrival| said.get(&arrival.name) != Some(*arrival));
    let gone = said.values().filter(|arrival| !now.contains_key(&arrival.name));
    let gone = gone.map(|arrival| Arrival { addresses: Vec::new(), ..arrival.clone() });
    // Somebody waits for those that have come.
    let news: Vec<_> = other.cloned().chain(gone).take(limits::ARRIVALS).collect();
    let arrivals = news.iter().map(arrival_to).collect();
    for arrival in news {
        match arrival.addresses.is_empty() {
            true => drop(said.remove(&arrival.name)),
            false => drop(said.insert(arrival.name.clone(), arrival)),
        }
    }
    proto::Arrivals { arrivals }
}

fn arrival_to(arrival: &Arrival) -> proto::Arrival {
    proto::Arrival {
        name: Some(name_to(&arrival.name)),
        pod: arrival.pod.to_string(),
        addresses: arrival.addresses.iter().map(ToString::to_string).collect(),
    }
}

pub fn arrivals_from(said: proto::Arrivals) -> Result<Vec<Arrival>, Malformed> {
    each("arrivals", said.arrivals, limits::ARRIVALS, arrival_from)
}

fn arrival_from(said: proto::Arrival) -> Result<Arrival, Malformed> {
    let proto::Arrival { name, pod, addresses } = said;
    if pod.is_empty() || pod.len() > limits::UID_BYTES {
        return Err(Malformed::new("pod", format_args!("has {} bytes", pod.len())));
    }
    let address = |text: String| parsed("address", &text);
    let addresses = each("addresses", addresses, limits::ADDRESSES, address)?;
    Ok(Arrival { name: name_from(name)?, pod: pod.into(), addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> WorkloadName {
        let (namespace, name) = ("shop".parse().unwrap(), format!("x{number:03}").parse().unwrap());
        WorkloadName { namespace, name }
    }

    fn arrivals(numbers: impl Iterator<Item = usize>) -> BTreeMap<WorkloadName, Arrival> {
        let one = |number| {
            let addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
            (name(number), Arrival { name: name(number), pod: "u1".into(), addresses })
        };
        numbers.map(one).collect()
    }

    #[test]
    fn each_is_said_once_and_whoever_is_gone_too() {
        let (mut said, now) = (BTreeMap::new(), arrivals(0..70));
        let mut heard = Vec::new();
        for count in [limits::ARRIVALS, 70 - limits::ARRIVALS, 0] {
            let message = arrivals_to(&mut said, &now);
            assert!(prost::Message::encoded_len(&message) < limits::AGENT_MESSAGE_BYTES);
            let some = arrivals_from(message).unwrap();
            assert_eq!(some.len(), count);
            heard.extend(some);
        }
        assert!(heard.iter().eq(now.values()));
        let gone = arrivals_from(arrivals_to(&mut said, &arrivals(1..70))).unwrap();
        assert_eq!(gone, [Arrival { addresses: vec![], ..now[&name(0)].clone() }]);
        assert_eq!(said, arrivals(1..70));
    }

    #[test]
    fn what_no_agent_says_is_refused() {
        let saying = |pod: &str, addresses: Vec<String>, name: Option<proto::Name>| {
            let arrivals = vec![proto::Arrival { name, pod: pod.to_owned(), addresses }];
            arrivals_from(proto::Arrivals { arrivals })
        };
        let one = || Some(name_to(&name(1)));
        assert!(saying("u", vec![], one()).is_ok());
        assert!(saying("", vec![], one()).is_err());
        assert!(saying(&"u".repeat(limits::UID_BYTES + 1), vec![], one()).is_err());
        assert!(saying("u", vec!["10.0.0.1/24".to_owned()], one()).is_err());
        let many = vec!["10.0.0.1".to_owned(); limits::ADDRESSES + 1];
        assert!(saying("u", many, one()).is_err());
        assert!(saying("u", vec![], None).is_err());
        let arrivals = vec![proto::Arrival::default(); limits::ARRIVALS + 1];
        assert!(arrivals_from(proto::Arrivals { arrivals }).is_err());
    }
}
