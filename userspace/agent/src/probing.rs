//! Who may probe strict workloads in plaintext, and where: kept true while the prober's cgroup is
//! made again, as by a restart of its service.

use std::{net::SocketAddr, path::PathBuf};

use martlet_kernel::{KernelError, Node, Prober, cgroup_of_process};
use martlet_standalone::{NodeFile, ProberIs};
use tracing::{info, warn};

use crate::{reports::Shared, workloads::chain};

#[derive(Default)]
pub struct Probing {
    /// `None` if nobody may probe.
    prober: Option<ProberIs>,
    /// Where its cgroup was last.
    cgroup: Option<PathBuf>,
    ports: Vec<SocketAddr>,
    /// What the kernel was told last; `None` if it has to be told.
    told: Option<Option<Prober>>,
}

impl Probing {
    /// Takes over what a node file says.
    pub fn declare(&mut self, file: &NodeFile) {
        let at = |ip: &std::net::IpAddr, ports: &[u16]| {
            ports.iter().map(|port| SocketAddr::new(*ip, *port)).collect::<Vec<_>>()
        };
        let local = file.local.iter();
        let ports = local.flat_map(|local| {
            local.workload.addresses.iter().flat_map(|ip| at(ip, &local.probes)).collect::<Vec<_>>()
        });
        self.ports = ports.collect();
        self.prober = file.settings.prober.clone().filter(|_| !self.ports.is_empty());
        self.told = None;
    }

    fn find(&mut self) -> Option<Result<Prober, KernelError>> {
        let path = match self.prober.as_ref()? {
            ProberIs::Cgroup(path) => Ok(path.clone()),
            ProberIs::Process(name) => cgroup_of_process(name, self.cgroup.as_deref()),
        };
        Some(path.and_then(|path| {
            let prober = Prober::find(&path);
            self.cgroup = Some(path);
            prober
        }))
    }

    /// Tells the kernel if there is something new. Where there is no such cgroup nobody may probe,
    /// and the agent is not ready.
    pub fn keep(&mut self, node: &Node, shared: &Shared) {
        let found = self.find().transpose();
        let mut problem = found.as_ref().err().map(|error| chain(error));
        let prober = found.unwrap_or(None);
        if self.told != Some(prober) {
            match node.set_probes(self.ports.iter().copied(), prober) {
                Ok(()) => {
                    self.told = Some(prober);
                    if let (Some(_), Some(cgroup)) = (prober, &self.cgroup) {
                        let (ports, cgroup) = (self.ports.len(), cgroup.display());
                        info!(ports, %cgroup, "probes pass in plaintext");
                    }
                }
                Err(error) => problem = Some(chain(&error)),
            }
        }
        let problem = problem.map(|why| format!("probes of strict workloads are refused: {why}"));
        if shared.set_prober_problem(problem.clone())
            && let Some(why) = problem
        {
            warn!(why, "no probes");
        }
    }
}
