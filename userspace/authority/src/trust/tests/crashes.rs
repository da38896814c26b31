//! The controller dies before every system call that changes a file, and in the middle of each write.

use super::*;

/// Whatever is done, a controller that dies in it starts again with the state before or after, and
/// the rotation goes on from there.
fn dies_everywhere(name: &str, prepare: fn(&mut Lab), act: fn(&mut Store, &[Node], SystemTime)) {
    let mut points = 0;
    for steps in 0.. {
        let mut lab = Lab::new();
        prepare(&mut lab);
        let before = state(&lab);
        let (said, now) = (lab.said(), lab.now + TICK);
        let mut store = lab.store.take().unwrap();
        let died = cut::after(steps, || act(&mut store, &said, now));
        drop(store);
        lab.now = now;
        lab.store = Some(Store::open(lab.directory.path(), &domain(), lab.now).unwrap());
        let found = state(&lab);
        if !died {
            assert_ne!(found, before, "{name} does something");
            break;
        }
        assert!(found.0 >= before.0, "{name}, {steps}: the version went back");
        no_key_is_left_over(&lab);
        lab.all_believe_each_other();
        if lab.step().is_none() {
            lab.rotate();
        }
        lab.run();
        assert_eq!(lab.lost, 0, "{name}, {steps}");
        points += 1;
    }
    println!("{name}: died at {points} points");
    assert!(points >= 5, "{name}: {points} points");
}

fn state(lab: &Lab) -> (u64, Option<Step>, Vec<Vec<u8>>, Vec<u8>) {
    let store = lab.store.as_ref().unwrap();
    (store.trust().version, lab.step(), lab.own_roots(), store.authority().issuer().to_vec())
}

/// Keys are there for the generations that are used, and for no others.
fn no_key_is_left_over(lab: &Lab) {
    fn keys(at: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path());
        let count = |path: std::path::PathBuf| match path.is_dir() {
            true => keys(&path),
            false => usize::from(path.file_name().is_some_and(|name| name == "root.key")),
        };
        entries.map(count).sum()
    }
    let generations = 1 + usize::from(lab.step().is_some());
    assert_eq!(keys(lab.directory.path()), generations);
}

fn switched(lab: &mut Lab) {
    staged(lab);
    (0..3).for_each(|of| lab.sync(of));
    assert!(lab.tick());
}

fn staged(lab: &mut Lab) {
    lab.tick();
    lab.rotate();
}

fn everybody_is_ready(lab: &mut Lab) {
    (0..3).for_each(|of| lab.sync(of));
    (0..3).for_each(|of| lab.dial(of));
    (0..3).for_each(|of| lab.sync(of));
}

fn ticks(store: &mut Store, said: &[Node], now: SystemTime) {
    let _ = store.tick(said, now);
}

#[test]
fn a_death_while_staging_leaves_either_state() {
    let stage = |store: &mut Store, said: &[Node], now: SystemTime| {
        let _ = store.rotate(NewRoot::Made, None, said, now);
    };
    let prepare = |lab: &mut Lab| {
        lab.tick();
    };
    dies_everywhere("staging", prepare, stage);
}

#[test]
fn a_death_while_switching_leaves_either_state() {
    let prepare = |lab: &mut Lab| {
        staged(lab);
        everybody_is_ready(lab);
    };
    dies_everywhere("switching", prepare, ticks);
}

#[test]
fn a_death_while_retiring_leaves_either_state() {
    let prepare = |lab: &mut Lab| {
        switched(lab);
        everybody_is_ready(lab);
    };
    dies_everywhere("retiring", prepare, ticks);
}

#[test]
fn a_death_while_going_back_leaves_either_state() {
    let back = |store: &mut Store, _: &[Node], now: SystemTime| {
        let _ = store.back(now);
    };
    dies_everywhere("back from staged", staged, back);
    dies_everywhere("back from switched", switched, back);
}

#[test]
fn a_death_at_the_first_start_leaves_something_to_start_with() {
    for steps in 0.. {
        let directory = TempDir::new().unwrap();
        let now = SystemTime::now();
        let died = cut::after(steps, || drop(Store::open(directory.path(), &domain(), now)));
        let store = Store::open(directory.path(), &domain(), now).unwrap();
        assert_eq!(store.trust().roots[&domain()].len(), 1);
        let root = store.trust().roots.clone();
        drop(store);
        let again = Store::open(directory.path(), &domain(), now).unwrap();
        assert_eq!(again.trust().roots, root);
        if !died {
            assert!(steps > 10, "{steps}");
            break;
        }
    }
}

#[test]
fn the_authority_of_one_node_is_taken_over_where_it_is() {
    let directory = TempDir::new().unwrap();
    Authority::init(directory.path(), &domain()).unwrap();
    let flat = Authority::load(directory.path(), &domain()).unwrap();
    let now = SystemTime::now();
    let mut store = Store::open(directory.path(), &domain(), now).unwrap();
    assert_eq!(store.trust().roots[&domain()], flat.roots());
    store.rotate(NewRoot::Made, None, &[], now).unwrap();
    assert!(store.tick(&[], now + TICK).unwrap());
    assert!(directory.path().join("root.key").exists());
    assert!(store.tick(&[], now + TICK * 2).unwrap());
    for name in ["root.key", "root.crt", "issuer.key", "issuer.crt"] {
        assert!(!directory.path().join(name).exists(), "{name} is retired");
    }
    assert_ne!(store.trust().roots[&domain()], flat.roots());
}

/// Wherever it dies, whoever asks and installs again gets on.
#[test]
fn a_death_while_an_issuer_is_asked_for_or_installed_loses_nothing() {
    let vault = TempDir::new().unwrap();
    Authority::init(vault.path(), &domain()).unwrap();
    let root = || NewRoot::from_files(&vault.path().join("root.crt"), None).unwrap();
    let mut points = 0;
    for steps in 0.. {
        let mut lab = Lab::new();
        let (said, now) = (lab.said(), lab.now);
        lab.store().rotate(root(), None, &said, now).unwrap();
        let get = |store: &Store| {
            let request = store.request(None, now)?;
            let signed = crate::sign_issuer(vault.path(), &domain(), request.as_bytes(), now)?;
            store.install(None, signed.as_bytes(), false, now)
        };
        let store = lab.store.take().unwrap();
        let died = cut::after(steps, || drop(get(&store)));
        drop(store);
        lab.store = Some(Store::open(lab.directory.path(), &domain(), now).unwrap());
        assert_eq!(lab.step(), Some(Step::Staged));
        if lab.obstacles().contains(&Obstacle::NoIssuer) {
            get(lab.store()).unwrap();
        }
        lab.run();
        assert_eq!((lab.step(), lab.lost), (None, 0), "{steps}");
        if !died {
            break;
        }
        points += 1;
    }
    println!("asking and installing: died at {points} points");
    assert!(points >= 5, "{points} points");
}
