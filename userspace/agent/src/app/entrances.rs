//! Where the agent is asked about itself, and for its place.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use martlet_standalone::Settings;
use martlet_telemetry::{
    Admin, AdminError, AdminSocket, FileStays, bind_socket, bind_tcp, inherit_socket,
    replace_socket,
};
use tokio::{net::TcpListener, time::timeout};
use tracing::{error, warn};

use super::Stage;
use crate::{
    arrivals::{self, Arrivals},
    limits::ARRIVALS_FINISH,
    reports::Shared,
    takeover::{Claim, Door, Given, Successor},
};

pub struct Entrances {
    admin: Admin,
    socket: PathBuf,
    door: PathBuf,
    metrics: Option<SocketAddr>,
    claim: Claim,
    arrivals: PathBuf,
    heard: (Arc<Arrivals>, Arc<Shared>),
    unix: Option<Unix>,
    plugins: Option<Plugins>,
    tcp: Option<Tcp>,
    open: Option<Door>,
}

struct Unix {
    stage: Stage,
    stays: FileStays,
}

/// Where the plugin of the container network asks.
struct Plugins {
    /// `None` while nobody is answered.
    stage: Option<Stage>,
    stays: FileStays,
    /// For a successor: who asks meanwhile waits in it.
    copy: OwnedFd,
}

struct Tcp {
    stage: Stage,
    /// For a successor.
    copy: OwnedFd,
}

impl Entrances {
    /// None is open yet.
    pub fn new(
        admin: Admin,
        settings: &Settings,
        claim: Claim,
        heard: (Arc<Arrivals>, Arc<Shared>),
    ) -> Self {
        let (socket, door) = (settings.socket.clone(), settings.places().takeover_socket());
        Self {
            admin,
            arrivals: socket.with_file_name(martlet_cni::message::SOCKET),
            socket,
            door,
            metrics: settings.metrics,
            claim,
            heard,
            unix: None,
            plugins: None,
            tcp: None,
            open: None,
        }
    }

    /// All that are not open yet, of an agent without a predecessor. `before`: whom it has stopped.
    pub fn open(&mut self, before: Option<String>) -> Result<()> {
        self.serve_unix(bind_socket(&self.socket)?);
        if let Some(address) = self.metrics.filter(|_| self.tcp.is_none()) {
            self.serve_tcp(bind_tcp(address)?)?;
        }
        self.hear_plugins(bind_socket(&self.arrivals));
        match Door::open(&self.door, self.claim.clone(), before) {
            Ok(door) => self.open = Some(door),
            Err(error) => no_door(&error),
        }
        Ok(())
    }

    /// What may be open while another agent lives, if there is one: metrics and health, unless that one
    /// has the same address.
    pub fn open_beside_another(&mut self) -> Result<()> {
        let Some(address) = self.metrics else { return Ok(()) };
        match bind_tcp(address) {
            Ok(listener) => self.serve_tcp(listener),
            Err(AdminError::Tcp { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the listener for metrics is still the predecessor's.
    pub fn lacks_metrics(&self) -> bool {
        self.metrics.is_some() && self.tcp.is_none()
    }

    /// In the place of a predecessor's. That one is gone already, so nothing of this is worth ending for.
    pub fn replace(
        &mut self,
        before: Option<String>,
        metrics: Option<OwnedFd>,
        plugins: Option<OwnedFd>,
    ) {
        match replace_socket(&self.socket) {
            Ok(socket) => self.serve_unix(socket),
            Err(error) => error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the agent can't be asked about itself"
            ),
        }
        // None, of a version from before this; or its file has gone.
        let kept = plugins.and_then(|listener| inherit_socket(&self.arrivals, listener).ok());
        self.hear_plugins(kept.map_or_else(|| replace_socket(&self.arrivals), Ok));
        match Door::replace(&self.door, self.claim.clone(), before) {
            Ok(door) => self.open = Some(door),
            Err(error) => no_door(&error),
        }
        if let Some(address) = self.metrics.filter(|_| self.tcp.is_none()) {
            let served = inherited(address, metrics).and_then(|tcp| self.serve_tcp(tcp));
            if let Err(error) = served {
                error!(%address, error = format!("{error:#}"), "metrics are not served");
            }
        }
    }

    /// The next that wants the place of this agent; nobody if there is no door.
    pub async fn successor(&self) -> Successor {
        match &self.open {
            Some(door) => door.successor().await,
            None => std::future::pending().await,
        }
    }

    /// Plugins that ask from now on wait; those that have asked are answered.
    pub async fn pause_plugins(&mut self) {
        let (arrivals, _) = &self.heard;
        if let Some(plugins) = &mut self.plugins
            && let Some(stage) = plugins.stage.take()
        {
            // Not by this agent, whatever becomes of the other one: this one goes on with the copy.
            plugins.stays.set();
            if timeout(ARRIVALS_FINISH, stage.stop()).await.is_err() {
                warn!("not all that the plugin of the container network has asked was answered");
            }
        }
        arrivals.pause();
    }

    /// There is no successor after all: whoever has waited is answered.
    pub fn resume_plugins(&mut self) {
        self.heard.0.resume();
        if let Some(Plugins { copy, .. }) = self.plugins.take() {
            self.hear_plugins(inherit_socket(&self.arrivals, copy));
        }
    }

    /// What a successor may serve in the place of this agent, and who has arrived.
    pub fn given(&self) -> Given<'_> {
        Given {
            metrics: self.tcp.as_ref().map(|tcp| tcp.copy.as_fd()),
            plugins: self.plugins.as_ref().map(|plugins| plugins.copy.as_fd()),
            arrivals: self.heard.0.inheritance(),
            ..Given::default()
        }
    }

    /// The successor has them: the files stay, and the listener for metrics if it is that one's now.
    pub fn leave(&mut self, metrics: bool) {
        if let Some(door) = self.open.take() {
            door.stays().set();
        }
        if let Some(Unix { stage, stays }) = self.unix.take() {
            stays.set();
            stage.shutdown.cancel();
        }
        // Its listener is the successor's, or has been replaced.
        self.plugins = None;
        if metrics && let Some(Tcp { stage, .. }) = self.tcp.take() {
            stage.shutdown.cancel();
        }
    }

    pub async fn close(self) {
        drop(self.open);
        let plugins = self.plugins.and_then(|plugins| plugins.stage);
        let unix = self.unix.map(|unix| unix.stage).into_iter().chain(plugins);
        for stage in unix.chain(self.tcp.map(|tcp| tcp.stage)) {
            stage.stop().await;
        }
    }

    fn serve_unix(&mut self, socket: AdminSocket) {
        let (stage, stays) = (Stage::new(), socket.stays());
        stage.tasks.spawn(self.admin.clone().serve_unix(socket, stage.shutdown.clone()));
        self.unix = Some(Unix { stage, stays });
    }

    fn hear_plugins(&mut self, socket: Result<AdminSocket, AdminError>) {
        let heard = socket.map_err(anyhow::Error::from).and_then(|socket| {
            let (stage, stays) = (Stage::new(), socket.stays());
            let copy = socket.copy().context("copying a listener")?;
            let (arrivals, shared) = self.heard.clone();
            let heard = arrivals::serve(arrivals, socket, shared, stage.shutdown.clone());
            stage.tasks.spawn(heard);
            Ok(Plugins { stage: Some(stage), stays, copy })
        });
        match heard {
            Ok(plugins) => self.plugins = Some(plugins),
            // Only where that plugin is used is anything missing, and there nothing is open for it.
            Err(error) => {
                warn!(error = format!("{error:#}"), "no plugin of the container network is heard");
            }
        }
    }

    fn serve_tcp(&mut self, listener: TcpListener) -> Result<()> {
        let copy = listener.as_fd().try_clone_to_owned().context("copying a listener")?;
        let stage = Stage::new();
        stage.tasks.spawn(self.admin.clone().serve_tcp(listener, stage.shutdown.clone()));
        self.tcp = Some(Tcp { stage, copy });
        Ok(())
    }
}

fn no_door(error: &anyhow::Error) {
    warn!(
        error = format!("{error:#}"),
        "no other agent can take over from this one while it lives"
    );
}

/// The predecessor's, if it is for this address; its own one if that is free by now.
fn inherited(address: SocketAddr, listener: Option<OwnedFd>) -> Result<TcpListener> {
    let Some(listener) = listener else { return Ok(bind_tcp(address)?) };
    let listener = StdListener::from(listener);
    ensure!(listener.local_addr()? == address, "the other agent's listener has another address");
    Ok(TcpListener::from_std(listener)?)
}
