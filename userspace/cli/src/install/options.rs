//! What can be said about an installation.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;

#[derive(Debug, clap::Args)]
pub struct Install {
    #[command(flatten)]
    pub choice: Choice,
    /// Only print the manifests, for `kubectl apply` and for people
    #[arg(short, long, value_enum, value_name = "FORM", conflicts_with_all = ["dry_run", "force_conflicts"])]
    pub output: Option<Form>,
    #[command(flatten)]
    pub kept: Kept,
}

#[derive(Debug, clap::Args)]
pub struct Upgrade {
    #[command(flatten)]
    pub choice: Choice,
    #[command(flatten)]
    pub kept: Kept,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Yaml,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    Server,
}
