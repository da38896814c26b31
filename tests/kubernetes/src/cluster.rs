//! The cluster that most tests run on: somebody's, or our own.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{kubectl::Kubectl, own::Own};

pub enum Cluster {
    /// Named by `KUBECONFIG`; it was there before, and stays.
    Given(PathBuf),
    Own(Own),
}

impl Cluster {
    pub fn obtain() -> Result<Self> {
        match env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
            Some(path) => Ok(Self::Given(path.into())),
            None => Own::up(&["--nodes", "2"]).map(Self::Own).context("making a cluster"),
        }
    }

    pub fn kubectl(&self) -> Kubectl {
        match self {
            Self::Given(kubeconfig) => Kubectl::new(Path::new("kubectl"), kubeconfig),
            Self::Own(own) => own.kubectl(),
        }
    }

    /// Only of our own there is more than its API: wires, nodes, and a way to end it.
    pub fn own(&self) -> Option<&Own> {
        match self {
            Self::Given(_) => None,
            Self::Own(own) => Some(own),
        }
    }
}
