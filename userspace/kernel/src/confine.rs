//! The agent gives up what it does not need, before it starts a thread, reads from a peer or makes
//! a key. docs/privileges.md says for each right what needs it.
//!
//! ```text
//!   one thread ─▶ memory ─▶ opener (a process) ─▶ capabilities ─▶ landlock ─▶ seccomp ─▶ threads
//! ```
//!
//! Nothing here can be taken back. What a machine does not offer is reported, and the agent goes on
//! without it; what every supported kernel offers must succeed.

mod calls;
mod capabilities;
mod files;
mod memory;
pub(crate) mod opener;

use std::{fs, io, path::PathBuf};

pub use capabilities::NEEDED;

use crate::{KernelError, pins};

/// What the agent writes to. Everything else can only be read.
#[derive(Debug, Clone)]
pub struct Places {
    /// The directory on a bpffs.
    pub pin: PathBuf,
    /// Directories, made if they are missing.
    pub directories: Vec<PathBuf>,
    /// A file that is replaced and opened again, so its directory is writable too; a device alone.
    pub log: Option<PathBuf>,
}

/// How far the agent is confined.
#[derive(Debug, Clone, Default)]
pub struct Confinement {
    /// Capabilities that the agent was not started with, each with what needs it. It can't steer.
    pub missing: Vec<String>,
    /// Every layer by its name, and why it is not in place if it is not.
    pub layers: Vec<(&'static str, Option<String>)>,
}

impl Confinement {
    /// The layers that are not in place, with the reasons.
    pub fn shortfalls(&self) -> Vec<String> {
        let short =
            |(name, why): &(&str, Option<String>)| Some(format!("{name}: {}", why.as_ref()?));
        self.layers.iter().filter_map(short).collect()
    }
}

/// Confines this process. It must have one thread only: what is given up, each thread gives up for
/// itself and for those that it starts.
pub fn confine(places: &Places) -> Result<Confinement, KernelError> {
    let failed = |what| move |source| KernelError::Confine { what, source };
    alone().map_err(failed("the agent must be confined before it has threads"))?;
    let missing = capabilities::missing().map_err(failed("reading the capabilities"))?;
    let mut layers = vec![("locking its memory", memory::keep_from_swap())];
    memory::keep_from_dumps().map_err(failed("keeping memory out of core dumps"))?;
    if let Err(error) = pins::prepare(&places.pin) {
        // Whoever uses it says so too.
        tracing::warn!(error = %error, "the pin directory cannot be prepared");
    }
    opener::start().map_err(failed("starting the opener of network namespaces"))?;
    layers.push((
        "dropping capabilities",
        capabilities::keep(capabilities::AGENT).map_err(failed("giving up capabilities"))?,
    ));
    nix::sys::prctl::set_no_new_privs()
        .map_err(io::Error::from)
        .map_err(failed("giving up new privileges"))?;
    layers.push(("landlock", files::restrict(places).map_err(failed("restricting writes"))?));
    layers.push(("seccomp", calls::restrict(&calls::agent())));
    Ok(Confinement { missing, layers })
}

fn alone() -> io::Result<()> {
    match fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        count => Err(io::Error::other(format!("it has {count}"))),
    }
}
