//! A workload of this node, as the data plane needs it.

use std::{sync::Arc, time::Duration};

use martlet_identity::Credentials;
use martlet_model::{Closed, Workload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::{
    Dial,
    limits::{CONNECTIONS_PER_WORKLOAD, HANDSHAKES_IN, HANDSHAKES_OUT, TURN_TIMEOUT},
};

/// Its bounds are its own, so that one busy or attacked workload takes nothing from another.
pub struct Local {
    pub workload: Arc<Workload>,
    pub credentials: Arc<Credentials>,
    /// Dials from inside the workload's network namespace.
    pub dial: Arc<dyn Dial>,
    connections: Arc<Semaphore>,
    handshakes_out: Semaphore,
    handshakes_in: Semaphore,
    /// Cancelled when the workload is gone from this node, or is somebody else now.
    pub(crate) retired: CancellationToken,
}

/// Which role a handshake of ours has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    Originate,
    Terminate,
}

impl Local {
    pub fn new(
        workload: Arc<Workload>,
        credentials: Arc<Credentials>,
        dial: Arc<dyn Dial>,
    ) -> Self {
        Self {
            workload,
            credentials,
            dial,
            connections: Arc::new(Semaphore::new(CONNECTIONS_PER_WORKLOAD)),
            handshakes_out: Semaphore::new(HANDSHAKES_OUT),
            handshakes_in: Semaphore::new(HANDSHAKES_IN),
            retired: CancellationToken::new(),
        }
    }

    /// Whether its lanes are not used again.
    pub fn is_retired(&self) -> bool {
        self.retired.is_cancelled()
    }

    /// A place among the workload's connections.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Closed> {
        self.connections.clone().try_acquire_owned().map_err(|_| Closed::LimitReached)
    }

    /// Waits for a turn to shake hands.
    pub(crate) async fn turn(&self, role: Handshake) -> Result<SemaphorePermit<'_>, Closed> {
        let turns = match role {
            Handshake::Originate => &self.handshakes_out,
            Handshake::Terminate => &self.handshakes_in,
        };
        within(TURN_TIMEOUT, turns).await
    }
}

async fn within(time: Duration, turns: &Semaphore) -> Result<SemaphorePermit<'_>, Closed> {
    match tokio::time::timeout(time, turns.acquire()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(Closed::LimitReached),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_get_a_turn_in_time_is_told_of_the_limit() {
        let turns = Semaphore::new(1);
        let first = within(TURN_TIMEOUT, &turns).await.unwrap();
        assert_eq!(within(TURN_TIMEOUT, &turns).await.unwrap_err(), Closed::LimitReached);
        drop(first);
        assert!(within(TURN_TIMEOUT, &turns).await.is_ok());
    }
}
