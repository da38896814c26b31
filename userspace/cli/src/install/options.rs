//! What can be said about an installation.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use martlet_kubernetes::installation::Installer;
use martlet_manifests::NAMESPACE;
use martlet_model::Label;

#[derive(Debug, clap::Args)]
pub struct Install {
    #[command(flatten)]
    pub choice: Choice,
    /// Only print the manifests, for `kubectl apply` and for people
    #[arg(short, long, value_enum, value_name = "FORM", conflicts_with_all = ["dry_run", "force_conflicts"])]
    pub output: Option<Form>,
    #[command(flatten)]
    pub kept: Kept,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, clap::Args)]
pub struct Upgrade {
    #[command(flatten)]
    pub choice: Choice,
    #[command(flatten)]
    pub kept: Kept,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, clap::Args)]
pub struct Uninstall {
    /// Also removes what cannot be had again: the authority with its root's key, all policies and the
    /// kinds of martlet.dev, and the system namespace with everything in it
    #[arg(long)]
    pub purge: bool,
    /// Goes on without nodes that are not ready; what is on them stays there
    #[arg(long)]
    pub skip_unready: bool,
    /// How long each wait may take
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = crate::trust::duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub place: Place,
}

/// How it is to be.
#[derive(Debug, clap::Args)]
pub struct Choice {
    /// Values as in deploy/helm/martlet/values.yaml; may be given several times, and later ones win
    #[arg(short = 'f', long, value_name = "FILE")]
    pub values: Vec<PathBuf>,
    /// One value, such as image.tag=1.2.3; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Forget the values of the last time
    #[arg(long)]
    pub reset_values: bool,
}

/// How it is applied.
#[derive(Debug, clap::Args)]
pub struct Kept {
    /// Let the server look at everything, and change nothing
    #[arg(long, value_enum, value_name = "BY")]
    pub dry_run: Option<By>,
    /// Take over fields that somebody else has changed
    #[arg(long)]
    pub force_conflicts: bool,
    /// Whether to wait until everything runs
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = crate::trust::duration)]
    pub timeout: Duration,
}

impl Kept {
    pub fn is_dry(&self) -> bool {
        self.dry_run.is_some()
    }
}

/// Which cluster, and where in it.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The context of the kubeconfig, instead of its current one
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig, instead of those in KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace in which Martlet itself runs
    #[arg(long, value_name = "NAMESPACE", default_value = NAMESPACE)]
    pub system_namespace: Label,
}

impl Place {
    pub fn namespace(&self) -> Label {
        self.system_namespace.clone()
    }

    /// Asks nobody yet.
    pub async fn installer(&self) -> Result<Installer> {
        let opened =
            martlet_kubernetes::client(self.kubeconfig.as_deref(), self.context.as_deref()).await;
        let client = opened.context("name a cluster by --kubeconfig or --context")?;
        Ok(Installer::new(client, self.system_namespace.as_str()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Yaml,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    Server,
}
