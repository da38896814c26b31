//! The command line. The page docs/cli.md is written from it.

pub mod explain;
mod look;
mod reach;

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use martlet_authority::log::Anchor;
use martlet_model::{Label, TrustDomain, WorkloadName};

use crate::install;

/// Shows what the Martlet agents of a node or of a cluster do, and looks after nodes, trust and
/// authorities
#[derive(Debug, Parser)]
#[command(name = "martlet", version, after_help = EXIT_CODES)]
pub struct Args {
    #[command(flatten)]
    pub reach: Reach,

    #[command(subcommand)]
    pub command: Command,
}

pub use look::{CoverageFilter, Kind, Look};
pub use reach::Reach;

const EXIT_CODES: &str = "\
Exit codes:
  0  the command did what it should, and `check` found no error
  1  the command failed, a node did not answer, `check` found an error, or `coverage` what it
     was to fail on
  2  the command line is wrong";

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Ask(Ask),
    /// Certificate authorities for nodes without a cluster
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// Prints what completes this command line in a shell
    Completion {
        #[arg(value_enum, value_name = "SHELL")]
        shell: Shell,
    },
    /// Writes a manual page for each command
    Man {
        /// Where they go, such as /usr/local/share/man/man1
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Makes standard input and output a connection to a socket here, for a martlet elsewhere
    #[command(hide = true)]
    Relay {
        #[arg(value_enum)]
        to: RelayTo,
    },
}

/// What an agent, a controller or a cluster is asked.
#[derive(Debug, Subcommand)]
pub enum Ask {
    #[command(flatten)]
    Look(Look),
    /// Looks for what is wrong on this node or in this cluster, and says what to do about it
    ///
    /// What each check of a cluster means is said in docs/checks.md.
    Check {
        /// Whether Martlet can be installed in the cluster, as far as that can be known before
        #[arg(long)]
        pre: bool,
        #[command(flatten)]
        answer: Answer,
    },
    /// The policies of a cluster: whether they are enforced, whom they are about, and what refuses
    Policy {
        /// Only those of this namespace
        #[arg(value_name = "NAMESPACE")]
        namespace: Option<Label>,
        #[command(flatten)]
        answer: Answer,
    },
    /// What would become of a connection between two pods of a cluster now, why, and what to do
    ///
    /// Exits with 1 if it would be refused, or if that cannot be told.
    Explain {
        /// The calling pod
        #[arg(value_name = "NAMESPACE/POD", value_parser = explain::caller)]
        from: WorkloadName,
        /// The called pod or service, and the port
        #[arg(value_name = "NAMESPACE/POD:PORT", value_parser = explain::called)]
        to: explain::Called,
        #[command(flatten)]
        answer: Answer,
    },
    /// Who speaks with whom now, how much, and what is refused: again every second, until interrupted
    Top {
        /// One look, of a second
        #[arg(long)]
        once: bool,
        #[command(flatten)]
        answer: Answer,
    },
    /// Writes an archive with what somebody else needs to find out what is wrong with a cluster
    ///
    /// It holds versions, Martlet's own objects, what all commands say, and logs; no keys and no
    /// tokens.
    Bugreport {
        /// Where to; martlet-bugreport-SECONDS.tar.gz if nothing is said
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// The nodes of a controller: whether they are connected, and what they have put into effect
    Nodes {
        #[command(flatten)]
        answer: Answer,
    },
    /// Lets a host become a node of a controller, or be one no more
    #[command(subcommand)]
    Node(NodeCommand),
    /// Whom the nodes of a controller trust, how that changes, and who is cut off
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Installs Martlet into a Kubernetes cluster, waits until it runs, and says what to type next
    ///
    /// To do it again changes nothing. docs/install.md tells what the values are.
    Install(install::Install),
    /// Makes what `martlet install` has installed that of this version, with the values it had
    Upgrade(install::Upgrade),
    /// Leaves all nodes of a cluster as the agents found them, and removes Martlet from it
    ///
    /// What is enrolled talks in plaintext from then on.
    Uninstall(install::Uninstall),
}

/// Whose socket a relay leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RelayTo {
    Agent,
    Controller,
}

/// Those that there are scripts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Makes a token by which the host of this name can join, once, and prints what it needs
    Join {
        /// The node's name, as in `node.name` of its node file
        #[arg(value_name = "NAME")]
        name: Label,
        /// How long the token is good, such as 30m, 12h or 7d; an hour if nothing is said
        #[arg(long, value_name = "TIME", value_parser = crate::trust::duration)]
        valid: Option<Duration>,
        #[command(flatten)]
        answer: Answer,
    },
    /// Ends what this node is told and certified, at once and until it joins anew
    Remove {
        /// As `martlet nodes` shows it
        #[arg(value_name = "NAME")]
        name: Label,
    },
}

#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// Roots, issuers, what each node has put into effect, federated domains, who is cut off
    Status {
        #[command(flatten)]
        answer: Answer,
    },
    /// Replaces the root, step by step: each waits until nobody needs the old state any more
    ///
    /// Without --root the controller makes the new root and its key.
    #[command(group = clap::ArgGroup::new("key").args(["root_key", "keys", "offline"]))]
    Rotate {
        /// The certificate of a root that is brought, PEM; further roots that are to be trusted may
        /// follow in the file
        #[arg(long, value_name = "FILE", requires = "key")]
        root: Option<PathBuf>,
        /// Its key, PEM
        #[arg(long, value_name = "FILE", requires = "root")]
        root_key: Option<PathBuf>,
        /// A keys.yaml that names the command which signs with its key (docs/trust.md)
        #[arg(long, value_name = "FILE", requires = "root")]
        keys: Option<PathBuf>,
        /// Its key is in a place without a network: `martlet trust csr` and `install` get issuers of it
        #[arg(long, requires = "root")]
        offline: bool,
        /// Takes the next step of a rotation that is under way, whatever is in its way, and says what
        /// that breaks; `martlet trust status` says it before
        #[arg(long, conflicts_with = "root")]
        force: bool,
    },
    /// Asks for the certificate of an issuer, where a root's key is kept elsewhere: prints a PKCS #10
    /// request
    ///
    /// It is for the new root of a rotation if that waits for one, and otherwise for the root that
    /// issues, whose issuers have to be replaced each week.
    Csr {
        /// Which root it is for
        #[arg(long, value_enum, value_name = "ROOT")]
        of: Option<Which>,
    },
    /// Takes the certificate that was asked for, if all of it is right
    Install {
        /// The issuer's certificate, PEM
        #[arg(value_name = "CERT")]
        certificate: PathBuf,
        /// Which root it is of
        #[arg(long, value_enum, value_name = "ROOT")]
        of: Option<Which>,
        /// Take one that lives longer than 7 days, 366 at most
        #[arg(long)]
        long_lived: bool,
    },
    /// Takes no further step of the rotation by itself
    Pause,
    /// Lets a paused rotation go on
    Resume,
    /// Takes the rotation back, as carefully as it went on
    Back,
    /// Prints our roots as a SPIFFE bundle document, for others to import
    Export {
        /// As certificates in PEM instead: what a host needs that joins by its own certificate
        #[arg(long)]
        pem: bool,
    },
    /// Believes the workloads of another trust domain, by its bundle document
    Import {
        /// The trust domain that the document is about
        #[arg(value_name = "DOMAIN")]
        domain: TrustDomain,
        /// As `martlet trust export` prints it, or any other publisher of SPIFFE bundles
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// The other trust domains whose workloads are believed
    List {
        #[command(flatten)]
        answer: Answer,
    },
    /// Looks at the bundle endpoint of another trust domain now, and says what came of it
    Refresh {
        /// As in `federation` of the controller file
        #[arg(value_name = "DOMAIN")]
        domain: TrustDomain,
    },
    /// Believes the workloads of another trust domain no more
    Remove {
        /// As `martlet trust list` shows it
        #[arg(value_name = "DOMAIN")]
        domain: TrustDomain,
    },
    /// Cuts somebody off: connections with them are refused, and those that live are ended
    Quarantine {
        #[command(flatten)]
        whom: Whom,
        /// Why, for whoever looks at it later
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Takes a quarantine back
    Release {
        #[command(flatten)]
        whom: Whom,
    },
}

/// Of the roots that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// That which issues
    Issuing,
    /// The other one of a rotation
    Other,
}

/// Whom a quarantine is about.
#[derive(Debug, clap::Args)]
pub struct Whom {
    #[arg(value_name = "KIND", value_parser = ["cluster", "node", "workload", "identity"])]
    pub kind: String,
    /// A trust domain, a node, NAMESPACE/NAME or a SPIFFE ID; nodes and workloads of another trust
    /// domain with DOMAIN/ before them
    #[arg(value_name = "NAME")]
    pub name: String,
}

#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Makes a root and an issuer below it; never overwrites any
    Init {
        /// Where root.crt, root.key, issuer.crt and issuer.key go
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The trust domain, such as prod.example.org: the first part of every identity
        #[arg(long, value_name = "DOMAIN")]
        trust_domain: TrustDomain,
        /// The certificate of a root that is there already, PEM; more roots may follow in the file
        #[arg(long, value_name = "FILE")]
        root: Option<PathBuf>,
        /// That root's key, PEM; without it the key is behind the command in keys.yaml, or kept
        /// elsewhere
        #[arg(long, value_name = "FILE", requires = "root")]
        root_key: Option<PathBuf>,
    },
    /// Asks for the certificate of a new issuer, where the root's key is kept elsewhere: prints a
    /// PKCS #10 request
    Csr {
        #[command(flatten)]
        authority: Place,
    },
    /// Signs such a request, where the root's key is: prints the certificate of an issuer
    Sign {
        #[command(flatten)]
        authority: Place,
        /// The request, PEM
        #[arg(value_name = "CSR")]
        request: PathBuf,
    },
    /// Takes the certificate that was asked for, if all of it is right
    Install {
        #[command(flatten)]
        authority: Place,
        /// The issuer's certificate, PEM
        #[arg(value_name = "CERT")]
        certificate: PathBuf,
        /// Take one that lives longer than 7 days, 366 at most
        #[arg(long)]
        long_lived: bool,
    },
    /// What was issued, and what was refused
    #[command(subcommand)]
    Log(LogCommand),
}

/// An authority's directory.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The authority's directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// The trust domain, if no certificate in the directory names it
    #[arg(long, value_name = "DOMAIN")]
    pub trust_domain: Option<TrustDomain>,
}

#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Looks whether a line was changed, removed, doubled, moved or added
    ///
    /// What nobody can see in the log alone is that its last lines were cut off, or that all of it
    /// was written anew. Keep the head that is printed elsewhere, and give it as the anchor the next
    /// time.
    Verify {
        /// The log's directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// A line's number and hash, as it was printed once
        #[arg(long, value_name = "NUMBER:HASH")]
        anchor: Option<Anchor>,
    },
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Answer {
    /// A table for people, or the agent's own answer for programs
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

#[cfg(test)]
mod tests;
