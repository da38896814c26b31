//! An agent in a pod and one that can't hand over to it: of a version from before takeovers, or with
//! another layout of the kernel's maps.
//!
//! Where the next pod is made before the last one goes, each would wait for the other for ever. So the
//! one that lives is asked to stop, in order, as its pod's end would: it serves on for as long as then.
//! Only an agent in a pod does so: it was made to be in the place of the other one. Before it gives up
//! its rights, since later it can signal nobody.

use std::{io, os::unix::net::UnixStream, path::Path};

use anyhow::{Result, bail};
use martlet_kernel::{Hold, KernelError, peer_of, terminate};
use martlet_standalone::NodeFile;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{
    Claim,
    predecessor::{Answer, ask},
};
use crate::limits::{STOP_LOOK, TAKEOVER_FIND};

/// What one that was stopped has left.
#[derive(Debug)]
pub struct Way {
    pub hold: Hold,
    /// What starts it again, if that is known: until its pod has gone, it does.
    pub before: Option<String>,
}

/// Stops an agent that lives on this node and can't hand over. `None`: there is none, or it is not for
/// this one to stop.
///
/// # Errors
///
/// It does not stop.
pub async fn make_way(file: &NodeFile, claim: &Claim) -> Result<Option<Way>> {
    let (door, pin) = (file.settings.places().takeover_socket(), &file.settings.pin);
    let deadline = Instant::now() + TAKEOVER_FIND;
    let (mut is_asked, mut before) = (false, None);
    loop {
        let why = match ask(&door, claim).await {
            // Whatever it is: it is said when the place is asked for.
            Err(_) | Ok(Answer::Yes { .. }) => return Ok(None),
            Ok(Answer::Ended) => None,
            Ok(Answer::Layout { instance, .. }) => {
                before = instance.or(before);
                Some("its layout of the kernel's maps is another one")
            }
            Ok(Answer::Nobody) => match Hold::take(pin) {
                Ok(hold) => return Ok(is_asked.then_some(Way { hold, before })),
                Err(KernelError::PinInUse { .. }) => Some("its version knows no successors"),
                Err(_) => return Ok(None),
            },
        };
        if let (Some(why), false) = (why, is_asked) {
            if let Err(error) = stop(&file.settings.socket) {
                let hint = "delete its pod";
                warn!(%error, hint, "the agent that lives on this node can't be asked to stop");
                return Ok(None);
            }
            is_asked = true;
            warn!(
                why,
                "the agent that lives on this node can't hand over, and was asked to stop: enrolled pods are refused from its end until this one serves"
            );
        }
        if Instant::now() > deadline {
            bail!(
                "the agent that lives on this node can't hand over and does not stop; delete its pod"
            );
        }
        sleep(STOP_LOOK).await;
    }
}

/// By the socket at which it is asked about itself.
fn stop(socket: &Path) -> io::Result<()> {
    terminate(peer_of(&UnixStream::connect(socket)?)?)
}
