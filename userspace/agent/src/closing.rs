//! What becomes of the plaintext that a workload has when it becomes strict, or when its peers join
//! the mesh: it is closed, counted, and said.

use martlet_dataplane::{Dataplane, Local};
use martlet_kernel::{Closing, Ended, Pod};
use tracing::{info, warn};

use crate::{limits::CLOSING_LOOKS, workloads::chain};

/// How far the closing of one workload's plaintext is.
#[derive(Default)]
pub struct Plaintext {
    /// How often to look again: a connection may have been half made when it was looked for.
    looks: u32,
    /// Why some of it is still there.
    left: Option<String>,
}

impl Plaintext {
    /// Something has changed by which connections became unwanted.
    pub fn is_due(&mut self) {
        self.looks = CLOSING_LOOKS;
    }

    /// Why a strict workload still has connections in plaintext; the guard refuses what they carry.
    pub fn left(&self) -> Option<&String> {
        self.left.as_ref()
    }

    /// Closes what is there. Does nothing if nothing is due.
    pub fn close(&mut self, local: &Local, pod: &Pod, dataplane: &Dataplane) {
        if self.looks == 0 && self.left.is_none() {
            return;
        }
        self.looks = self.looks.saturating_sub(1);
        let name = &local.workload.name;
        let left = match pod.close_plaintext() {
            Ok(Closing { ended, left }) => {
                let outbound = ended.iter().filter(|ended| ended.is_outbound).count();
                let inbound = ended.len() - outbound;
                if !ended.is_empty() {
                    info!(workload = %name, inbound, outbound, "plaintext connections were closed");
                }
                for Ended { local: own, remote, is_outbound } in ended {
                    dataplane.plaintext_closed(local, own, remote, is_outbound);
                }
                (left > 0).then(|| {
                    "the kernel can't reset all of its older plaintext connections; \
                     the guard refuses what they carry"
                        .to_owned()
                })
            }
            Err(error) => Some(chain(&error)),
        };
        if let Some(why) = left.as_ref().filter(|_| left != self.left) {
            warn!(workload = %name, why, "plaintext connections are not closed");
        }
        self.left = left;
    }
}
