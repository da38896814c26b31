//! What was granted once is looked at again: permits, peers, and who a workload is.

#![allow(clippy::unwrap_used)]

mod world;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use martlet_authority::{Authority, LEAF_LIFETIME};
use martlet_dataplane::View;
use martlet_identity::{TrustBundle, originate};
use martlet_model::{Closed, Directory, Trust};
use martlet_policy::PolicySet;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::world::{
    World, closed, domain, greet, is_reset, read_all, set_policies, svid, until, warm, workload,
    world,
};

#[tokio::test]
async fn a_permit_that_lapses_ends_what_is_open_at_both_ends() {
    let mut world = world().await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    set_policies(&world.view_there, Arc::new(PolicySet::default()));
    set_policies(&world.view_there, closed());
    let ended = timeout(Duration::from_secs(5), async {
        is_reset(&mut caller).await;
        is_reset(&mut callee).await;
    });
    ended.await.expect("within five seconds");
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::PermitLapsed, Closed::PermitLapsed));
    assert_eq!(world.here.idle_lanes(), 0);
}

#[tokio::test]
async fn a_trust_domain_that_is_removed_loses_its_open_connections() {
    let mut world = world().await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    let nobody = TrustBundle::new([]).unwrap();
    world.web.credentials.set_trust(Arc::new(nobody));
    is_reset(&mut caller).await;
    is_reset(&mut callee).await;
    assert_eq!(world.record_there().await.closed, Closed::PeerWrongTrustDomain);
}

/// Of a world's roots, with somebody cut off.
fn without(world: &World, quarantine: &str) -> Arc<TrustBundle> {
    let roots = [(domain(), world.authority.roots().to_vec())].into();
    let quarantines = vec![quarantine.parse().unwrap()];
    let trust = Trust { version: 1, roots, quarantines, issuer: None };
    Arc::new(TrustBundle::of(&trust).unwrap())
}

#[tokio::test]
async fn who_is_cut_off_loses_what_is_open_and_gets_nothing_new() {
    for quarantine in [
        "cluster/prod.example",
        "node/prod.example/one",
        "workload/prod.example/shop/cart",
        "identity/spiffe://prod.example/ns/shop/sa/cart",
    ] {
        let mut world = world().await;
        let (mut caller, mut callee) = world.open().await;
        greet(&mut caller, &mut callee).await;
        world.web.credentials.set_trust(without(&world, quarantine));
        let ended = timeout(Duration::from_secs(5), async {
            is_reset(&mut caller).await;
            is_reset(&mut callee).await;
        });
        ended.await.expect("within five seconds");
        assert_eq!(world.record_there().await.closed, Closed::Quarantined, "{quarantine}");
        world.record_here().await;
        is_reset(&mut world.call().await).await;
        assert_eq!(world.record_there().await.closed, Closed::Quarantined, "{quarantine}");
    }
}

#[tokio::test]
async fn who_is_cut_off_is_refused_by_its_own_agent_too() {
    let mut world = world().await;
    let cut = without(&world, "workload/prod.example/shop/cart");
    world.cart.credentials.set_trust(cut);
    is_reset(&mut world.call().await).await;
    assert_eq!(world.record_here().await.closed, Closed::Quarantined);
}

#[tokio::test]
async fn nobody_else_is_cut_off() {
    for quarantine in [
        "cluster/other.example",
        "node/prod.example/two",
        "workload/prod.example/shop/till",
        "identity/spiffe://prod.example/ns/shop/sa/till",
    ] {
        let world = world().await;
        let (mut caller, mut callee) = world.open().await;
        let trust = without(&world, quarantine);
        world.web.credentials.set_trust(trust.clone());
        world.cart.credentials.set_trust(trust);
        let (mut another, mut answering) = world.open().await;
        greet(&mut another, &mut answering).await;
        greet(&mut caller, &mut callee).await;
    }
}

/// Both trust both roots, and cart is certified below the new one already: web is not yet.
#[tokio::test]
async fn a_lane_to_who_is_proven_by_a_root_that_goes_is_not_used_again() {
    let mut world = world().await;
    let coming = Authority::ephemeral(&domain()).unwrap();
    let roots = [world.authority.roots(), coming.roots()].concat();
    let both = Arc::new(TrustBundle::new([(domain(), roots)]).unwrap());
    for workload in [&world.cart, &world.web] {
        workload.credentials.set_trust(both.clone());
    }
    world.cart.credentials.install(svid(&coming, &world.cart.workload, LEAF_LIFETIME));
    for expected in [false, false] {
        let (mut caller, callee) = world.open().await;
        caller.shutdown().await.unwrap();
        drop(callee);
        read_all(&mut caller).await.unwrap();
        let (here, _) = world.records().await;
        assert_eq!(here.warm, expected);
    }
    world.web.credentials.install(svid(&coming, &world.web.workload, LEAF_LIFETIME));
    for expected in [false, true] {
        let (mut caller, callee) = world.open().await;
        caller.shutdown().await.unwrap();
        drop(callee);
        read_all(&mut caller).await.unwrap();
        let (here, _) = world.records().await;
        assert_eq!(here.warm, expected);
        until("the lane is idle", || world.here.idle_lanes() == 1).await;
    }
}

#[tokio::test]
async fn every_open_is_authorized_again() {
    let mut world = world().await;
    warm(&mut world).await;
    set_policies(&world.view_there, closed());
    is_reset(&mut world.call().await).await;
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::Denied, Closed::Denied));
    assert!(here.warm && there.warm, "over the lane that was allowed before");
    assert_eq!(world.here.idle_lanes(), 0);
}

#[tokio::test]
async fn what_was_permitted_before_a_change_and_comes_about_after_it_is_refused() {
    let mut world = world().await;
    let (mut open, mut callee) = world.open().await;
    greet(&mut open, &mut callee).await;
    let held = world.roads_there.barrier.clone().write_owned().await;
    let mut late = world.call().await;
    let from = Some(late.local_addr().unwrap());
    until("web is dialed", || *world.roads_there.shown.lock().unwrap() == from).await;
    set_policies(&world.view_there, closed());
    // Whoever looks at open connections has done so by now, and has not seen the late one.
    is_reset(&mut open).await;
    drop(held);
    is_reset(&mut late).await;
    for _ in 0..2 {
        assert_eq!(world.record_there().await.closed, Closed::PermitLapsed);
    }
}

#[tokio::test]
async fn our_own_change_of_policy_reaches_what_was_still_being_dialed() {
    let mut world = world().await;
    let (mut open, mut callee) = world.open().await;
    greet(&mut open, &mut callee).await;
    let held = world.roads_here.barrier.clone().write_owned().await;
    *world.roads_here.shown.lock().unwrap() = Some(world.gate);
    let mut late = world.call().await;
    until("the lane is dialed", || world.roads_here.shown.lock().unwrap().is_none()).await;
    set_policies(&world.view_here, closed());
    is_reset(&mut open).await;
    drop(held);
    is_reset(&mut late).await;
    for _ in 0..2 {
        assert_eq!(world.record_here().await.closed, Closed::PermitLapsed);
    }
}

#[tokio::test]
async fn a_lane_to_a_workload_that_has_left_carries_nothing_more() {
    let mut world = world().await;
    warm(&mut world).await;
    world.there.retire(&world.web);
    until("the callee closes the lane", || world.here.idle_lanes() == 0).await;
    is_reset(&mut world.call().await).await;
    assert_eq!(world.record_there().await.closed, Closed::Draining);
}

#[tokio::test]
async fn an_expired_peer_opens_nothing_more_over_its_lane() {
    let mut world = world().await;
    let brief = svid(&world.authority, &world.cart.workload, Duration::from_secs(2));
    let expires = brief.not_after();
    world.cart.credentials.install(brief);
    let transport = TcpStream::connect(world.gate).await.unwrap();
    let web = &world.web.workload.identity;
    let mut lane = originate(transport, &world.cart.credentials, web).await.unwrap();
    until("the certificate has expired", || expires < SystemTime::now()).await;
    lane.write_all(&[1, 0, 0, 10, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1]).await.unwrap();
    lane.flush().await.unwrap();
    assert_eq!(world.record_there().await.closed, Closed::PeerExpired);
}

#[tokio::test]
async fn our_own_expired_certificate_opens_nothing_more_and_is_blamed() {
    let mut world = world().await;
    let brief = svid(&world.authority, &world.cart.workload, Duration::from_secs(2));
    let expires = brief.not_after();
    world.cart.credentials.install(brief);
    warm(&mut world).await;
    until("the certificate has expired", || expires < SystemTime::now()).await;
    is_reset(&mut world.call().await).await;
    assert_eq!(world.record_here().await.closed, Closed::OwnCertificateExpired);
}

#[tokio::test]
async fn a_root_that_is_removed_takes_its_peers_along() {
    let mut world = world().await;
    warm(&mut world).await;
    let other = Authority::ephemeral(&domain()).unwrap();
    let trust = TrustBundle::new([(domain(), other.roots().to_vec())]).unwrap();
    world.web.credentials.set_trust(Arc::new(trust));
    is_reset(&mut world.call().await).await;
    assert_eq!(world.record_there().await.closed, Closed::PeerUntrusted);
}

#[tokio::test]
async fn a_root_that_is_removed_loses_its_open_connections() {
    let mut world = world().await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    let other = Authority::ephemeral(&domain()).unwrap();
    let trust = TrustBundle::new([(domain(), other.roots().to_vec())]).unwrap();
    world.web.credentials.set_trust(Arc::new(trust));
    is_reset(&mut caller).await;
    is_reset(&mut callee).await;
    assert_eq!(world.record_there().await.closed, Closed::PeerUntrusted);
}

#[tokio::test]
async fn a_workload_that_becomes_somebody_else_loses_its_open_connections() {
    let mut world = world().await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    let mut other = (*workload("other", "127.0.0.1")).clone();
    other.name = world.cart.workload.name.clone();
    let directory = Directory::new([Arc::new(other), world.web.workload.clone()], []).unwrap();
    let view = View { directory: Arc::new(directory), policies: Arc::default() };
    world.view_here.store(Arc::new(view));
    is_reset(&mut caller).await;
    is_reset(&mut callee).await;
    assert_eq!(world.record_here().await.closed, Closed::PermitLapsed);
}
