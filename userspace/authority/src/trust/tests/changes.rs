//! Other domains, and who is cut off.

use martlet_model::Quarantine;

use super::*;

fn foreign(sequence: Option<u64>) -> Foreign {
    let other = Authority::ephemeral(&"other.example".parse().unwrap()).unwrap();
    Foreign {
        roots: other.roots().to_vec(),
        sequence,
        refresh_hint: Some(Duration::from_secs(300)),
        fetched: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000),
        source: "https://other.example/bundle".to_owned(),
    }
}

fn opened() -> (TempDir, Store, SystemTime) {
    let (directory, now) = (TempDir::new().unwrap(), SystemTime::now());
    let store = Store::open(directory.path(), &domain(), now).unwrap();
    (directory, store, now)
}

fn other() -> TrustDomain {
    "other.example".parse().unwrap()
}

#[test]
fn another_domain_is_trusted_until_it_is_removed() {
    let (directory, mut store, now) = opened();
    let (first, bundle) = (store.trust().version, foreign(Some(7)));
    store.import(&other(), &bundle, now).unwrap();
    let second = store.trust();
    assert!(second.version > first);
    assert_eq!(second.roots[&other()], bundle.roots);
    drop(store);
    let mut store = Store::open(directory.path(), &domain(), now).unwrap();
    assert_eq!(store.trust(), second, "it survives a restart");
    assert_eq!(store.foreign()[&other()], bundle);
    store.remove(&other(), now).unwrap();
    assert!(store.trust().version > second.version);
    assert!(!store.trust().roots.contains_key(&other()));
    assert!(matches!(store.remove(&other(), now), Err(TrustError::NotTrusted(_))));
}

#[test]
fn what_is_fetched_again_and_is_the_same_is_no_news() {
    let (_directory, mut store, now) = opened();
    let bundle = foreign(Some(7));
    store.import(&other(), &bundle, now).unwrap();
    let version = store.trust().version;
    let again = Foreign { fetched: bundle.fetched + TICK, ..bundle };
    store.import(&other(), &again, now).unwrap();
    assert_eq!((store.trust().version, &store.foreign()[&other()]), (version, &again));
}

#[test]
fn nobody_else_speaks_for_the_own_domain() {
    let (_directory, mut store, now) = opened();
    let before = store.trust();
    let own = store.import(&domain(), &foreign(None), now).unwrap_err();
    assert!(matches!(own, TrustError::OwnDomain(_)));
    // Whoever has the key of one of our roots could sign for us.
    let mut with_ours = foreign(None);
    with_ours.roots.extend(before.roots[&domain()].clone());
    let refused = store.import(&other(), &with_ours, now).unwrap_err().to_string();
    assert!(refused.contains("key of a root of our own domain"), "{refused}");
    assert_eq!(store.trust(), before);
}

#[test]
fn nobody_else_speaks_for_another_domain_either() {
    let (_directory, mut store, now) = opened();
    let theirs = foreign(None);
    store.import(&other(), &theirs, now).unwrap();
    let before = store.trust();
    let third: TrustDomain = "third.example".parse().unwrap();
    let mut with_theirs = foreign(None);
    with_theirs.roots.extend(theirs.roots.clone());
    for taken in [store.import(&third, &with_theirs, now), store.refresh(&third, &with_theirs, now)]
    {
        let refused = taken.unwrap_err().to_string();
        assert!(refused.contains("key of a root of other.example"), "{refused}");
    }
    assert_eq!(store.trust(), before);
    store.refresh(&other(), &theirs, now).unwrap();
    assert_eq!(store.trust(), before, "its own roots are no other's");
}

#[test]
fn what_was_removed_by_hand_no_endpoint_brings_back() {
    let (directory, mut store, now) = opened();
    let bundle = foreign(Some(7));
    store.refresh(&other(), &bundle, now).unwrap();
    assert!(store.trust().roots.contains_key(&other()));
    store.remove(&other(), now).unwrap();
    let newer = Foreign { sequence: Some(8), ..bundle.clone() };
    drop(store);
    let mut store = Store::open(directory.path(), &domain(), now).unwrap();
    let before = store.trust();
    let refused = store.refresh(&other(), &newer, now);
    assert!(matches!(refused, Err(TrustError::Removed(_))) && store.is_removed(&other()));
    assert_eq!(store.trust(), before);
    store.import(&other(), &bundle, now).unwrap();
    store.refresh(&other(), &newer, now).unwrap();
    assert_eq!(store.foreign()[&other()].sequence, Some(8));
}

#[test]
fn our_new_root_is_nobody_elses() {
    let (directory, mut store, now) = opened();
    let place = TempDir::new().unwrap();
    Authority::init(place.path(), &other()).unwrap();
    let roots = Authority::load(place.path(), &other()).unwrap().roots().to_vec();
    store.import(&other(), &Foreign { roots, ..foreign(None) }, now).unwrap();
    let before = store.trust();
    let at = |name: &str| place.path().join(name);
    let brought = || NewRoot::from_files(&at("root.crt"), Some(&at("root.key"))).unwrap();
    let refused = store.rotate(brought(), None, &[], now).unwrap_err().to_string();
    assert!(refused.contains("other.example"), "{refused}");
    assert_eq!(store.trust(), before);
    drop(store);
    let mut store = Store::open(directory.path(), &domain(), now).unwrap();
    store.remove(&other(), now).unwrap();
    store.rotate(brought(), None, &[], now).unwrap();
    let refused = store.rotate(NewRoot::Made, None, &[], now).unwrap_err();
    assert!(matches!(refused, TrustError::Rotating));
}

#[test]
fn an_older_bundle_or_another_one_with_the_same_number_is_refused() {
    let (_directory, mut store, now) = opened();
    store.import(&other(), &foreign(Some(7)), now).unwrap();
    let before = store.trust();
    for (sequence, wanted) in [
        (Some(6), Err("number 7 is known already")),
        (Some(7), Err("another one")),
        (None, Err("no number")),
        (Some(8), Ok(())),
    ] {
        let imported = store.import(&other(), &foreign(sequence), now);
        match wanted {
            Ok(()) => imported.unwrap(),
            Err(why) => {
                let refused = imported.unwrap_err().to_string();
                assert!(refused.contains(why), "{refused}");
                assert_eq!(store.trust(), before);
            }
        }
    }
}

#[test]
fn a_bundle_without_readable_roots_is_refused() {
    let (_directory, mut store, now) = opened();
    for roots in
        [vec![], vec![vec![]], vec![b"nonsense".to_vec()], vec![foreign(None).roots[0].clone(); 33]]
    {
        let refused = store.import(&other(), &Foreign { roots, ..foreign(None) }, now);
        assert!(matches!(refused, Err(TrustError::Bundle { .. })));
    }
    assert!(store.foreign().is_empty());
}

#[test]
fn who_is_cut_off_stays_so_until_released() {
    let (directory, mut store, now) = opened();
    let whom: Vec<Quarantine> = [
        "cluster/other.example",
        "node/prod.example/worker-1",
        "workload/prod.example/shop/cart-0",
        "identity/spiffe://prod.example/ns/shop/sa/cart",
    ]
    .map(|text| text.parse().unwrap())
    .into();
    for whom in &whom {
        let before = store.trust().version;
        store.quarantine(whom.clone(), "it was stolen", now).unwrap();
        assert!(store.trust().version > before && store.trust().quarantines.contains(whom));
        let after = store.trust();
        store.quarantine(whom.clone(), "again", now).unwrap();
        assert_eq!(store.trust(), after);
    }
    drop(store);
    let mut store = Store::open(directory.path(), &domain(), now).unwrap();
    assert_eq!(store.trust().quarantines.len(), 4);
    let report = store.report(&[], now).unwrap();
    assert!(report.quarantines.iter().all(|report| report.reason == "it was stolen"));
    for whom in &whom {
        store.release(whom, now).unwrap();
        assert!(!store.trust().quarantines.contains(whom));
        assert!(matches!(store.release(whom, now), Err(TrustError::NotCutOff(_))));
    }
    let everybody = "cluster/prod.example".parse().unwrap();
    assert!(matches!(store.quarantine(everybody, "", now), Err(TrustError::Everybody(_))));
    let long = "ü".repeat(1000);
    store.quarantine(whom[0].clone(), &long, now).unwrap();
    assert_eq!(store.report(&[], now).unwrap().quarantines[0].reason.len(), 256);
}

#[test]
fn versions_never_go_back_also_with_an_old_copy_of_the_file() {
    let (directory, mut store, now) = opened();
    let path = directory.path().join("trust.json");
    let copy = std::fs::read(&path).unwrap();
    let whom: Quarantine = "cluster/other.example".parse().unwrap();
    for _ in 0..50 {
        store.quarantine(whom.clone(), "", now).unwrap();
        store.release(&whom, now).unwrap();
    }
    let last = store.trust().version;
    drop(store);
    std::fs::write(&path, copy).unwrap();
    let later = now + Duration::from_secs(3600);
    let mut store = Store::open(directory.path(), &domain(), later).unwrap();
    store.quarantine(whom, "", later).unwrap();
    assert!(store.trust().version > last);
}

#[test]
fn a_copy_that_was_put_back_goes_above_what_nodes_know_and_believes_no_version_of_the_future() {
    let mut lab = Lab::new();
    lab.tick();
    let path = lab.directory.path().join("trust.json");
    let copy = std::fs::read(&path).unwrap();
    let now = lab.now;
    lab.store().quarantine("cluster/b.org".parse().unwrap(), "", now).unwrap();
    (0..3).for_each(|of| lab.sync(of));
    let known = lab.store().trust().version;
    lab.store = None;
    std::fs::write(&path, copy).unwrap();
    lab.restart();
    assert!(lab.store().trust().version < known);
    assert!(lab.tick());
    let raised = lab.store().trust().version;
    assert!(raised > known);
    lab.nodes[0].said.trust_version = u64::MAX;
    assert!(!lab.tick());
    assert_eq!(lab.store().trust().version, raised);
}

#[test]
fn a_state_that_cannot_be_read_is_not_begun_anew() {
    let (directory, store, now) = opened();
    drop(store);
    let path = directory.path().join("trust.json");
    let good = std::fs::read_to_string(&path).unwrap();
    for bad in
        ["", "{", "{}", &good.replace("\"format\": 1", "\"format\": 2"), &good[..good.len() / 2]]
    {
        std::fs::write(&path, bad).unwrap();
        let refused = Store::open(directory.path(), &domain(), now).err().unwrap().to_string();
        assert!(refused.contains("trust.json"), "{refused}");
    }
    std::fs::write(&path, good).unwrap();
    let store = Store::open(directory.path(), &domain(), now).unwrap();
    let second = Store::open(directory.path(), &domain(), now).err().unwrap().to_string();
    assert!(second.contains("another process has it"), "{second}");
    drop(store);
}

#[test]
fn a_state_that_is_missing_is_not_begun_anew_where_a_root_was_rotated() {
    let mut lab = Lab::new();
    lab.tick();
    lab.rotate();
    lab.run();
    lab.store = None;
    let path = lab.directory.path().join("trust.json");
    let good = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let refused = Store::open(lab.directory.path(), &domain(), lab.now).err().unwrap().to_string();
    assert!(refused.contains("restore it"), "{refused}");
    std::fs::write(&path, good).unwrap();
    lab.restart();
    lab.all_believe_each_other();
}

#[test]
fn a_root_that_cannot_be_read_is_not_retired_and_its_connections_are_not_forgotten() {
    let mut lab = Lab::new();
    lab.tick();
    lab.rotate();
    (0..3).for_each(|of| lab.sync(of));
    assert!(lab.tick());
    for _ in 0..2 {
        (0..3).for_each(|of| lab.sync(of));
        (0..3).for_each(|of| lab.dial(of));
    }
    (0..3).for_each(|of| lab.sync(of));
    let path = lab.directory.path().join("generations/1/root.crt");
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, "nonsense").unwrap();
    assert!(!lab.tick());
    assert!(lab.obstacles().contains(&Obstacle::Unreadable));
    std::fs::write(&path, good).unwrap();
    assert!(lab.tick());
    assert_eq!((lab.step(), lab.lost), (None, 0));
}

#[test]
fn the_report_says_who_has_what() {
    let mut lab = Lab::new();
    lab.tick();
    lab.rotate();
    lab.sync(0);
    lab.nodes[1].said.leaves.insert("unheard of".to_owned(), 3);
    let (said, now) = (lab.said(), lab.now);
    let store = lab.store();
    store.import(&other(), &foreign(Some(1)), now).unwrap();
    let report = store.report(&said, now).unwrap();
    let rotation = report.rotation.unwrap();
    assert_eq!(rotation.waits_for.len(), 3, "{:?}", rotation.waits_for);
    assert_eq!((report.roots.len(), report.roots[0].leaves), (2, 3));
    assert_eq!((report.roots[0].connections, report.roots[1].connections), (6, 0));
    assert_eq!((report.issuers.len(), report.issuers[0].leaves), (1, 3));
    assert_eq!(report.leaves_of_unknown_issuers, 3);
    assert_eq!(report.nodes.len(), 3);
    assert!(report.foreign[0].is_stale && report.foreign[0].sequence == Some(1));
}
