//! The socket at which the plugin of the container network asks.

use std::{fs::File, io, sync::Arc};

use martlet_cni::{
    limits::MESSAGE_BYTES,
    message::{Answer, Ask},
};
use martlet_kernel::receive_passed;
use martlet_telemetry::AdminSocket;
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::UnixStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::Arrivals;
use crate::{
    limits::{ACCEPT_PAUSE, ARRIVAL_TIMEOUT, ARRIVALS_AT_ONCE},
    reports::Shared,
};

/// Answers until `shutdown`, and then whoever has asked.
pub async fn serve(
    arrivals: Arc<Arrivals>,
    socket: AdminSocket,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) {
    let (places, tasks) = (Arc::new(Semaphore::new(ARRIVALS_AT_ONCE)), TaskTracker::new());
    let accepting = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match socket.accept().await {
                Ok(stream) => {
                    let (arrivals, shared) = (arrivals.clone(), shared.clone());
                    tasks.spawn(async move {
                        answer(&arrivals, stream, &shared).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "the plugin of the container network is not heard");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    tasks.close();
    tasks.wait().await;
}

async fn answer(arrivals: &Arrivals, stream: UnixStream, shared: &Shared) {
    let said = timeout(ARRIVAL_TIMEOUT, hear(&stream)).await;
    let answer = match said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok((Ask::Arrives(arrival), Some(netns))) => arrivals.arrives(arrival, netns, shared).await,
        Ok((Ask::Arrives(_), None)) => {
            Answer::No { why: "no network namespace was passed".to_owned() }
        }
        Ok((Ask::Leaves { sandbox }, _)) => {
            arrivals.leaves(&sandbox);
            Answer::Go
        }
        Err(error) => Answer::No { why: format!("the question is not understood: {error}") },
    };
    if let Err(error) = say(stream, &answer).await {
        debug!(%error, "the plugin of the container network has not waited");
    }
}

/// One line, and the descriptor that came with its beginning.
async fn hear(stream: &UnixStream) -> io::Result<(Ask, Option<File>)> {
    let (mut line, mut passed, mut buffer) = (Vec::new(), None, [0; 4096]);
    while !line.ends_with(b"\n") {
        stream.readable().await?;
        let received = stream.try_io(Interest::READABLE, || receive_passed(stream, &mut buffer));
        let (count, file) = match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            received => received?,
        };
        passed = passed.or(file);
        line.extend_from_slice(&buffer[..count]);
        if count == 0 || line.len() > MESSAGE_BYTES {
            return Err(io::Error::other("it is no line, or too long"));
        }
    }
    Ok((serde_json::from_slice(&line)?, passed))
}

async fn say(mut stream: UnixStream, answer: &Answer) -> io::Result<()> {
    let line = serde_json::to_string(answer)? + "\n";
    let said = timeout(ARRIVAL_TIMEOUT, stream.write_all(line.as_bytes())).await;
    said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
