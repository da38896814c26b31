//! The handshakes of the control plane: parts of Martlet among themselves, and nobody else.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::SystemTime};

use martlet_authority::{Authority, LEAF_LIFETIME, LeafRequest};
use martlet_identity::{
    Chain, Credentials, HandshakeError, Peer, PeerProblem, RootPin, Secured, SigningKey, Svid,
    TrustBundle,
    control::{answer, call, call_pinned},
    originate, terminate,
};
use martlet_model::{Closed, Part, SpiffeId, TrustDomain, WorkloadName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

fn domain() -> TrustDomain {
    "prod.example".parse().unwrap()
}

fn node(name: &str) -> SpiffeId {
    Part::Node(name.parse().unwrap()).identity(&domain())
}

fn controller() -> SpiffeId {
    Part::Controller.identity(&domain())
}

fn web() -> SpiffeId {
    SpiffeId::for_workload(&domain(), "shop", "web").unwrap()
}

/// With the roots in the chain, as a controller shows them.
fn svid(authority: &Authority, identity: &SpiffeId) -> Svid {
    let key = SigningKey::generate().unwrap();
    let Chain(mut chain) = chain(authority, &key, identity);
    chain.extend(authority.roots().iter().cloned());
    Svid::new(&key, Chain(chain), identity).unwrap()
}

fn chain(authority: &Authority, key: &SigningKey, identity: &SpiffeId) -> Chain {
    let name = "martlet".parse().unwrap();
    let request = LeafRequest {
        identity: identity.clone(),
        workload: WorkloadName { namespace: "martlet".parse().unwrap(), name },
        node: "one".parse().unwrap(),
        uid: None,
        lifetime: LEAF_LIFETIME,
    };
    authority.issue(&key.csr().unwrap(), &request, SystemTime::now()).unwrap()
}

fn credentials(authority: &Authority, identity: &SpiffeId) -> Credentials {
    let roots = TrustBundle::new([(domain(), authority.roots().to_vec())]).unwrap();
    let credentials = Credentials::new(identity.clone(), Arc::new(roots));
    credentials.install(svid(authority, identity));
    credentials
}

fn pin(authority: &Authority) -> RootPin {
    RootPin::of(&authority.roots()[0])
}

type Called = Result<Secured<DuplexStream>, HandshakeError>;
type Answered = Result<Secured<DuplexStream, Option<Peer>>, HandshakeError>;

async fn meet(calling: &Credentials, answering: &Credentials) -> (Called, Answered) {
    let (here, there) = tokio::io::duplex(64 * 1024);
    tokio::join!(call(here, calling), answer(there, answering))
}

async fn meet_pinned(pins: Vec<RootPin>, answering: &Credentials) -> (Called, Answered) {
    let (here, there) = tokio::io::duplex(64 * 1024);
    let domain = domain();
    tokio::join!(call_pinned(here, &domain, pins), answer(there, answering))
}

fn problem<T>(outcome: Result<T, HandshakeError>) -> PeerProblem {
    match outcome {
        Err(HandshakeError::Peer(problem)) => problem,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("believed"),
    }
}

#[tokio::test]
async fn a_node_and_its_controller_know_each_other() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let own = credentials(&authority, &node("one"));
    let (here, there) = meet(&own, &credentials(&authority, &controller())).await;
    let (mut here, mut there) = (here.unwrap(), there.unwrap());
    assert_eq!(here.peer().identity(), &controller());
    let known = there.peer().as_ref().unwrap();
    assert_eq!(Part::of(known.identity()), Some(Part::Node("one".parse().unwrap())));
    assert_eq!(here.facts().version, "TLSv1.3");
    assert_eq!(here.facts().key_exchange, "X25519MLKEM768");
    here.write_all(b"hello").await.unwrap();
    here.flush().await.unwrap();
    let mut word = [0; 5];
    there.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"hello");
}

#[tokio::test]
async fn the_key_of_a_node_is_that_of_its_request() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let server = credentials(&authority, &controller());
    let (_, first) = meet(&credentials(&authority, &node("one")), &server).await;
    let (_, second) = meet(&credentials(&authority, &node("one")), &server).await;
    let (first, second) = (first.unwrap(), second.unwrap());
    let key = |met: &Secured<_, Option<Peer>>| met.peer().as_ref().unwrap().key().clone();
    assert_ne!(key(&first), key(&second), "two keys of one node are told apart");
}

#[tokio::test]
async fn a_controller_answers_nobody_but_nodes_of_its_trust_domain() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let server = credentials(&authority, &controller());
    for stranger in [web(), controller()] {
        let (_, there) = meet(&credentials(&authority, &stranger), &server).await;
        assert_eq!(problem(there), PeerProblem::NotAPart(stranger));
    }
    let foreign = Authority::ephemeral(&domain()).unwrap();
    let own = credentials(&foreign, &node("one"));
    own.set_trust(server.trust());
    let (_, there) = meet(&own, &server).await;
    assert!(matches!(problem(there), PeerProblem::Chain(_)));
}

#[tokio::test]
async fn nodes_of_a_federated_domain_are_not_answered() {
    let (authority, other) = (
        Authority::ephemeral(&domain()).unwrap(),
        Authority::ephemeral(&"other.example".parse().unwrap()).unwrap(),
    );
    let theirs = other.trust_domain().clone();
    let server = credentials(&authority, &controller());
    let roots = [(domain(), authority.roots().to_vec()), (theirs.clone(), other.roots().to_vec())];
    let both = Arc::new(TrustBundle::new(roots).unwrap());
    server.set_trust(both.clone());
    let stranger = Part::Node("one".parse().unwrap()).identity(&theirs);
    // It calls as if it were one of ours, or it would not call at all.
    let own = Credentials::new(node("one"), both);
    own.install(svid(&other, &stranger));
    let (_, there) = meet(&own, &server).await;
    assert_eq!(problem(there), PeerProblem::NotAPart(stranger));
}

#[tokio::test]
async fn a_node_calls_nobody_but_its_controller() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let own = credentials(&authority, &node("one"));
    for stranger in [web(), node("two")] {
        let (here, _) = meet(&own, &credentials(&authority, &stranger)).await;
        assert_eq!(problem(here), PeerProblem::NotAPart(stranger));
    }
    let foreign = Authority::ephemeral(&domain()).unwrap();
    let (here, _) = meet(&own, &credentials(&foreign, &controller())).await;
    assert!(matches!(problem(here), PeerProblem::Chain(_)));
}

#[tokio::test]
async fn who_wants_to_join_knows_the_controller_by_its_root() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let server = credentials(&authority, &controller());
    let other = RootPin::of(b"another root");
    let (here, there) = meet_pinned(vec![other.clone(), pin(&authority)], &server).await;
    assert_eq!(here.unwrap().peer().identity(), &controller());
    assert!(there.unwrap().peer().is_none(), "nobody");
    let (here, _) = meet_pinned(vec![other], &server).await;
    assert_eq!(problem(here), PeerProblem::NotPinned);
    let (here, _) = meet_pinned(Vec::new(), &server).await;
    assert_eq!(problem(here), PeerProblem::NotPinned);
}

#[tokio::test]
async fn a_pinned_root_vouches_for_nobody_but_the_controller_that_it_has_certified() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    for stranger in [web(), node("one")] {
        let (here, _) =
            meet_pinned(vec![pin(&authority)], &credentials(&authority, &stranger)).await;
        assert_eq!(problem(here), PeerProblem::NotAPart(stranger));
    }
    // The right root is shown, but another one has signed.
    let liar = credentials(&Authority::ephemeral(&domain()).unwrap(), &controller());
    let key = SigningKey::generate().unwrap();
    let impostor = Authority::ephemeral(&domain()).unwrap();
    let Chain(mut chain) = chain(&impostor, &key, &controller());
    chain.extend(authority.roots().iter().cloned());
    liar.install(Svid::new(&key, Chain(chain), &controller()).unwrap());
    let (here, _) = meet_pinned(vec![pin(&authority)], &liar).await;
    assert!(matches!(problem(here), PeerProblem::Chain(_)));
}

#[tokio::test]
async fn lanes_are_between_workloads_only() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let workload = credentials(&authority, &web());
    for part in [controller(), node("one")] {
        let own = credentials(&authority, &part);
        let (here, there) = tokio::io::duplex(64 * 1024);
        let expected = web();
        let (_, callee) =
            tokio::join!(originate(here, &own, &expected), terminate(there, &workload));
        let refused = callee.unwrap_err();
        assert_eq!(refused.closed(), Closed::PeerIdentityInvalid);
        assert_eq!(problem::<()>(Err(refused)), PeerProblem::Reserved(part.clone()));
        // Nor is one called, even if a route should lead there.
        let (here, there) = tokio::io::duplex(64 * 1024);
        let (caller, _) = tokio::join!(originate(here, &workload, &part), terminate(there, &own));
        assert_eq!(problem(caller), PeerProblem::Reserved(part));
    }
}

#[tokio::test]
async fn the_control_plane_and_lanes_do_not_understand_each_other() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let (own, server) =
        (credentials(&authority, &node("one")), credentials(&authority, &controller()));
    let (here, there) = tokio::io::duplex(64 * 1024);
    let (called, terminated) = tokio::join!(call(here, &own), terminate(there, &server));
    assert!(called.is_err());
    assert!(matches!(terminated, Err(HandshakeError::NoProtocol)));
}
