//! Pods become workloads.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use martlet_model::{LocalWorkload, NetnsSource, Outsider, SpiffeId, Workload, WorkloadName};

use super::{Kind, Object, World, unknown_mode};
use crate::{
    limits,
    seen::{Pod, Problem, ServiceKey},
};

pub(super) const ON_HOST: &str = "it shares the node's network (hostNetwork), so it has no address and no interface of its \
     own; it stays outside of the mesh";

impl World {
    /// Whether anything but what is said of it is other than before.
    pub fn set_pod(&mut self, pod: Pod) -> bool {
        let pod = self.with_arrival(pod);
        self.place(pod)
    }

    /// With the addresses that it is taken to have.
    pub(super) fn place(&mut self, pod: Pod) -> bool {
        let name = pod.name.clone();
        let pod = Arc::new(pod);
        let before = self.pods.insert(name.clone(), pod.clone());
        let object = Object::new(Kind::Pod, name.namespace.as_str(), name.name.as_str());
        let is_readable = !self.problems.contains_key(&object);
        if before.as_ref() == Some(&pod) && is_readable {
            return false;
        }
        let is_same = |before: &Arc<Pod>| {
            is_readable && Pod { said: pod.said.clone(), ..(**before).clone() } == *pod
        };
        if before.as_ref().is_some_and(is_same) {
            self.decide_pod(&name);
            return false;
        }
        self.pods_in.entry(name.namespace.clone()).or_default().insert(name.clone());
        self.move_agent(before.as_ref(), Some(&pod));
        let had = before.map(|before| claimed(&before)).unwrap_or_default();
        self.move_claims(&name, &had, &claimed(&pod));
        self.decide_pod(&name);
        true
    }

    pub fn remove_pod(&mut self, name: &WorkloadName) {
        self.arrivals.remove(name);
        let Some(pod) = self.pods.remove(name) else { return };
        if let Some(names) = self.pods_in.get_mut(&name.namespace) {
            names.remove(name);
            if names.is_empty() {
                self.pods_in.remove(&name.namespace);
            }
        }
        self.move_agent(Some(&pod), None);
        self.move_claims(name, &claimed(&pod), &[]);
        self.decide_pod(name);
    }

    /// Takes addresses from a pod and gives it others. Who waits for an address that is free now
    /// gets it.
    fn move_claims(&mut self, name: &WorkloadName, had: &[IpAddr], has: &[IpAddr]) {
        for address in had.iter().filter(|address| !has.contains(address)) {
            let Some(claimants) = self.claims.get_mut(address) else { continue };
            claimants.retain(|claimant| claimant != name);
            let waiting = claimants.clone();
            if waiting.is_empty() {
                self.claims.remove(address);
            }
            for claimant in &waiting {
                self.decide_pod(claimant);
            }
        }
        for address in has.iter().filter(|address| !had.contains(address)) {
            // At the first look all pods are new: the older one had it first.
            let age =
                |name: &WorkloadName| self.pods.get(name).map(|pod| (pod.created, pod.uid.clone()));
            let mut claimants = self.claims.get(address).cloned().unwrap_or_default();
            let holder = claimants.first().cloned();
            claimants.push(name.clone());
            let is_settled = holder.is_some_and(|holder| self.enrolled.contains_key(&holder));
            let settled = usize::from(is_settled);
            claimants[settled..].sort_by_key(age);
            let others = claimants.clone();
            self.claims.insert(*address, claimants);
            for other in others.iter().filter(|other| *other != name) {
                self.decide_pod(other);
            }
        }
    }

    /// Decides anew whether a pod is a workload, and tells the services before it.
    pub(super) fn decide_pod(&mut self, name: &WorkloadName) {
        let pod = self.pods.get(name).cloned();
        let outsider = pod.as_ref().and_then(|pod| self.outsider_of(pod));
        if self.outside.get(name).map(|before| &**before) != outsider.as_ref() {
            match outsider {
                Some(outsider) => drop(self.outside.insert(name.clone(), Arc::new(outsider))),
                None => drop(self.outside.remove(name)),
            }
        }
        let decided = pod.as_ref().map(|pod| self.workload_of(pod));
        let (local, problems) = decided.unwrap_or_default();
        self.note_facts(name, pod.as_deref(), local.is_some(), &problems);
        let object = Object::new(Kind::Pod, name.namespace.as_str(), name.name.as_str());
        match &pod {
            Some(pod) => self.note(object, &pod.uid, problems),
            None => self.is_well(&object),
        }
        let before = self.enrolled.get(name).cloned();
        if before.as_deref() == local.as_ref() {
            return;
        }
        self.unsettled.insert(name.namespace.clone());
        let mut touched = BTreeSet::new();
        let both = before.as_deref().into_iter().chain(local.as_ref());
        for address in both.flat_map(|local| &local.workload.addresses) {
            touched.extend(self.behind.get(address).into_iter().flatten().cloned());
        }
        match local {
            Some(local) => {
                if self.workloads.get(name) != Some(&local.workload) {
                    self.workloads.insert(name.clone(), local.workload.clone());
                }
                self.enrolled.insert(name.clone(), Arc::new(local));
            }
            None => {
                self.workloads.remove(name);
                self.enrolled.remove(name);
            }
        }
        touched.iter().for_each(|service: &ServiceKey| self.decide_service(service));
    }

    /// A pod is outside if nobody wants it inside. One that is wanted and cannot be a workload is not
    /// decided, and what is undecided reaches nothing of the mesh. Those with the host's network are
    /// where the host is.
    fn outsider_of(&self, pod: &Pod) -> Option<Outsider> {
        let is_one = self.mode(pod).is_none() && !pod.is_on_host && !pod.is_over;
        is_one.then(|| Outsider {
            name: pod.name.clone(),
            node: pod.node.clone(),
            netns: NetnsSource::Pod(pod.uid.clone()),
        })
    }

    fn workload_of(&self, pod: &Pod) -> (Option<LocalWorkload>, Vec<Problem>) {
        let mut problems: Vec<_> = unknown_mode(pod.wanted.as_ref()).into_iter().collect();
        if pod.name.namespace == self.settings.system_namespace && pod.wanted.is_some() {
            let why = "pods of Martlet's own namespace are not enrolled: it could not begin then";
            problems.push(Problem::new("SystemNamespace", why));
        }
        let Some(mode) = self.mode(pod) else { return (None, problems) };
        if pod.is_on_host {
            // Whoever enrolls everything does not mean each of these.
            if self.labelled(pod).is_some() {
                problems.push(Problem::new("HostNetwork", ON_HOST));
            }
            return (None, problems);
        }
        if pod.is_over || pod.addresses.is_empty() {
            return (None, problems);
        }
        for address in &pod.addresses {
            if let Some(services) = self.virtual_addresses.get(address) {
                let service = services.first().map(ServiceKey::to_string).unwrap_or_default();
                let why = format!("{address} is the virtual address of service {service}");
                problems.push(Problem::new("AddressConflict", why));
                return (None, problems);
            }
            match self.claims.get(address).and_then(|claimants| claimants.first()) {
                Some(holder) if *holder != pod.name => {
                    let why = format!(
                        "{address} is the address of pod {holder}, too, which had it first"
                    );
                    problems.push(Problem::new("AddressConflict", why));
                    return (None, problems);
                }
                _ => {}
            }
        }
        let mut probes = pod.probes.clone();
        if probes.len() > limits::PROBES {
            let most = limits::PROBES;
            let why =
                format!("it is probed at more than {most} ports; the first {most} are let in");
            problems.push(Problem::new("TooManyProbes", why));
            probes.truncate(most);
        }
        let identity = SpiffeId::for_workload(
            &self.settings.trust_domain,
            pod.name.namespace.as_str(),
            pod.service_account.as_str(),
        );
        let identity = match identity {
            Ok(identity) => identity,
            Err(error) => {
                problems.push(Problem::new("Identity", error.to_string()));
                return (None, problems);
            }
        };
        let workload = Workload {
            name: pod.name.clone(),
            service_account: pod.service_account.clone(),
            identity,
            addresses: pod.addresses.clone(),
            node: pod.node.clone(),
            mode,
            policies: self.policies_of(pod),
        };
        // What has not changed stays the same value, so that comparing it costs nothing.
        let before = self.enrolled.get(&pod.name).map(|local| &local.workload);
        let workload = match before {
            Some(before) if **before == workload => before.clone(),
            _ => Arc::new(workload),
        };
        let local = LocalWorkload {
            workload,
            netns: NetnsSource::Pod(pod.uid.clone()),
            udp: self.udp(),
            probes,
            workload_api: false,
        };
        (Some(local), problems)
    }
}

/// The addresses that a pod has, if they are its own and it still has them.
fn claimed(pod: &Pod) -> Vec<IpAddr> {
    match pod.is_on_host || pod.is_over {
        true => vec![],
        false => pod.addresses.clone(),
    }
}
