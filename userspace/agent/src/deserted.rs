//! An application has stopped to listen: the lanes that stand at its port leave, so that it can
//! listen there again, also without SO_REUSEADDR.

use std::{collections::HashSet, sync::Arc};

use martlet_dataplane::Dataplane;
use martlet_kernel::{Desertion, Desertions, Node};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{limits::DESERTION_PAUSE, workloads::chain};

/// Until `shutdown`. What nobody hears of is no more than a lane that stands until it was idle for
/// long.
pub async fn run(
    mut desertions: Desertions,
    node: Arc<Node>,
    dataplane: Arc<Dataplane>,
    shutdown: CancellationToken,
) {
    while let Some(told) = shutdown.run_until_cancelled(desertions.next()).await {
        match told {
            Ok(ports) => heed(&node, &dataplane, ports),
            Err(error) => {
                return warn!(error = chain(&error), "not known when applications stop to listen");
            }
        }
        // Whoever opens and closes ports all the time does not keep a thread busy.
        sleep(DESERTION_PAUSE).await;
    }
}

fn heed(node: &Node, dataplane: &Dataplane, ports: HashSet<Desertion>) {
    for port in ports {
        for at in dataplane.standing_at(port.port()) {
            match node.is_deserted(&port, at) {
                Ok(true) => dataplane.desert(at),
                Ok(false) => {}
                Err(error) => debug!(%at, error = chain(&error), "not known who listens"),
            }
        }
    }
}
