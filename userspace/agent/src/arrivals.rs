//! Pods that have just arrived: the plugin of the container network asks whether they may have a
//! network, and says who they are, before anything of them runs.
//!
//! ```text
//!   plugin ── may it? ──▶ Arrivals ── who, where ──▶ Workloads, controller
//!     ▲                      │                            │
//!     └──── go, or no ───────┘◀── enrolled, or outside ───┘
//! ```
//!
//! It may when the kernel has the programs and knows who is in the mesh: from then on what is not
//! decided reaches nothing of the mesh, and nothing of the mesh reaches it. Before that, and when there
//! is no agent, the plugin says no, and kubelet tries again.
//!
//! The word of the plugin is root's, as the cgroups are; who a pod is says the controller alone.

mod inheritance;
mod listening;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use martlet_cni::message::{Answer, Arrival, PodName};
use martlet_kernel::{KernelError, Netns};
use martlet_model::{NetnsSource, WorkloadName};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tracing::info;

use crate::{
    limits::{ARRIVAL_KEPT, ARRIVAL_PATIENCE, ARRIVALS_KEPT},
    reports::Shared,
};

pub use inheritance::Inherited;
pub use listening::serve;

/// Who has arrived lately. One for the whole agent.
#[derive(Debug, Default)]
pub struct Arrivals {
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    gate: Gate,
    /// By the name that the runtime has for it.
    known: HashMap<String, Known>,
}

#[derive(Debug, Default)]
enum Gate {
    #[default]
    Starting,
    Open,
    /// Another agent is about to answer in the place of this one.
    Handing,
    Stopping,
}

#[derive(Debug)]
struct Known {
    /// Its UID, too; `None` if nobody can know it by that.
    pod: Option<(WorkloadName, Arc<str>)>,
    netns: Netns,
    addresses: Vec<IpAddr>,
    is_exempt: bool,
    since: Instant,
    /// Whether it is what it is to be.
    settled: watch::Sender<bool>,
}

impl Arrivals {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change is one assignment or one insertion.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, who comes is closed until it is decided.
    pub fn open(&self) {
        let mut inner = self.inner();
        if matches!(inner.gate, Gate::Starting) {
            inner.gate = Gate::Open;
        }
    }

    /// Nobody more comes here: a successor is told of those that there are, and not of others.
    pub fn pause(&self) {
        let mut inner = self.inner();
        if matches!(inner.gate, Gate::Open) {
            inner.gate = Gate::Handing;
        }
    }

    /// There is no successor after all.
    pub fn resume(&self) {
        let mut inner = self.inner();
        if matches!(inner.gate, Gate::Handing) {
            inner.gate = Gate::Open;
        }
    }

    /// The next agent says when they may again.
    pub fn stop(&self) {
        self.inner().gate = Gate::Stopping;
    }

    /// Waits for somebody to come or to go.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// The namespace that a workload is in. A pod of which no process is there yet is in the one that
    /// was made for it last.
    pub fn find(&self, source: &NetnsSource) -> Result<Netns, KernelError> {
        match source {
            NetnsSource::Path(path) => Netns::open(path),
            NetnsSource::Pid(pid) => Netns::of_pid(*pid),
            NetnsSource::Cgroup(path) => Netns::of_cgroup(path),
            NetnsSource::Pod(uid) => match Netns::of_pod(uid) {
                Err(error @ (KernelError::PodAbsent { .. } | KernelError::CgroupEmpty { .. })) => {
                    self.netns_of(uid).ok_or(error)
                }
                found => found,
            },
        }
    }

    fn netns_of(&self, uid: &str) -> Option<Netns> {
        let inner = self.inner();
        let is_it = |known: &&Known| known.pod.as_ref().is_some_and(|(_, of)| **of == *uid);
        let latest = inner.known.values().filter(is_it).max_by_key(|known| known.since);
        latest.map(|known| known.netns.clone())
    }

    /// As the controller is told: of each name the last one.
    pub fn told(&self) -> BTreeMap<WorkloadName, martlet_control::Arrival> {
        let inner = self.inner();
        let mut by_age: Vec<_> = inner.known.values().collect();
        by_age.sort_by_key(|known| known.since);
        let told = by_age.into_iter().filter_map(|known| {
            let (name, pod) = known.pod.clone()?;
            let addresses = known.addresses.clone();
            Some((name.clone(), martlet_control::Arrival { name, pod, addresses }))
        });
        told.collect()
    }

    /// The addresses of those of whom nobody has said what they are. Nothing of the mesh on this node
    /// may talk to them in plaintext before.
    pub fn undecided(&self) -> Vec<(IpAddr, WorkloadName)> {
        let inner = self.inner();
        let open =
            inner.known.values().filter(|known| !known.is_exempt && !*known.settled.borrow());
        let of = |known: &Known| {
            let name = known.pod.as_ref().map(|(name, _)| name.clone());
            let addresses = known.addresses.iter().copied();
            addresses.filter_map(|ip| Some((ip, name.clone()?))).collect::<Vec<_>>()
        };
        open.flat_map(of).collect()
    }

    /// Lets those go that are what they are to be, by their UIDs, namespaces and addresses; whether
    /// there are any.
    pub fn settle(&self, is_decided: impl Fn(&str, &Netns, &[IpAddr]) -> bool) -> bool {
        let mut is_any = false;
        for known in self.inner().known.values() {
            let Some((_, uid)) = &known.pod else { continue };
            if !*known.settled.borrow() && is_decided(uid, &known.netns, &known.addresses) {
                known.settled.send_replace(true);
                is_any = true;
            }
        }
        is_any
    }

    /// Those of whom everybody else knows by now what is to be known. To hold a namespace open is to
    /// keep it.
    pub fn forget_old(&self, now: Instant) {
        let is_young = |known: &Known| now.saturating_duration_since(known.since) < ARRIVAL_KEPT;
        self.inner().known.retain(|_, known| is_young(known) || !*known.settled.borrow());
    }

    /// Its network has been taken away.
    fn leaves(&self, sandbox: &str) {
        if self.inner().known.remove(sandbox).is_some() {
            self.news.notify_one();
        }
    }

    async fn arrives(&self, arrival: Arrival, netns: File, shared: &Shared) -> Answer {
        let no = |why: String| Answer::No { why };
        let netns = match Netns::of_file(netns, &arrival.netns) {
            Ok(netns) => netns,
            Err(error) => return no(crate::workloads::chain(&error)),
        };
        let (is_exempt, began) = (arrival.is_exempt, Instant::now());
        let name = arrival.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name));
        let settled = match self.remember(arrival, netns) {
            Ok(settled) => settled,
            Err(Some(why)) => return no(why),
            Err(None) => {
                let why = shared.not_ready().join("; ");
                let why = if why.is_empty() { "it is starting" } else { &why };
                return no(format!("the node's agent is not ready: {why}"));
            }
        };
        self.news.notify_one();
        // Where nobody can say what it is now, it is closed until somebody can.
        let is_asked = shared.controller().is_some_and(|controller| controller.away.is_none());
        if let (Some(mut settled), true, false) = (settled, is_asked, is_exempt) {
            // It has left meanwhile, or it takes too long: nothing of the mesh reaches it then.
            let _ = timeout(ARRIVAL_PATIENCE, settled.wait_for(|settled| *settled)).await;
        }
        let waited_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(workload = name.unwrap_or_default(), waited_ms, "a pod has a network");
        Answer::Go
    }

    /// Whoever waits for it to be settled; `None` if nobody can say of it what it is. Fails while no pod
    /// may have a network, with the reason if that is not the start.
    fn remember(
        &self,
        arrival: Arrival,
        netns: Netns,
    ) -> Result<Option<watch::Receiver<bool>>, Option<String>> {
        let Arrival { sandbox, pod, addresses, is_exempt, netns: _ } = arrival;
        let mut inner = self.inner();
        match inner.gate {
            Gate::Open => {}
            Gate::Starting => return Err(None),
            Gate::Handing => return Err(Some("another agent takes over".to_owned())),
            Gate::Stopping => return Err(Some("the node's agent is stopping".to_owned())),
        }
        // An address that is given again is nobody's else any more, whatever was not heard.
        inner.known.retain(|_, known| !known.addresses.iter().any(|ip| addresses.contains(ip)));
        if inner.known.len() >= ARRIVALS_KEPT && !inner.known.contains_key(&sandbox) {
            return Err(Some("too many pods of the node are not decided".to_owned()));
        }
        let pod = pod.and_then(named);
        let (settled, waiting) = watch::channel(false);
        let waiting = pod.is_some().then_some(waiting);
        let since = Instant::now();
        inner.known.insert(sandbox, Known { pod, netns, addresses, is_exempt, since, settled });
        Ok(waiting)
    }
}

/// Without a UID, or with a name that is none, nobody can know it by that.
fn named(pod: PodName) -> Option<(WorkloadName, Arc<str>)> {
    let PodName { namespace, name, uid } = pod;
    let name = WorkloadName { namespace: namespace.parse().ok()?, name: name.parse().ok()? };
    Some((name, uid?.into()))
}

#[cfg(test)]
mod tests;
