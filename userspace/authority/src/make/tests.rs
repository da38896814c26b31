//! A process that dies while an issuer is installed.

use tempfile::TempDir;

use super::*;
use crate::cut;

#[test]
fn a_death_while_installing_leaves_the_old_issuer_or_the_new() {
    let (domain, now) = ("a.org".parse().unwrap(), SystemTime::now());
    let mut seen = Vec::new();
    for steps in 0.. {
        let place = TempDir::new().unwrap();
        let (vault, online) = (place.path().join("vault"), place.path().join("online"));
        Authority::init(&vault, &domain).unwrap();
        let root = NewRoot::from_files(&vault.join("root.crt"), None).unwrap();
        Authority::init_below(&online, &domain, root, now).unwrap();
        let next = || {
            let csr = Authority::request(&online, &domain).unwrap();
            sign_issuer(&vault, &domain, csr.as_bytes(), now).unwrap()
        };
        Authority::install(&online, &domain, next().as_bytes(), false, now).unwrap();
        let old = Authority::load(&online, &domain).unwrap();
        let certificate = next();
        let install =
            || drop(Authority::install(&online, &domain, certificate.as_bytes(), false, now));
        let died = cut::after(steps, install);
        // Whoever only reads finds one that is whole, and so does whoever goes on.
        let found = Authority::load(&online, &domain).unwrap();
        let is_new = found.issuer() != old.issuer();
        seen.push(is_new);
        if !is_new {
            Authority::install(&online, &domain, certificate.as_bytes(), false, now).unwrap();
        }
        Authority::install(&online, &domain, next().as_bytes(), false, now).unwrap();
        assert_ne!(Authority::load(&online, &domain).unwrap().issuer(), found.issuer());
        if !died {
            break;
        }
    }
    let new = seen.iter().position(|is_new| *is_new).unwrap();
    assert!(new >= 4 && seen.len() >= new + 3, "{seen:?}");
    assert!(seen[new..].iter().all(|is_new| *is_new), "{seen:?}");
}
