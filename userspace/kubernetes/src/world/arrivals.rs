//! Pods whose addresses their node's agent knows before the API server does.
//!
//! Kubelet reports an address some time after the pod's first container has begun. The agent hears of
//! it from the plugin of the container network, before that. Its word is taken for pods that the API
//! server has on its node, and stands until the API server says another address than when it was
//! given. An address that is somebody else's stays theirs, whoever says it.

use std::{net::IpAddr, sync::Arc};

use martlet_model::{Label, WorkloadName};

use super::World;
use crate::{limits, seen::Pod};

/// What is said of a pod that is known.
#[derive(Debug)]
pub(super) struct Arrival {
    pod: Arc<str>,
    addresses: Vec<IpAddr>,
    /// What the API server said then.
    instead_of: Vec<IpAddr>,
}

/// What is said of a pod that is not known yet.
#[derive(Debug)]
pub(super) struct Unseen {
    name: WorkloadName,
    pod: Arc<str>,
    addresses: Vec<IpAddr>,
}

impl World {
    /// Takes the word of a node's agent for where a pod of that node is now; without addresses, takes it
    /// back. Whether anything is other than before.
    pub fn set_arrival(
        &mut self,
        node: &Label,
        name: &WorkloadName,
        pod: &Arc<str>,
        addresses: Vec<IpAddr>,
    ) -> bool {
        let Some(known) = self.pods.get(name).filter(|known| known.uid == *pod).cloned() else {
            if !addresses.is_empty() {
                let unseen = self.unseen.entry(node.clone()).or_default();
                unseen.truncate(limits::UNSEEN_ARRIVALS - 1);
                unseen.push_front(Unseen { name: name.clone(), pod: pod.clone(), addresses });
            }
            return false;
        };
        if known.node != *node || known.is_on_host || known.is_over {
            return false;
        }
        let before = self.arrivals.remove(name).filter(|before| before.pod == *pod);
        let said = before.map_or_else(|| known.addresses.clone(), |before| before.instead_of);
        let addresses: Vec<_> = addresses.into_iter().filter_map(of_a_pod).collect();
        let addresses = match addresses.is_empty() {
            true => said,
            false => {
                let (pod, instead_of) = (pod.clone(), said);
                let arrival = Arrival { pod, addresses: addresses.clone(), instead_of };
                self.arrivals.insert(name.clone(), arrival);
                addresses
            }
        };
        self.place(Pod { addresses, ..(*known).clone() })
    }

    /// A pod as the API server has it, with the addresses that its node's agent knows better.
    pub(super) fn with_arrival(&mut self, pod: Pod) -> Pod {
        let found = self.unseen.get_mut(&pod.node).and_then(|unseen| {
            let at = unseen.iter().position(|one| one.name == pod.name && one.pod == pod.uid)?;
            unseen.remove(at)
        });
        if let Some(Unseen { addresses, .. }) = found {
            let addresses: Vec<_> = addresses.into_iter().filter_map(of_a_pod).collect();
            let (uid, instead_of) = (pod.uid.clone(), pod.addresses.clone());
            self.arrivals.insert(pod.name.clone(), Arrival { pod: uid, addresses, instead_of });
        }
        let Some(arrival) = self.arrivals.get(&pod.name) else { return pod };
        let stands = arrival.pod == pod.uid
            && arrival.instead_of == pod.addresses
            && !(pod.is_on_host || pod.is_over || arrival.addresses.is_empty());
        match stands {
            true => Pod { addresses: arrival.addresses.clone(), ..pod },
            false => {
                self.arrivals.remove(&pod.name);
                pod
            }
        }
    }
}

/// As the API server's are read.
fn of_a_pod(ip: IpAddr) -> Option<IpAddr> {
    let ip = ip.to_canonical();
    let is_none = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    (!is_none).then_some(ip)
}
