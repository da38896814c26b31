//! What is set for the whole mesh, as far as pods and their enrolment are concerned.

use std::sync::Arc;

use martlet_model::{Label, Udp};

use super::{Kind, Object, World};
use crate::{
    kept::Mesh,
    seen::{Problem, Wanted},
};

/// Its pods are what a cluster cannot begin without; only their labels enroll them.
const KUBE_SYSTEM: &str = "kube-system";

/// What is in effect for the whole mesh, and which of the objects that set it cannot be used.
#[derive(Debug, Clone, Default)]
pub struct Set {
    pub mesh: Arc<Mesh>,
    pub refused: Vec<(Object, Arc<str>, Problem)>,
}

impl World {
    pub fn set_mesh(&mut self, set: Set) {
        let Set { mesh, refused } = set;
        let is_config = |object: &&Object| object.kind == Kind::MeshConfig;
        let gone: Vec<_> = self.problems.keys().filter(is_config).cloned().collect();
        gone.iter().for_each(|object| self.is_well(object));
        for (object, uid, problem) in refused {
            self.note(object, &uid, vec![problem]);
        }
        let is_other = self.mesh.settings != mesh.settings;
        self.default = mesh.settings.default_mode.map(Wanted::Enrolled);
        self.mesh = mesh;
        if is_other {
            let namespaces: Vec<_> = self.pods_in.keys().cloned().collect();
            namespaces.iter().for_each(|namespace| self.decide_pods_in(namespace));
        }
    }

    /// What becomes of a pod that no label is about.
    pub(super) fn by_default(&self, namespace: &Label) -> Option<&Wanted> {
        let is_exempt =
            namespace.as_str() == KUBE_SYSTEM || *namespace == self.settings.system_namespace;
        self.default.as_ref().filter(|_| !is_exempt)
    }

    pub(super) fn udp(&self) -> Udp {
        self.mesh.settings.udp.unwrap_or(self.settings.udp)
    }
}
