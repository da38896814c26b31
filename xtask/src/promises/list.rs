//! What Martlet promises, what would count as kept, and the tests that show it.
//!
//! A test belongs here when it would fail if the promise were broken. What is still missing is said
//! beside the tests, so that nobody takes a part for the whole.

mod operation;
mod traffic;
mod trust;

use super::Promise;

/// By number.
pub fn promises() -> impl Iterator<Item = &'static Promise> {
    [traffic::PROMISES, trust::PROMISES, operation::PROMISES].into_iter().flatten()
}

const CERTIFICATES: &str = "userspace/agent/src/certificates/tests.rs";
const AUTHORITY: &str = "userspace/authority/tests/authority.rs";
const AUTHORITY_KEYS: &str = "userspace/authority/tests/keys.rs";
const REGISTRAR: &str = "userspace/authority/tests/registrar.rs";
const PLACES: &str = "userspace/controller/src/places.rs";
const ATTEST: &str = "userspace/kubernetes/src/attest.rs";
const LAPSES: &str = "userspace/dataplane/tests/lapses.rs";
const CORPUS: &str = "userspace/identity/tests/corpus/main.rs";
const MUTATIONS: &str = "userspace/identity/tests/corpus/mutations.rs";
const JUDGED_ELSEWHERE: &str = "userspace/identity/tests/corpus/openssl.rs";
const HANDSHAKES: &str = "userspace/identity/tests/handshakes.rs";
const SPIFFE: &str = "userspace/model/tests/spiffe/main.rs";
const STANDALONE: &str = "userspace/standalone/tests/refused.rs";
const KUBERNETES_POLICY: &str = "userspace/kubernetes/src/api/policy/tests.rs";
const KUBERNETES_WORLD: &str = "userspace/kubernetes/src/world/tests.rs";
const ADOPTION: &str = "tests/kernel/tests/adoption.rs";
const BOUNDS: &str = "tests/kernel/tests/bounds.rs";
const CHURN: &str = "tests/kernel/tests/churn.rs";
const CLUSTER: &str = "tests/kernel/tests/cluster.rs";
const CONNECTIONS: &str = "tests/kernel/tests/connections.rs";
const DETOURS: &str = "tests/kernel/tests/detours.rs";
const ENTRANCES: &str = "tests/kernel/tests/entrances.rs";
const ESCAPE: &str = "tests/kernel/tests/escape.rs";
const FAILING_OPEN: &str = "tests/kernel/tests/failing_open.rs";
const FAULT_CLAIMS: &str = "tests/kernel/tests/faults/claims.rs";
const FAULTS: &str = "tests/kernel/tests/faults/main.rs";
const FIRST: &str = "tests/kernel/tests/first.rs";
const GUARD: &str = "tests/kernel/tests/guard.rs";
const KEPT_KEYS: &str = "tests/kernel/tests/kept_keys.rs";
const KEYS: &str = "tests/kernel/tests/keys.rs";
const LIFE: &str = "tests/kernel/tests/life.rs";
const OUTAGE: &str = "tests/kernel/tests/outage.rs";
const PRIVILEGES: &str = "tests/kernel/tests/privileges.rs";
const PROBES: &str = "tests/kernel/tests/probes.rs";
const QUOTAS: &str = "tests/kernel/tests/quotas.rs";
const REDECLARED: &str = "tests/kernel/tests/redeclared.rs";
const REFUSALS: &str = "tests/kernel/tests/refusals.rs";
const REWRITTEN: &str = "tests/kernel/tests/rewritten.rs";
const ROTATION: &str = "tests/kernel/tests/rotation.rs";
const STEERING: &str = "tests/kernel/tests/steering.rs";
const STRICT: &str = "tests/kernel/tests/strict.rs";
const TAKEOVER: &str = "tests/kernel/tests/takeover/main.rs";
const TAKEOVER_CONTROLLER: &str = "tests/kernel/tests/takeover/controller.rs";
const TAKEOVER_DEATHS: &str = "tests/kernel/tests/takeover/deaths.rs";
const TAKEOVER_PLUGIN: &str = "tests/kernel/tests/takeover/plugin.rs";
const TAMPERING: &str = "tests/kernel/tests/tampering.rs";
const UNDECIDED: &str = "tests/kernel/tests/undecided.rs";
const UNINSTALL: &str = "tests/kernel/tests/uninstall.rs";
const UNITS: &str = "tests/kernel/tests/units.rs";
const WIRE: &str = "tests/kernel/tests/wire.rs";
const KUBERNETES_CHURN: &str = "tests/kubernetes/tests/churn.rs";
const KUBERNETES_CNI: &str = "tests/kubernetes/tests/cni.rs";
const KUBERNETES_INSTALL: &str = "tests/kubernetes/tests/install.rs";
const KUBERNETES_LIFE: &str = "tests/kubernetes/tests/life.rs";
const KUBERNETES_MESH: &str = "tests/kubernetes/tests/mesh.rs";
const WORKLOAD_API: &str = "tests/kernel/tests/workload_api.rs";
