//! A Kubernetes cluster for tests, seen as a user sees it: through kubectl.
//!
//! Either the one that `KUBECONFIG` names, or one of our own on this machine, which ends with the
//! value that stands for it.

mod cluster;
mod kubectl;
mod leftovers;
pub mod load;
mod mesh;
mod own;
pub mod pods;

pub use cluster::Cluster;
pub use kubectl::{Kubectl, has_condition};
pub use leftovers::Traces;
pub use mesh::{Mesh, PATIENCE};
pub use own::{Own, xtask};
