//! `martlet-agent uninstall`: leaves the node as an agent has found it, also when agents have
//! crashed, or half of what they made is gone.

use std::{
    fs, io,
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use martlet_control::KEPT_FILES;
use martlet_kernel::{Idle, Installed, KernelError, Keyring, peer_of, terminate};
use martlet_model::Label;
use martlet_standalone::Places;

use crate::{
    app::own_netns,
    configuration,
    limits::{STOP_LOOK, STOP_TIMEOUT},
};

/// Take everything away that agents have put on this node: programs, links, maps, filters, changed
/// sysctls, notes, the socket, and what a controller has given: keys of workloads, the certificate of
/// this node, and what was declared.
///
/// The node file, the authority's files and access logs stay. What is enrolled goes on in plaintext.
#[derive(Debug, Args)]
pub struct Uninstall {
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Stop a running agent first, in order.
    #[arg(long)]
    stop: bool,
    /// Where programs and maps are pinned, instead of the node file's `node.pin`.
    #[arg(long, value_name = "DIRECTORY")]
    pin: Option<PathBuf>,
    /// Where the agent's notes are, instead of the node file's `node.state`.
    #[arg(long, value_name = "DIRECTORY")]
    state: Option<PathBuf>,
    /// The agent's Unix socket, instead of the node file's `node.socket`.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The host's network namespace, instead of the node file's `node.hostNetns`.
    #[arg(long, value_name = "PATH")]
    host_netns: Option<PathBuf>,
}

impl Uninstall {
    pub fn run(self, config: &Path, node: Option<&Label>) -> Result<()> {
        let places = self.places(config, node)?;
        let installed = Installed {
            pin: places.pin.clone(),
            notes: places.state.join("sysctl"),
            host: places.host_netns.clone().unwrap_or_else(own_netns),
            dry_run: self.dry_run,
        };
        let idle = self.hold(&installed, &places.socket)?;
        let (verb, mut count) = (if self.dry_run { "would remove" } else { "removed" }, 0);
        let mut say = |what: String| {
            println!("{verb}: {what}");
            count += 1;
        };
        let removed = installed.remove(&idle, &mut say);
        let keys = self.forget_keys(&places, &mut say);
        let files = self.remove_files(&places, &mut say);
        removed.context("not everything could be removed")?;
        keys.context("not every key could be removed from the keyring")?;
        files.context("not every file could be removed")?;
        if count == 0 {
            println!("nothing of Martlet's is on this node");
        }
        Ok(())
    }

    /// A node file that is gone had the defaults, or is told by options.
    fn places(&self, config: &Path, node: Option<&Label>) -> Result<Places> {
        let told = (self.pin.clone(), self.state.clone(), self.socket.clone());
        if let (Some(pin), Some(state), Some(socket)) = told {
            let host_netns = self.host_netns.clone();
            return Ok(Places { pin, state, socket, host_netns });
        }
        let named = match config.try_exists().context("looking for the node file")? {
            false => Places::default(),
            true => {
                let hint = "mend it, or name all of --pin, --state and --socket";
                configuration::read(config, node).context(hint)?.file.settings.places()
            }
        };
        let (pin, state, socket) = (self.pin.clone(), self.state.clone(), self.socket.clone());
        Ok(Places {
            pin: pin.unwrap_or(named.pin),
            state: state.unwrap_or(named.state),
            socket: socket.unwrap_or(named.socket),
            host_netns: self.host_netns.clone().or(named.host_netns),
        })
    }

    /// Until no agent runs, and none can start.
    fn hold(&self, installed: &Installed, socket: &Path) -> Result<Idle> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut is_asked = false;
        loop {
            match installed.hold() {
                Err(KernelError::PinInUse { .. }) if self.stop && Instant::now() < deadline => {
                    if !std::mem::replace(&mut is_asked, true) {
                        let hint = "asking the agent to stop; stop it yourself";
                        stop(socket).context(hint)?;
                    }
                    thread::sleep(STOP_LOOK);
                }
                Err(KernelError::PinInUse { .. }) if self.stop => bail!("the agent does not stop"),
                Err(KernelError::PinInUse { path }) => bail!(
                    "an agent is running with the pin directory {}; stop it, or give --stop",
                    path.display()
                ),
                held => return held.context("looking whether an agent runs"),
            }
        }
    }

    fn forget_keys(&self, places: &Places, say: &mut dyn FnMut(String)) -> Result<(), KernelError> {
        let keyring = Keyring::of_all(&places.pin);
        for name in keyring.names()? {
            say(format!("key of {name}"));
            if !self.dry_run {
                keyring.forget(&name)?;
            }
        }
        Ok(())
    }

    /// The sockets, what was kept of a controller, and directories that are empty now.
    fn remove_files(&self, places: &Places, say: &mut dyn FnMut(String)) -> io::Result<()> {
        let plugins = places.socket.with_file_name(martlet_cni::message::SOCKET);
        for socket in [&places.socket, &plugins, &places.takeover_socket()] {
            let found = fs::symlink_metadata(socket);
            let is_ours = found.is_ok_and(|file| file.file_type().is_socket())
                && UnixStream::connect(socket).is_err();
            if is_ours {
                say(format!("socket {}", socket.display()));
                if !self.dry_run {
                    fs::remove_file(socket)?;
                }
            }
        }
        for name in KEPT_FILES {
            let path = places.state.join(name);
            if path.exists() {
                say(format!("file {}", path.display()));
                if !self.dry_run {
                    fs::remove_file(&path)?;
                }
            }
        }
        let sockets = places.workload_sockets();
        if sockets.is_dir() {
            say(format!("directory {}", sockets.display()));
            if !self.dry_run {
                fs::remove_dir_all(&sockets)?;
            }
        }
        for directory in
            [Some(places.state.as_path()), places.socket.parent()].into_iter().flatten()
        {
            let is_empty = fs::read_dir(directory).is_ok_and(|mut found| found.next().is_none());
            if is_empty && !self.dry_run {
                say(format!("directory {}", directory.display()));
                fs::remove_dir(directory)?;
            }
        }
        Ok(())
    }
}

fn stop(socket: &Path) -> io::Result<()> {
    terminate(peer_of(&UnixStream::connect(socket)?)?)
}
