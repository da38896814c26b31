//! The corpus of certificates (`tests/corpus/certificates`), presented to both sides in real
//! handshakes by a plain rustls peer that sends what it is told to and believes everything.

#![allow(clippy::unwrap_used)]

mod mutations;
mod openssl;
mod plain;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use martlet_identity::{
    Credentials, HandshakeError, Secured, TrustBundle, originate_at, terminate_at,
};
use martlet_model::{SpiffeId, TrustDomain};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};

#[derive(Deserialize)]
struct Manifest {
    /// Whom the calling side expects.
    expected: SpiffeId,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    made: String,
    key: String,
    trust: String,
    /// Seconds since 1970.
    now: u64,
    originate: Outcome,
    terminate: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
enum Outcome {
    Refused { closed: String, reason: String },
    Accepted(Accepted),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Accepted {
    Accepted,
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/certificates")
}

fn manifest() -> Manifest {
    serde_json::from_slice(&fs::read(corpus().join("manifest.json")).unwrap()).unwrap()
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
}

fn names(directory: &Path) -> BTreeSet<String> {
    let name = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
    fs::read_dir(directory).unwrap().map(|entry| name(entry.unwrap())).collect()
}

impl Case {
    fn trust(&self) -> Arc<TrustBundle> {
        let directory = corpus().join("trust").join(&self.trust);
        let roots = names_of_domains(&directory).into_iter().map(|(domain, path)| {
            (domain, certificates(&path).iter().map(|der| der.to_vec()).collect())
        });
        Arc::new(TrustBundle::new(roots).unwrap())
    }

    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.now)
    }

    fn presented(&self) -> CertifiedKey {
        let chain = certificates(&corpus().join("cases").join(&self.id).with_extension("pem"));
        let key = corpus().join("keys").join(&self.key).with_extension("pem");
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        CertifiedKey::new(chain, plain::signer(&key))
    }
}

fn names_of_domains(directory: &Path) -> BTreeMap<TrustDomain, PathBuf> {
    let path = |entry: fs::DirEntry| {
        (entry.path().file_stem().unwrap().to_str().unwrap().parse().unwrap(), entry.path())
    };
    fs::read_dir(directory).unwrap().map(|entry| path(entry.unwrap())).collect()
}

/// What the plain peer got from us after the handshake.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<u8> {
    let (mut got, _) = (Vec::new(), stream.write_all(b"payload").await);
    let _ = stream.flush().await;
    let _ = stream.read_to_end(&mut got).await;
    got
}

/// What became of our side's handshake: for an accepted peer, bytes go both ways.
async fn judged(result: Result<Secured<DuplexStream>, HandshakeError>) -> Outcome {
    match result {
        Ok(mut stream) => {
            let mut got = [0; 7];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"payload");
            stream.write_all(b"answer").await.unwrap();
            stream.shutdown().await.unwrap();
            Outcome::Accepted(Accepted::Accepted)
        }
        Err(error) => {
            let mut deepest: &dyn Error = &error;
            while let Some(source) = deepest.source() {
                deepest = source;
            }
            let (closed, reason) = (error.closed().to_string(), deepest.to_string());
            Outcome::Refused { closed, reason }
        }
    }
}

async fn called_by(case: &Case, own: &Credentials) -> (Outcome, Vec<u8>) {
    let (here, there) = tokio::io::duplex(64 * 1024);
    let peer = async {
        match plain::connect(there, case.presented()).await {
            Ok(stream) => talk(stream).await,
            Err(_) => Vec::new(),
        }
    };
    let ours = async { judged(terminate_at(here, own, case.now()).await).await };
    tokio::join!(ours, peer)
}

async fn calling(case: &Case, own: &Credentials, expected: &SpiffeId) -> (Outcome, Vec<u8>) {
    let (here, there) = tokio::io::duplex(64 * 1024);
    let peer = async {
        match plain::accept(there, case.presented()).await {
            Ok(stream) => talk(stream).await,
            Err(_) => Vec::new(),
        }
    };
    let ours = async { judged(originate_at(here, own, expected, case.now()).await).await };
    tokio::join!(ours, peer)
}

fn complaint(
    case: &Case,
    side: &str,
    expected: &Outcome,
    found: (Outcome, Vec<u8>),
) -> Option<String> {
    let (outcome, got) = found;
    let answer: &[u8] = if matches!(expected, Outcome::Accepted(_)) { b"answer" } else { b"" };
    let right = outcome == *expected && got == answer;
    let Case { id, made, .. } = case;
    (!right).then(|| format!("{id} ({made}), {side}: {outcome:?}, {got:?}, not {expected:?}"))
}

#[tokio::test]
async fn every_certificate_of_the_corpus_is_judged_as_the_manifest_says_by_both_sides() {
    let manifest = manifest();
    let (mut complaints, mut refused, mut accepted) = (Vec::new(), 0, 0);
    for case in &manifest.cases {
        let own = plain::credentials(case.trust(), case.now());
        let expected = &manifest.expected;
        // The second time, what was accepted is known already.
        for (called, calls) in [("called", "calling"), ("called again", "calling again")] {
            let found = called_by(case, &own).await;
            complaints.extend(complaint(case, called, &case.terminate, found));
            let found = calling(case, &own, expected).await;
            complaints.extend(complaint(case, calls, &case.originate, found));
        }
        for outcome in [&case.originate, &case.terminate] {
            match outcome {
                Outcome::Refused { .. } => refused += 1,
                Outcome::Accepted(_) => accepted += 1,
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(refused >= 250 && accepted >= 50, "{refused} {accepted}");
    martlet_lab::evidence(
        "every_certificate_of_the_corpus_is_judged_as_the_manifest_says_by_both_sides",
        &[
            ("chains", &manifest.cases.len()),
            ("handshakes refused", &refused),
            ("accepted", &accepted),
            ("judged wrongly", &complaints.len()),
        ],
    )
    .unwrap();
}

#[test]
fn only_an_authority_is_taken_for_a_root() {
    let domain: TrustDomain = "prod.example".parse().unwrap();
    let root = |case: &str, at: usize| {
        let path = corpus().join("cases").join(case).with_extension("pem");
        TrustBundle::new([(domain.clone(), vec![certificates(&path)[at].to_vec()])])
    };
    assert!(root("good-with-root", 2).is_ok());
    for (case, at) in [
        ("good", 0),
        ("issuer-without-constraints", 1),
        ("issuer-may-not-sign", 1),
        ("issuer-usage-missing", 1),
        ("issuer-version-1", 1),
        ("issuer-trailing-byte", 1),
        ("text", 0),
    ] {
        let refused = root(case, at).unwrap_err().to_string();
        assert!(
            refused.starts_with("a root certificate of prod.example cannot be used: "),
            "{case}"
        );
    }
}

#[test]
fn every_file_of_the_corpus_is_in_the_manifest() {
    let manifest = manifest();
    let named = |of: fn(&Case) -> &String| manifest.cases.iter().map(of).cloned().collect();
    assert_eq!(names(&corpus().join("cases")), named(|case| &case.id));
    assert_eq!(names(&corpus().join("trust")), named(|case| &case.trust));
    let keys: BTreeSet<_> = named(|case| &case.key);
    assert!(keys.is_subset(&names(&corpus().join("keys"))));
}
