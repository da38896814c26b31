//! What runs where: whom the authority asks before it issues.

use std::sync::Arc;

use arc_swap::ArcSwap;
use martlet_authority::{Attested, Attestor, Denied};
use martlet_kubernetes::{Client, attest};
use martlet_model::{Label, NetnsSource, SpiffeId, TrustDomain, WorkloadName};

use crate::book::Known;

#[derive(Clone)]
pub struct Places {
    pub known: Arc<ArcSwap<Known>>,
    /// Of a cluster: what is known is older than what the API server says.
    pub cluster: Option<(Client, TrustDomain)>,
}

impl Attestor for Places {
    async fn attest(&self, node: &Label, workload: &WorkloadName) -> Result<Attested, Denied> {
        let attested = {
            let known = self.known.load();
            let local = known.local(workload).ok_or(Denied::UnknownWorkload)?;
            if local.workload.node != *node {
                return Err(Denied::OtherNode);
            }
            let uid = match &local.netns {
                NetnsSource::Pod(uid) => Some(uid.to_string()),
                _ => None,
            };
            Attested { identity: local.workload.identity.clone(), node: node.clone(), uid }
        };
        match &self.cluster {
            None => Ok(attested),
            Some((client, domain)) => {
                let pod = attest::pod(client, workload).await.map_err(Denied::Unavailable)?;
                let pod = pod.ok_or(Denied::UnknownWorkload)?;
                judge(domain, attested, &pod)
            }
        }
    }
}

/// What was watched says that the pod is enrolled; what the server says now must be the same pod.
fn judge(
    domain: &TrustDomain,
    known: Attested,
    pod: &martlet_kubernetes::seen::Pod,
) -> Result<Attested, Denied> {
    if pod.node != known.node {
        return Err(Denied::OtherNode);
    }
    if pod.is_ending || pod.is_over {
        return Err(Denied::Ending);
    }
    let (namespace, account) = (pod.name.namespace.as_str(), pod.service_account.as_str());
    let identity = SpiffeId::for_workload(domain, namespace, account).ok();
    if identity.as_ref() != Some(&known.identity) || known.uid.as_deref() != Some(&*pod.uid) {
        let why = "the pod was made anew, and this is not known everywhere yet; ask again";
        return Err(Denied::Unavailable(why.to_owned()));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use martlet_kubernetes::seen::Pod;

    use super::*;

    fn pod() -> Pod {
        Pod {
            name: WorkloadName { namespace: "shop".parse().unwrap(), name: "web".parse().unwrap() },
            uid: "u1".into(),
            node: "one".parse().unwrap(),
            service_account: "web".parse().unwrap(),
            addresses: vec![],
            wanted: None,
            is_on_host: false,
            is_over: false,
            is_ending: false,
            created: 0,
            labels: Default::default(),
            probes: vec![],
            said: None,
        }
    }

    fn judged(pod: &Pod) -> Result<Attested, Denied> {
        let known = Attested {
            identity: "spiffe://a.org/ns/shop/sa/web".parse().unwrap(),
            node: "one".parse().unwrap(),
            uid: Some("u1".to_owned()),
        };
        judge(&"a.org".parse().unwrap(), known, pod)
    }

    #[test]
    fn the_same_living_pod_may_have_a_certificate() {
        assert_eq!(judged(&pod()).unwrap().uid.as_deref(), Some("u1"));
    }

    #[test]
    fn no_other_pod_may_have_one() {
        let elsewhere = Pod { node: "two".parse().unwrap(), ..pod() };
        assert_eq!(judged(&elsewhere), Err(Denied::OtherNode));
        assert_eq!(judged(&Pod { is_ending: true, ..pod() }), Err(Denied::Ending));
        assert_eq!(judged(&Pod { is_over: true, ..pod() }), Err(Denied::Ending));
        let again = Pod { uid: "u2".into(), ..pod() };
        assert!(matches!(judged(&again), Err(Denied::Unavailable(_))));
        let other = Pod { service_account: "db".parse().unwrap(), ..pod() };
        assert!(matches!(judged(&other), Err(Denied::Unavailable(_))));
    }
}
