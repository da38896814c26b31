//! What is looked at again while it lives: permits, peers, idle lanes.

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
    time::{Instant, SystemTime},
};

use martlet_model::{Closed, Workload};
use martlet_policy::Request;

use crate::{
    Dataplane, View,
    limits::{REVIEWS_PER_TURN, SWEEP_INTERVAL, SWEEPS_PER_REVIEW},
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
        // A lane that waits has a file open too.
        dataplane.pool.shed(2 * dataplane.places.left());
        dataplane.pool.sweep();
        dataplane.warnings.sweep(Instant::now());
        let view = dataplane.view.load_full();
        let changed = !seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &view));
        if changed || sweep.is_multiple_of(SWEEPS_PER_REVIEW) {
            let now = SystemTime::now();
            for (number, live) in dataplane.registry.all().into_iter().enumerate() {
                if number % REVIEWS_PER_TURN == REVIEWS_PER_TURN - 1 {
                    tokio::task::yield_now().await;
                }
                if let Some(reason) = reconsider(&live, &view, changed, now) {
                    live.stop(reason);
                }
            }
        }
        seen = Some(view);
    }
}

/// Why a connection that was permitted is not any more.
pub fn reconsider(live: &Live, view: &View, changed: bool, now: SystemTime) -> Option<Closed> {
    let grounds = live.grounds.as_ref()?;
    if let Some(reason) = grounds.peer_lapsed(now) {
        return Some(reason);
    }
    if !changed {
        return None;
    }
    let own = &grounds.local.workload;
    let callee = today(&grounds.callee, view);
    if today(own, view).identity != own.identity || callee.identity != grounds.callee.identity {
        return Some(Closed::PermitLapsed);
    }
    let request = Request {
        caller: grounds.caller(),
        caller_address: grounds.caller_address,
        callee,
        port: grounds.port,
    };
    view.policies.authorize(&request).err().map(|_| Closed::PermitLapsed)
}

/// What the directory says now about a workload; what was known where it says nothing.
fn today<'a>(workload: &'a Arc<Workload>, view: &'a View) -> &'a Arc<Workload> {
    let at = |address: &IpAddr| view.directory.workload_at(*address);
    let found = workload.addresses.iter().find_map(at);
    found.filter(|found| found.name == workload.name).unwrap_or(workload)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use martlet_authority::Authority;
    use martlet_identity::{Credentials, TrustBundle};
    use martlet_model::{Bearer, Directory, Mode, Reporter, SpiffeId, Trust, WorkloadName};
    use martlet_policy::{Action, Policy, PolicySet, Rule, Selector};

    use super::*;
    use crate::{
        HostNetwork, Local,
        limits::EXPIRY_GRACE,
        live::{Grounds, Registry},
        record::Draft,
        relay::Side,
    };

    fn identity(name: &str) -> SpiffeId {
        format!("spiffe://a.org/ns/shop/sa/{name}").parse().unwrap()
    }

    fn bundle(authority: Option<&Authority>) -> TrustBundle {
        let roots = authority.map(|a| (a.trust_domain().clone(), a.roots().to_vec()));
        TrustBundle::new(roots).unwrap()
    }

    fn web(account: &str) -> Arc<Workload> {
        Arc::new(Workload {
            name: WorkloadName { namespace: "shop".parse().unwrap(), name: "web".parse().unwrap() },
            service_account: account.parse().unwrap(),
            identity: identity(account),
            addresses: vec!["10.0.0.2".parse().unwrap()],
            node: "one".parse().unwrap(),
            mode: Mode::Strict,
            policies: vec![],
        })
    }

    /// cart's connection to web's port 80, at web's side, which trusts `trusted`.
    fn grounds(expires: SystemTime, proven: &Authority, trusted: Option<&Authority>) -> Grounds {
        let credentials = Credentials::new(identity("web"), Arc::new(bundle(trusted)));
        let local = Local::new(web("web"), Arc::new(credentials), Arc::new(HostNetwork));
        Grounds {
            peer: Arc::new(Bearer { identity: identity("cart"), workload: None, node: None }),
            peer_expires: expires,
            peer_root: bundle(Some(proven)).root_keys(proven.trust_domain()).remove(0),
            local: Arc::new(local),
            side: Side::Callee,
            caller_address: "10.0.0.1".parse().unwrap(),
            callee: web("web"),
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
        let [authority, other] = [(); 2].map(|()| Authority::ephemeral(&domain).unwrap());
        let now = SystemTime::now();
        let known = || grounds(now, &authority, Some(&authority));
        let second = Duration::from_secs(1);
        let open = View::default();
        assert_eq!(verdict(known(), &open, true, now), None);
        assert_eq!(verdict(known(), &denying(), true, now), Some(Closed::PermitLapsed));
        let late = now + EXPIRY_GRACE;
        assert_eq!(verdict(known(), &open, false, late), None);
        let expired = verdict(known(), &open, false, late + second);
        assert_eq!(expired, Some(Closed::PeerExpired));
        let stranger = verdict(grounds(now, &authority, None), &open, false, now);
        assert_eq!(stranger, Some(Closed::PeerWrongTrustDomain));
        let untrusted = verdict(grounds(now, &authority, Some(&other)), &open, false, now);
        assert_eq!(untrusted, Some(Closed::PeerUntrusted));
    }

    #[test]
    fn a_connection_ends_when_its_peer_is_cut_off_and_not_when_another_is() {
        let authority = Authority::ephemeral(&"a.org".parse().unwrap()).unwrap();
        let now = SystemTime::now();
        for (quarantine, expected) in [
            ("identity/spiffe://a.org/ns/shop/sa/cart", Some(Closed::Quarantined)),
            ("cluster/a.org", Some(Closed::Quarantined)),
            ("identity/spiffe://a.org/ns/shop/sa/till", None),
            ("cluster/b.org", None),
        ] {
            let grounds = grounds(now, &authority, Some(&authority));
            let trust = Trust {
                version: 1,
                roots: [("a.org".parse().unwrap(), authority.roots().to_vec())].into(),
                quarantines: vec![quarantine.parse().unwrap()],
                issuer: None,
            };
            grounds.local.credentials.set_trust(Arc::new(TrustBundle::of(&trust).unwrap()));
            let verdict = verdict(grounds, &View::default(), false, now);
            assert_eq!(verdict, expected, "{quarantine}");
        }
    }

    #[test]
    fn a_connection_ends_when_a_workload_becomes_somebody_else_and_not_when_it_is_unknown() {
        let authority = Authority::ephemeral(&"a.org".parse().unwrap()).unwrap();
        let now = SystemTime::now();
        let verdict_where = |workloads: Vec<Arc<Workload>>| {
            let directory = Arc::new(Directory::new(workloads, []).unwrap());
            let grounds = grounds(now, &authority, Some(&authority));
            verdict(grounds, &View { directory, ..View::default() }, true, now)
        };
        assert_eq!(verdict_where(vec![]), None);
        assert_eq!(verdict_where(vec![web("web")]), None);
        assert_eq!(verdict_where(vec![web("admin")]), Some(Closed::PermitLapsed));
    }
}
