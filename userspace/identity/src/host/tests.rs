//! Hosts that are believed, and those that are not.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};

use super::*;
use crate::SigningKey;

struct Owner(CertifiedIssuer<'static, KeyPair>);

impl Owner {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.distinguished_name.push(DnType::CommonName, "hosts");
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    fn authorities(&self, domain: Option<&str>) -> HostAuthorities {
        HostAuthorities::from_pem(self.0.pem().as_bytes(), domain).unwrap()
    }

    fn host(&self, names: &[&str]) -> HostCertificate {
        self.host_with(names, &PKCS_ECDSA_P256_SHA256, |_| {})
    }

    fn host_with(
        &self,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> HostCertificate {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        change(&mut parameters);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = parameters.signed_by(&key, &*self.0).unwrap();
        let (chain, key) = (certificate.pem(), key.serialize_pem());
        HostCertificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
    }
}

fn node(name: &str) -> Label {
    name.parse().unwrap()
}

fn csr() -> Csr {
    SigningKey::generate().unwrap().csr().unwrap()
}

fn judged(owner: &HostAuthorities, host: &HostCertificate) -> Result<(), String> {
    let csr = csr();
    let vouched = host.vouch(&node("one"), &csr).unwrap();
    let judged = owner.check(&vouched, &node("one"), &csr, SystemTime::now());
    judged.map_err(|problem| problem.to_string())
}

#[test]
fn a_host_vouches_for_the_node_of_its_name_with_any_usual_key() {
    let owner = Owner::new();
    for by in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let host = owner.host_with(&["other.example", "ONE"], by, |_| {});
        assert_eq!(judged(&owner.authorities(None), &host), Ok(()), "{by:?}");
    }
    let host = owner.host(&["one.nodes.example"]);
    assert_eq!(judged(&owner.authorities(Some("nodes.example")), &host), Ok(()));
}

#[test]
fn a_host_of_another_name_vouches_for_nobody_here() {
    let owner = Owner::new();
    for (names, domain) in [
        (&["two"][..], None),
        (&[], None),
        (&["*.nodes.example"], Some("nodes.example")),
        (&["one"], Some("nodes.example")),
        (&["one.nodes.example"], None),
        (&["one.nodes.example.org"], Some("nodes.example")),
        (&["none.nodes.example"], Some("nodes.example")),
    ] {
        let why = judged(&owner.authorities(domain), &owner.host(names)).unwrap_err();
        assert!(why.contains("not for one"), "{names:?}: {why}");
    }
}

#[test]
fn who_is_not_certified_by_the_owner_or_not_now_or_for_something_else_is_no_host() {
    let (owner, stranger) = (Owner::new(), Owner::new());
    let refused = |host: HostCertificate, expected: &str| {
        let why = judged(&owner.authorities(None), &host).unwrap_err();
        assert!(why.contains(expected), "{expected}: {why}");
    };
    refused(stranger.host(&["one"]), "InvalidSignature");
    let by = &PKCS_ECDSA_P256_SHA256;
    let over = |parameters: &mut CertificateParams| {
        parameters.not_after = (SystemTime::now() - Duration::from_secs(60)).into();
    };
    refused(owner.host_with(&["one"], by, over), "CertExpired");
    let servers = |parameters: &mut CertificateParams| {
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    refused(owner.host_with(&["one"], by, servers), "RequiredEkuNotFound");
    let authority = |parameters: &mut CertificateParams| {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    };
    refused(owner.host_with(&["one"], by, authority), "CaUsedAsEndEntity");
}

#[test]
fn a_hosts_word_is_good_for_one_key_of_one_node() {
    let owner = Owner::new();
    let authorities = owner.authorities(None);
    let (host, csr, now) = (owner.host(&["one", "two"]), csr(), SystemTime::now());
    let vouched = host.vouch(&node("one"), &csr).unwrap();
    authorities.check(&vouched, &node("one"), &csr, now).unwrap();
    let refused = |vouched: &Vouched, node: &Label, csr: &Csr| {
        let judged = authorities.check(vouched, node, csr, now);
        assert!(matches!(judged, Err(HostProblem::Signature)), "{judged:?}");
    };
    refused(&vouched, &node("two"), &csr);
    refused(&vouched, &node("one"), &super::tests::csr());
    refused(&Vouched { signature: vec![], ..vouched.clone() }, &node("one"), &csr);
    refused(&Vouched { scheme: 0x0401, ..vouched.clone() }, &node("one"), &csr);
    // Of another host of the same name, whose key it is not.
    let chain = owner.host(&["one"]).vouch(&node("one"), &csr).unwrap().chain;
    refused(&Vouched { chain, ..vouched }, &node("one"), &csr);
}

#[test]
fn files_that_are_no_host_certificate_are_refused() {
    let key = KeyPair::generate().unwrap().serialize_pem();
    let owner = Owner::new();
    let (chain, key) = (owner.0.pem(), key.as_bytes());
    let refused = HostCertificate::from_pem(chain.as_bytes(), key);
    assert!(matches!(refused, Err(HostProblem::WrongKey)), "{refused:?}");
    assert!(matches!(HostCertificate::from_pem(b"", key), Err(HostProblem::Empty)));
    let refused = HostCertificate::from_pem(chain.as_bytes(), b"no key");
    assert!(matches!(refused, Err(HostProblem::Unreadable(_))), "{refused:?}");
    assert!(matches!(HostAuthorities::from_pem(b"", None), Err(HostProblem::Empty)));
}
