//! What the agent is told by signals.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// The node file is to be read again.
    pub reload: Arc<Notify>,
    /// The access log is to be opened again.
    pub reopen: Arc<Notify>,
}

impl Signals {
    pub fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            reload: Arc::default(),
            reopen: Arc::default(),
        })
    }

    /// SIGHUP reads the node file again, and opens the access log again.
    pub async fn until_asked_to_stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    self.reload.notify_one();
                    self.reopen.notify_one();
                }
            }
        }
    }
}
