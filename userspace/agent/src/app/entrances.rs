//! Where the agent is asked about itself, and for its place.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use martlet_standalone::Settings;
use martlet_telemetry::{
    Admin, AdminError, AdminSocket, FileStays, bind_socket, bind_tcp, replace_socket,
};
use tokio::net::TcpListener;
use tracing::{error, warn};

use super::Stage;
use crate::{
    arrivals::{self, Arrivals},
    reports::Shared,
    takeover::{Claim, Door, Successor},
    workloads::chain,
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
    plugins: Option<Unix>,
    tcp: Option<Tcp>,
    open: Option<Door>,
}

struct Unix {
    stage: Stage,
    stays: FileStays,
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

    /// All that are not open yet, of an agent without a predecessor.
    pub fn open(&mut self) -> Result<()> {
        self.serve_unix(bind_socket(&self.socket)?);
        if let Some(address) = self.metrics.filter(|_| self.tcp.is_none()) {
            self.serve_tcp(bind_tcp(address)?)?;
        }
        self.hear_plugins(bind_socket(&self.arrivals));
        match Door::open(&self.door, self.claim.clone()) {
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
    pub fn replace(&mut self, before: Option<String>, metrics: Option<OwnedFd>) {
        match replace_socket(&self.socket) {
            Ok(socket) => self.serve_unix(socket),
            Err(error) => error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the agent can't be asked about itself"
            ),
        }
        self.hear_plugins(replace_socket(&self.arrivals));
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

    /// What a successor may serve in the place of this agent.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.tcp.as_ref().map(|tcp| tcp.copy.as_fd())
    }

    /// The successor has them: the files stay, and the listener for metrics if it is that one's now.
    pub fn leave(&mut self, metrics: bool) {
        if let Some(door) = self.open.take() {
            door.stays().set();
        }
        for Unix { stage, stays } in [self.unix.take(), self.plugins.take()].into_iter().flatten() {
            stays.set();
            stage.shutdown.cancel();
        }
        if metrics && let Some(Tcp { stage, .. }) = self.tcp.take() {
            stage.shutdown.cancel();
        }
    }

    pub async fn close(self) {
        drop(self.open);
        let unix = [self.unix, self.plugins].into_iter().flatten().map(|unix| unix.stage);
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
        match socket {
            Ok(socket) => {
                let (stage, stays) = (Stage::new(), socket.stays());
                let (arrivals, shared) = self.heard.clone();
                let heard = arrivals::serve(arrivals, socket, shared, stage.shutdown.clone());
                stage.tasks.spawn(heard);
                self.plugins = Some(Unix { stage, stays });
            }
            // Only where that plugin is used is anything missing, and there nothing is open for it.
            Err(error) => {
                warn!(error = chain(&error), "no plugin of the container network is heard");
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
