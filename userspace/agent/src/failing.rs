//! `failure: open`: what becomes of connections between permissive workloads while no agent lives.
//! Said to the kernel while one does, and said aloud.

use martlet_kernel::{FailedOpen, KernelError, Node};
use martlet_model::Failure;
use tracing::{info, warn};

use crate::workloads::chain;

#[derive(Default)]
pub struct Failing {
    /// What the kernel was told last.
    told: Option<Failure>,
}

impl Failing {
    /// Takes over what the node file says, or the controller over it.
    pub fn declare(&mut self, failure: Failure, node: &Node) -> Result<(), KernelError> {
        if self.told.is_none() {
            report_the_past(node);
        }
        node.set_fails_open(failure == Failure::Open)?;
        let before = self.told.replace(failure);
        match failure {
            Failure::Open if before != Some(failure) => warn!(
                "this node fails open: while no agent lives, its permissive workloads connect in plaintext, past every policy"
            ),
            Failure::Closed if before == Some(Failure::Open) => {
                info!("this node fails closed from now on");
            }
            _ => {}
        }
        Ok(())
    }
}

/// What passed while nobody was there to say so.
fn report_the_past(node: &Node) {
    match node.take_failed_open() {
        Ok(FailedOpen { opened: 0, accepted: 0 }) => {}
        Ok(FailedOpen { opened, accepted }) => {
            warn!(opened, accepted, "connections went in plaintext while no agent lived");
        }
        Err(error) => {
            warn!(error = chain(&error), "it is not known what went in plaintext without an agent");
        }
    }
}
