//! What is looked at again while it lives: permits, peers, idle lanes.

use std::{
    sync::{Arc, Weak},
    time::{Instant, SystemTime},
};

use martlet_model::Closed;
use martlet_policy::Request;

use crate::{
    Dataplane, View,
    limits::{SWEEP_INTERVAL, SWEEPS_PER_REVIEW},
    live::Live,
};

/// Runs until the data plane is gone.
pub async fn run(dataplane: Weak<Dataplane>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen: Option<Arc<View>> = None;
    for sweep in 1_u64.. {
        ticks.tick().await;
        let Some(dataplane) = dataplane.upgrade() else { return };
        dataplane.pool.sweep();
        dataplane.warnings.sweep(Instant::now());
        let view = dataplane.view.load_full();
        let changed = !seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &view));
        if changed || sweep.is_multiple_of(SWEEPS_PER_REVIEW) {
            let now = SystemTime::now();
            for live in dataplane.registry.all() {
                if let Some(reason) = reconsider(&live, &view, changed, now) {
                    live.stop(reason);
                }
            }
        }
        seen = Some(view);
    }
}

/// Why a connection that was permitted is not any more.
fn reconsider(live: &Live, view: &View, changed: bool, now: SystemTime) -> Option<Closed> {
    let grounds = live.grounds.as_ref()?;
    if let Some(reason) = grounds.peer_lapsed(now) {
        return Some(reason);
    }
    if !changed {
        return None;
    }
    let request = Request {
        caller: &grounds.caller,
        caller_address: grounds.caller_address,
        callee: &grounds.callee,
        port: grounds.port,
    };
    view.policies.authorize(&request).err().map(|_| Closed::PermitLapsed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use martlet_identity::{Credentials, TrustBundle};
    use martlet_model::{Mode, Reporter, SpiffeId, Workload, WorkloadName};
    use martlet_policy::{Action, Policy, PolicySet, Rule, Selector};

    use super::*;
    use crate::{
        limits::EXPIRY_GRACE,
        live::{Grounds, Registry},
        record::Draft,
    };

    fn identity(name: &str) -> SpiffeId {
        format!("spiffe://a.org/ns/shop/sa/{name}").parse().unwrap()
    }

    /// cart's connection to web's port 80, at web's side.
    fn grounds(expires: SystemTime, authority: Option<&martlet_authority::Authority>) -> Grounds {
        let roots = authority.map(|a| (a.trust_domain().clone(), a.roots().to_vec()));
        let trust = Arc::new(TrustBundle::new(roots).unwrap());
        Grounds {
            peer: identity("cart"),
            peer_expires: expires,
            credentials: Arc::new(Credentials::new(identity("web"), trust)),
            caller: identity("cart"),
            caller_address: "10.0.0.1".parse().unwrap(),
            callee: Arc::new(Workload {
                name: WorkloadName {
                    namespace: "shop".parse().unwrap(),
                    name: "web".parse().unwrap(),
                },
                service_account: "web".parse().unwrap(),
                identity: identity("web"),
                addresses: vec![],
                node: "one".parse().unwrap(),
                mode: Mode::Strict,
            }),
            port: 80,
        }
    }

    fn denying() -> View {
        let policy = Policy {
            namespace: "shop".parse().unwrap(),
            name: "closed".parse().unwrap(),
            selector: Selector::All,
            action: Action::Deny,
            rules: vec![Rule { name: None, from: None, ports: None }],
        };
        let policies = Arc::new(PolicySet::new(vec![policy]).unwrap());
        View { policies, ..View::default() }
    }

    fn verdict(grounds: Grounds, view: &View, changed: bool, now: SystemTime) -> Option<Closed> {
        let registry = Registry::default();
        let listed = registry.list(&Draft::new(Reporter::Destination), Some(grounds));
        reconsider(&listed.live, view, changed, now)
    }

    #[test]
    fn a_connection_stays_while_peer_and_policy_do_and_not_longer() {
        let domain = "a.org".parse().unwrap();
        let authority = martlet_authority::Authority::ephemeral(&domain).unwrap();
        let known = Some(&authority);
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        let open = View::default();
        assert_eq!(verdict(grounds(now, known), &open, true, now), None);
        assert_eq!(verdict(grounds(now, known), &denying(), true, now), Some(Closed::PermitLapsed));
        let late = now + EXPIRY_GRACE;
        assert_eq!(verdict(grounds(now, known), &open, false, late), None);
        let expired = verdict(grounds(now, known), &open, false, late + second);
        assert_eq!(expired, Some(Closed::PeerExpired));
        let untrusted = verdict(grounds(now, None), &open, false, now);
        assert_eq!(untrusted, Some(Closed::PeerWrongTrustDomain));
    }
}
