//! How it stands with workloads, as the controller is told. What is half done is not said to be done.

use std::{collections::BTreeMap, time::SystemTime};

use martlet_control::{Standing, Stands};
use martlet_model::{LocalWorkload, Mode, NetnsSource, WorkloadName};

use crate::{
    renewal::Renewal,
    reports::{Shared, State},
};

/// Of all that are declared for this node, with what is known of their certificates.
pub fn all<'a>(
    declared: impl Iterator<Item = (&'a LocalWorkload, Option<&'a Renewal>)>,
    shared: &Shared,
    now: SystemTime,
) -> BTreeMap<WorkloadName, Standing> {
    let of = |(local, renewal): (&LocalWorkload, Option<&Renewal>)| {
        let (name, mode) = (local.workload.name.clone(), local.workload.mode);
        let pod = match &local.netns {
            NetnsSource::Pod(uid) => uid.clone(),
            _ => "".into(),
        };
        let stands = shared.with_state(&name, |state| stands(state, mode, renewal, now));
        (name, Standing { pod, stands })
    };
    declared.map(of).collect()
}

fn stands(state: Option<&State>, mode: Mode, renewal: Option<&Renewal>, now: SystemTime) -> Stands {
    let because = |what: &str, why: &str| Stands::Pending(format!("{what}: {why}"));
    match state {
        None => Stands::Pending("the agent has not looked at it yet".to_owned()),
        Some(State::Seen(reason)) => match renewal.is_some_and(Renewal::is_refused) {
            true => Stands::Refused(reason.clone()),
            false => Stands::Pending(reason.clone()),
        },
        Some(State::Steered { credentials, is_attached, unguarded, unclosed, .. }) => {
            let is_over = credentials.current().is_none_or(|svid| svid.not_after() <= now);
            if is_over {
                let why = renewal.and_then(Renewal::error).unwrap_or("it is being asked for");
                let what = "its certificate has ended";
                return match renewal.is_some_and(Renewal::is_refused) {
                    true => Stands::Refused(format!("{what}: {why}")),
                    false => because(what, why),
                };
            }
            match (is_attached, unguarded, unclosed) {
                (false, ..) => Stands::Pending("its sk_lookup program is gone".to_owned()),
                (_, Some(why), _) => because("it is not guarded", why),
                (_, _, Some(why)) => because("it still has plaintext", why),
                (true, None, None) => Stands::Enrolled(mode),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use martlet_identity::{Credentials, SigningKey, Svid, TrustBundle};

    use super::*;

    fn seen(why: &str) -> State {
        State::Seen(why.to_owned())
    }

    fn steered(svid: Option<Svid>, unguarded: Option<&str>, is_attached: bool) -> State {
        let credentials = Credentials::new(identity(), bundle());
        svid.into_iter().for_each(|svid| credentials.install(svid));
        State::Steered {
            credentials: Arc::new(credentials),
            renewal: None,
            is_attached,
            unguarded: unguarded.map(str::to_owned),
            unclosed: None,
            unserved: None,
        }
    }

    fn bundle() -> Arc<TrustBundle> {
        Arc::new(TrustBundle::new([]).unwrap())
    }

    fn identity() -> martlet_model::SpiffeId {
        "spiffe://a.org/ns/shop/sa/web".parse().unwrap()
    }

    fn svid() -> Svid {
        let directory = tempfile::TempDir::new().unwrap();
        let (path, domain) = (directory.path().join("authority"), "a.org".parse().unwrap());
        martlet_authority::Authority::init(&path, &domain).unwrap();
        let authority = martlet_authority::Authority::load(&path, &domain).unwrap();
        let (namespace, name) = ("shop".parse().unwrap(), "web".parse().unwrap());
        let request = martlet_authority::LeafRequest {
            identity: identity(),
            workload: WorkloadName { namespace, name },
            node: "one".parse().unwrap(),
            uid: None,
            lifetime: martlet_authority::LEAF_LIFETIME,
        };
        let key = SigningKey::generate().unwrap();
        let chain = authority.issue(&key.csr().unwrap(), &request, SystemTime::now()).unwrap();
        Svid::new(&key, chain, &identity()).unwrap()
    }

    fn said(state: &State, renewal: Option<&Renewal>) -> Stands {
        stands(Some(state), Mode::Strict, renewal, SystemTime::now())
    }

    #[test]
    fn only_what_is_steered_and_guarded_and_proves_itself_is_said_to_be_enrolled() {
        assert_eq!(said(&steered(Some(svid()), None, true), None), Stands::Enrolled(Mode::Strict));
        for half in [
            steered(None, None, true),
            steered(Some(svid()), Some("no interface"), true),
            steered(Some(svid()), None, false),
            seen("no network namespace"),
        ] {
            assert!(matches!(said(&half, None), Stands::Pending(_)));
        }
        assert!(matches!(stands(None, Mode::Strict, None, SystemTime::now()), Stands::Pending(_)));
    }

    #[test]
    fn a_certificate_that_is_refused_is_no_matter_of_waiting() {
        let now = SystemTime::now();
        let failed = Renewal::at(now, now).failed(now, "quarantined".to_owned(), 0.0);
        let refused = failed.clone().refused(true);
        assert!(matches!(said(&seen("it has none"), Some(&failed)), Stands::Pending(_)));
        assert!(matches!(said(&seen("it has none"), Some(&refused)), Stands::Refused(_)));
        let ended = steered(None, None, true);
        assert!(matches!(said(&ended, Some(&refused)), Stands::Refused(_)));
        let lasts = steered(Some(svid()), None, true);
        assert_eq!(said(&lasts, Some(&refused)), Stands::Enrolled(Mode::Strict), "while it lasts");
    }
}
