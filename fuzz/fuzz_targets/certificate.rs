//! Whatever bytes a peer presents as its certificate: they are read without a panic, and none is
//! believed. It starts from the leaves of `tests/corpus/certificates`.

#![no_main]

use std::{
    fs,
    path::Path,
    sync::{Arc, LazyLock},
    time::UNIX_EPOCH,
};

use libfuzzer_sys::fuzz_target;
use martlet_identity::{Chain, TrustBundle, describe, verify_chain};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus/certificates");
const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/certificate");

/// Before libFuzzer reads its corpus. Each file's leaf, without the rest of the chain: so even the
/// good ones are not believed.
fn plant_seeds() {
    for entry in fs::read_dir(Path::new(CORPUS).join("cases")).expect("the corpus is there") {
        let path = entry.expect("the corpus can be listed").path();
        let leaf = CertificateDer::from_pem_file(&path).expect("the corpus is PEM");
        let name = path.file_stem().expect("files have names");
        fs::write(Path::new(SEEDS).join(name), leaf).expect("seeds can be written");
    }
}

static TRUST: LazyLock<Arc<TrustBundle>> = LazyLock::new(|| {
    let root = Path::new(CORPUS).join("trust/usual/partner.example.pem");
    let root = CertificateDer::from_pem_file(root).expect("the root is PEM").to_vec();
    // Of another root than the leaves that were signed by one without an issuer between.
    let domain = "prod.example".parse().expect("a trust domain");
    Arc::new(TrustBundle::new([(domain, vec![root])]).expect("a root"))
});

fuzz_target!(init: plant_seeds(), |bytes: &[u8]| {
    let _ = describe(bytes);
    assert!(verify_chain(&Chain(vec![bytes.to_vec()]), TRUST.clone(), UNIX_EPOCH).is_err());
});
