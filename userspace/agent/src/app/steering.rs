//! What changes the kernel. It can be halted, and goes on as if nothing had been.

use std::sync::Arc;

use martlet_control::Client;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Stage;
use crate::{coverage, reports::Shared, workloads::Workloads};

/// It changes the kernel.
pub struct Steering {
    workloads: JoinHandle<Workloads>,
    stage: Stage,
    shared: Arc<Shared>,
}

/// It does not.
pub struct Halted {
    pub workloads: Workloads,
    shared: Arc<Shared>,
}

impl Steering {
    pub fn start(workloads: Workloads, shared: Arc<Shared>) -> Self {
        let stage = Stage::new();
        stage.tasks.spawn(coverage::run(shared.clone(), stage.shutdown.clone()));
        let workloads = tokio::spawn(workloads.run(stage.shutdown.clone()));
        Self { workloads, stage, shared }
    }

    pub async fn halt(self) -> Halted {
        let Self { workloads, stage, shared } = self;
        stage.stop().await;
        let workloads = match workloads.await {
            Ok(workloads) => workloads,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        };
        Halted { workloads, shared }
    }
}

impl Halted {
    pub fn go_on(self) -> Steering {
        let Self { mut workloads, shared } = self;
        workloads.take_back();
        Steering::start(workloads, shared)
    }
}

/// The connection to the controller, if there is one.
pub struct Following {
    client: Option<Client>,
    stage: Option<Stage>,
}

impl Following {
    /// It is not there yet.
    pub fn of(client: Option<&Client>) -> Self {
        Self { client: client.cloned(), stage: None }
    }

    pub fn begin(&mut self) {
        let (Some(client), None) = (&self.client, &self.stage) else { return };
        let stage = Stage::new();
        let shutdown: CancellationToken = stage.shutdown.clone();
        stage.tasks.spawn(client.clone().run(shutdown));
        self.stage = Some(stage);
    }

    pub async fn end(&mut self) {
        if let Some(stage) = self.stage.take() {
            stage.stop().await;
        }
    }
}
