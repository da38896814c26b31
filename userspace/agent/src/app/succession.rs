//! How one agent has the place of another: what the successor does, and what the predecessor.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use martlet_dataplane::Dataplane;
use martlet_kernel::{Estate, Hold, KernelError, Prepared, Settings};
use martlet_telemetry::{Metrics, Outcome};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Signals,
    entrances::Entrances,
    steering::{Following, Halted, Steering},
};
use crate::{
    limits::{DRAIN_SAID, HANDED_DRAIN_TIMEOUT, STOP_LOOK, TAKEOVER_FIND},
    reports::Shared,
    takeover::{Drains, Given, Predecessor, Successor, Taking},
    told::Told,
    workloads::Workloads,
};

/// The programs, loaded, and what to attach them with. A predecessor is asked for it at the last moment.
pub async fn prepare(
    kernel: &Settings,
    predecessor: Option<Predecessor>,
    hold: Option<Hold>,
) -> Result<(Prepared, Estate, Option<Taking>)> {
    let loading = "loading the kernel programs";
    let Some(predecessor) = predecessor else {
        let hold = hold.map_or_else(|| Hold::take(&kernel.pin), Ok).context(loading)?;
        let estate = Estate::of(hold);
        return Ok((Prepared::load(kernel).context(loading)?, estate, None));
    };
    let prepared = Prepared::load(kernel).context(loading)?;
    let mut taking = predecessor.take().await?;
    let mut estate = std::mem::take(&mut taking.received.estate);
    if !estate.has_hold() {
        estate.set_hold(hold_soon(&kernel.pin).await?);
    }
    Ok((prepared, estate, Some(taking)))
}

/// Of a predecessor that has ended, or is about to.
async fn hold_soon(pin: &Path) -> Result<Hold> {
    let deadline = Instant::now() + TAKEOVER_FIND;
    loop {
        match Hold::take(pin) {
            Err(KernelError::PinInUse { .. }) if Instant::now() < deadline => {}
            held => return held.context("taking the place of an agent that is ending"),
        }
        sleep(STOP_LOOK).await;
    }
}

/// The other agent is not needed any more: from now on this one serves. After an error the other one
/// does.
pub async fn take_over(
    mut taking: Taking,
    workloads: &mut Workloads,
    entrances: &mut Entrances,
) -> Result<Drains> {
    let metrics = taking.received.metrics.take().filter(|_| entrances.lacks_metrics());
    let (before, plugins) = (taking.before.clone(), taking.received.plugins.take());
    let drains = taking.finish(metrics.is_some()).await?;
    workloads.serve();
    entrances.replace(before, metrics, plugins);
    info!("taken over from the agent that lived here");
    Ok(drains)
}

/// Until the predecessor has ended.
pub async fn watch(mut drains: Drains, shared: Arc<Shared>, shutdown: CancellationToken) {
    let watching = async {
        while let Some(open) = drains.open().await {
            shared.set_predecessor(Some(open));
        }
        shared.set_predecessor(None);
        info!("the agent that was taken over from has ended");
    };
    shutdown.run_until_cancelled(watching).await;
}

/// What a successor can have of this agent.
pub struct Place {
    /// `None` where nothing is steered.
    pub steering: Option<Steering>,
    pub following: Following,
    pub entrances: Entrances,
    pub metrics: Arc<Metrics>,
    pub shared: Arc<Shared>,
    pub dataplane: Arc<Dataplane>,
}

/// Why this agent does not go on.
pub enum Over {
    /// It was told to stop.
    Told,
    /// Another agent has its place.
    Handed(Handed),
}

/// An agent that has handed over.
pub struct Handed {
    successor: Successor,
    workloads: Option<Box<Workloads>>,
}

impl Place {
    /// The next that wants the place; `None` when this agent is told to stop. May be dropped.
    pub async fn asked(&self, signals: &mut Signals) -> Option<Successor> {
        tokio::select! {
            () = signals.until_asked_to_stop() => None,
            successor = self.entrances.successor() => Some(successor),
        }
    }

    /// Until there is anything to go by; or until this agent is told to stop, or has handed over.
    pub async fn until_told(&mut self, told: &mut Told, signals: &mut Signals) -> Option<Over> {
        loop {
            let asked = tokio::select! {
                () = told.first() => return None,
                asked = self.asked(signals) => asked,
            };
            let Some(successor) = asked else { return Some(Over::Told) };
            if let Some(handed) = self.hand_over(successor).await {
                return Some(Over::Handed(handed));
            }
        }
    }

    /// Goes on until it is told to stop, or has handed over.
    pub async fn until_over(&mut self, signals: &mut Signals) -> Over {
        loop {
            let Some(successor) = self.asked(signals).await else { return Over::Told };
            if let Some(handed) = self.hand_over(successor).await {
                return Over::Handed(handed);
            }
        }
    }

    /// Not to be dropped before it has ended. `None`: this agent goes on as before.
    pub async fn hand_over(&mut self, mut successor: Successor) -> Option<Handed> {
        info!(version = successor.version, "another agent begins to take over");
        // What plugins have asked is answered while what they wait for still comes.
        self.entrances.pause_plugins().await;
        let mut halted = match self.steering.take() {
            Some(steering) => Some(steering.halt().await),
            None => None,
        };
        // A controller listens to one agent of a node at a time.
        self.following.end().await;
        let estate = halted.as_ref().map(|halted| halted.workloads.estate()).transpose();
        let handed = match estate.context("gathering what it needs") {
            Ok(estate) => {
                let given = Given {
                    estate: estate.unwrap_or_default(),
                    stayings: self.dataplane.stayings(),
                    ..self.entrances.given()
                };
                successor.hand(&given).await
            }
            Err(error) => Err(error),
        };
        match handed {
            Ok(metrics) => {
                if let Some(halted) = &mut halted {
                    halted.workloads.resign().await;
                }
                successor.has_it().await;
                self.entrances.leave(metrics);
                self.shared.set_handed_over();
                Some(Handed {
                    successor,
                    workloads: halted.map(|halted| Box::new(halted.workloads)),
                })
            }
            Err(error) => {
                let why = format!("{error:#}");
                warn!(why, "the other agent has not taken over: this one goes on");
                successor.take_back(&why).await;
                self.metrics.takeover(Outcome::Failure);
                self.following.begin();
                self.steering = halted.map(Halted::go_on);
                self.entrances.resume_plugins();
                None
            }
        }
    }
}

impl Handed {
    /// Carries what is open to its end. `is_told`: whether this agent was told to stop before; being told
    /// again ends what is open.
    pub async fn carry(
        self,
        dataplane: &Dataplane,
        signals: &mut Signals,
        instance: Option<&str>,
        mut is_told: bool,
    ) {
        let patience = HANDED_DRAIN_TIMEOUT;
        info!(
            open = dataplane.open(),
            ?patience,
            "handed over; what is open is carried to its end"
        );
        // Systemd is not told: it would not wait for so long.
        let Self { successor, workloads } = self;
        let said = async {
            successor.told_of(|| dataplane.open(), DRAIN_SAID).await;
            std::future::pending::<()>().await;
        };
        let heeding = async {
            match workloads {
                Some(workloads) => match workloads.heed().await {},
                None => std::future::pending::<()>().await,
            }
        };
        let meanwhile = async {
            tokio::join!(said, heeding);
        };
        let (leaving, mut meanwhile) = (dataplane.leave(patience), Box::pin(meanwhile));
        let mut leaving = Box::pin(leaving);
        loop {
            tokio::select! {
                () = &mut leaving => break,
                () = &mut meanwhile => {}
                () = signals.until_asked_to_stop() => {
                    if std::mem::replace(&mut is_told, true) {
                        dataplane.shutdown(Duration::ZERO).await;
                        break;
                    }
                }
            }
        }
        if instance.is_some() && !is_told {
            info!("all that was open has ended; waiting to be told to stop");
            signals.until_asked_to_stop().await;
        }
    }
}
