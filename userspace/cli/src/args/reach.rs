//! Where to ask: sockets of this machine, or a cluster.

use std::path::{Path, PathBuf};

use martlet_model::Label;

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Reach {
    /// The agent's Unix socket; /run/martlet/agent.sock if nothing is said. Without one there, the
    /// cluster of the kubeconfig is asked
    #[arg(
        long,
        value_name = "PATH",
        env = "MARTLET_SOCKET",
        hide_env_values = true,
        global = true,
        display_order = 100
    )]
    pub socket: Option<PathBuf>,

    /// The controller's Unix socket, for `nodes`, `node` and `trust`;
    /// /run/martlet/controller.sock if nothing is said
    #[arg(
        long,
        value_name = "PATH",
        env = "MARTLET_CONTROLLER_SOCKET",
        hide_env_values = true,
        global = true,
        display_order = 101
    )]
    pub controller_socket: Option<PathBuf>,

    /// Ask the cluster of this context of the kubeconfig
    #[arg(long, value_name = "NAME", global = true, display_order = 102)]
    pub context: Option<String>,

    /// Ask the cluster of this kubeconfig; those in KUBECONFIG or ~/.kube/config if nothing is said
    #[arg(long, value_name = "FILE", global = true, display_order = 103)]
    pub kubeconfig: Option<PathBuf>,

    /// Ask only this node of the cluster; may be given several times
    #[arg(long = "node", value_name = "NODE", global = true, display_order = 104)]
    pub nodes: Vec<String>,

    /// The namespace in which Martlet itself runs; martlet-system if nothing is said
    #[arg(long, value_name = "NAMESPACE", global = true, display_order = 105)]
    pub namespace_system: Option<Label>,
}

const AGENT: &str = "/run/martlet/agent.sock";
const CONTROLLER: &str = "/run/martlet/controller.sock";
const SYSTEM: &str = "martlet-system";

impl Reach {
    pub fn agent(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(AGENT))
    }

    pub fn controller(&self) -> &Path {
        self.controller_socket.as_deref().unwrap_or(Path::new(CONTROLLER))
    }

    pub fn system(&self) -> Label {
        let system = self.namespace_system.clone();
        system.unwrap_or_else(|| SYSTEM.parse().expect("it is a name"))
    }

    /// Whether a cluster was asked for.
    pub fn names_cluster(&self) -> bool {
        let Self { context, kubeconfig, nodes, namespace_system, .. } = self;
        context.is_some() || kubeconfig.is_some() || namespace_system.is_some() || !nodes.is_empty()
    }

    /// Whether an agent is to be looked for in a cluster: where one is asked for, or where no socket
    /// is and a kubeconfig is.
    pub fn is_far(&self) -> bool {
        self.names_cluster() || self.socket.is_none() && is_elsewhere(self.agent())
    }

    /// The same for a controller.
    pub fn controller_is_far(&self) -> bool {
        self.names_cluster() || self.controller_socket.is_none() && is_elsewhere(self.controller())
    }
}

fn is_elsewhere(socket: &Path) -> bool {
    // What may not be looked at is there, for whoever may.
    let is_here = socket.try_exists().unwrap_or(true);
    !is_here && has_kubeconfig()
}

fn has_kubeconfig() -> bool {
    match std::env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty()) {
        Some(_) => true,
        None => std::env::home_dir().is_some_and(|home| home.join(".kube/config").exists()),
    }
}
