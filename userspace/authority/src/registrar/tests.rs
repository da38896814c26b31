//! A log that cannot be written.

use martlet_identity::SigningKey;
use tempfile::TempDir;

use super::*;
use crate::LEAF_LIFETIME;

struct Anybody;

impl Attestor for Anybody {
    async fn attest(&self, node: &Label, _: &WorkloadName) -> Result<Attested, Denied> {
        let identity = "spiffe://a.org/ns/shop/sa/cart".parse().unwrap();
        Ok(Attested { identity, node: node.clone(), uid: None })
    }
}

#[tokio::test]
async fn without_a_log_nothing_is_issued() {
    let (directory, now) = (TempDir::new().unwrap(), SystemTime::now());
    let authority = Authority::ephemeral(&"a.org".parse().unwrap()).unwrap();
    let node = "one".parse().unwrap();
    let (namespace, name) = ("shop".parse().unwrap(), "cart".parse().unwrap());
    let workload = WorkloadName { namespace, name };
    let csr = SigningKey::generate().unwrap().csr().unwrap();
    let ask = Ask { workload, csr: csr.clone() };
    for (is_full, wanted) in [(false, Ok(())), (true, Err(Refusal::CannotLog))] {
        let log = Log::open(directory.path(), now).unwrap();
        let log = if is_full { log.on_a_full_disk() } else { log };
        let registrar = Registrar::new(Anybody, log, LEAF_LIFETIME);
        let answers = registrar.issue(&authority, &node, vec![ask.clone(); 2], now).await;
        for answer in answers {
            assert_eq!(answer.map(|_| ()), wanted);
        }
        let answer =
            registrar.issue_part(&authority, &Part::Node("one".parse().unwrap()), &csr, now).await;
        assert_eq!(answer.map(|_| ()), wanted);
    }
}
