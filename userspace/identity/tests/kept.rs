//! What a process that starts again goes on with.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::SystemTime};

use martlet_authority::{Authority, LEAF_LIFETIME, LeafRequest};
use martlet_identity::{
    Credentials, IdentityError, SigningKey, Svid, TrustBundle, originate, terminate,
};
use martlet_model::{SpiffeId, TrustDomain, WorkloadName};

fn domain() -> TrustDomain {
    "prod.example".parse().unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::for_workload(&domain(), "shop", account).unwrap()
}

fn svid(authority: &Authority, account: &str) -> Svid {
    let key = SigningKey::generate().unwrap();
    let name = WorkloadName { namespace: "shop".parse().unwrap(), name: account.parse().unwrap() };
    let node = "one".parse().unwrap();
    let request = LeafRequest {
        identity: id(account),
        workload: name,
        node,
        uid: None,
        lifetime: LEAF_LIFETIME,
    };
    let chain = authority.issue(&key.csr().unwrap(), &request, SystemTime::now()).unwrap();
    Svid::new(&key, chain, &id(account)).unwrap()
}

#[tokio::test]
async fn what_was_kept_proves_the_same_identity() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let kept = svid(&authority, "web").to_secret().unwrap();
    let again = Svid::from_secret(&kept, &id("web")).unwrap();
    let trust = TrustBundle::new([(domain(), authority.roots().to_vec())]).unwrap();
    let credentials = |svid: Svid, account| {
        let credentials = Credentials::new(id(account), Arc::new(trust.clone()));
        credentials.install(svid);
        credentials
    };
    let (web, cart) = (credentials(again, "web"), credentials(svid(&authority, "cart"), "cart"));
    let (here, there) = tokio::io::duplex(64 * 1024);
    let expected = id("web");
    let (here, there) = tokio::join!(originate(here, &cart, &expected), terminate(there, &web));
    assert_eq!(here.unwrap().peer().identity(), &id("web"));
    assert_eq!(there.unwrap().peer().identity(), &id("cart"));
}

#[test]
fn what_is_not_whole_or_somebody_elses_is_refused() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let kept = svid(&authority, "web").to_secret().unwrap();
    for length in 0..kept.len() {
        assert!(Svid::from_secret(&kept[..length], &id("web")).is_err(), "{length} bytes");
    }
    let other = Svid::from_secret(&kept, &id("cart"));
    assert!(matches!(other, Err(IdentityError::WrongIdentity { .. })), "{other:?}");
    // The form, the count, the length, and the two halves of the key.
    for at in 0..1 + 1 + 2 + 32 + 65 {
        let mut broken = kept.clone();
        broken[at] ^= 1;
        assert!(Svid::from_secret(&broken, &id("web")).is_err(), "bit of byte {at}");
    }
}
