//! What is to be said of each pod's enrolment, as far as the controller decides it; the rest says the
//! agent of its node.

use std::sync::Arc;

use martlet_model::{Label, WorkloadName};

use super::{World, pods::ON_HOST};
use crate::{
    seen::{Pod, Problem, Wanted},
    standing::Said,
};

/// A pod of which something is said, or is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub uid: Arc<str>,
    pub node: Label,
    pub wish: Wish,
    /// What its status says.
    pub said: Option<Said>,
}

/// What the cluster's objects want of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Nothing says anything about it: no label, and no default.
    Nothing,
    /// It stays outside of the mesh, for this reason.
    Outside(String),
    /// It cannot be enrolled as it is.
    Refused(String),
    /// It cannot be enrolled yet.
    Waiting(String),
    /// Its node's agent is told to enroll it.
    Enrolled,
}

impl World {
    /// The pods of which something else is known since this was asked last; `None`: nothing more is
    /// to be said of it.
    pub fn touched(&mut self) -> Vec<(WorkloadName, Option<Arc<Facts>>)> {
        let touched = std::mem::take(&mut self.touched).into_iter();
        touched.map(|name| (name.clone(), self.facts.get(&name).cloned())).collect()
    }

    /// After it was decided whether the pod is a workload, and what is wrong with it.
    pub(super) fn note_facts(
        &mut self,
        name: &WorkloadName,
        pod: Option<&Pod>,
        is_enrolled: bool,
        problems: &[Problem],
    ) {
        // Of what has ended, what was said last stays.
        let pod = pod.filter(|pod| !pod.is_over);
        let facts = pod.and_then(|pod| {
            let wish = self.wish(pod, is_enrolled, problems);
            let is_any = wish != Wish::Nothing || pod.said.is_some();
            is_any.then(|| Facts {
                uid: pod.uid.clone(),
                node: pod.node.clone(),
                wish,
                said: pod.said.clone(),
            })
        });
        if self.facts.get(name).map(|before| &**before) == facts.as_ref() {
            return;
        }
        self.touched.insert(name.clone());
        match facts {
            Some(facts) => drop(self.facts.insert(name.clone(), Arc::new(facts))),
            None => drop(self.facts.remove(name)),
        }
    }

    fn wish(&self, pod: &Pod, is_enrolled: bool, problems: &[Problem]) -> Wish {
        if pod.name.namespace == self.settings.system_namespace {
            return Wish::Nothing;
        }
        let wanted = self.wanted(pod);
        let why = || problems.last().map(|problem| problem.message.clone()).unwrap_or_default();
        match wanted {
            None => Wish::Nothing,
            Some(Wanted::Off) => Wish::Outside(format!("{} says so", crate::MODE_LABEL)),
            Some(_) if is_enrolled => Wish::Enrolled,
            Some(_) if pod.is_on_host => Wish::Outside(ON_HOST.to_owned()),
            Some(_) if pod.addresses.is_empty() => {
                Wish::Waiting("it has no address yet".to_owned())
            }
            Some(_) => Wish::Refused(why()),
        }
    }
}
