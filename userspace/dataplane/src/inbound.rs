//! A lane that arrives at a workload of this node, and each connection that it carries: peer,
//! permit, dial, relay, record.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use martlet_identity::terminate;
use martlet_model::{Closed, ConnectionId, Party, Reporter};
use martlet_policy::{Permit, Request};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    Dataplane, Local,
    frame::Frame,
    lane::{self, Lane, LaneError, Word},
    limits::{APPLICATION_TIMEOUT, FAREWELL_TIMEOUT, IDLE_OPEN},
    record::{Draft, party},
    relay::{End, Side, relay, reset},
};

/// A refusal on its way to the caller.
struct Refusal {
    closed: Closed,
    policy: String,
}

impl Dataplane {
    /// Carries one lane from accept to its end. `destination` is the address that the lane was
    /// dialled to: the application's own.
    pub async fn inbound(
        self: Arc<Self>,
        local: Arc<Local>,
        transport: TcpStream,
        source: SocketAddr,
        destination: SocketAddr,
    ) {
        let mut draft = Draft::new(ConnectionId(rand::random()), Reporter::Destination);
        draft.record.source.address = Some(source);
        draft.record.destination = party(&local.workload, destination);
        let prepared = lane::prepare(&transport);
        let secured = match prepared {
            Ok(()) => terminate(transport, &local.credentials).await,
            Err(error) => Err(martlet_identity::HandshakeError::Io(error)),
        };
        let mut lane = match secured {
            Ok(secured) => Lane::new(secured),
            Err(error) => {
                tracing::warn!(%error, peer = %source, "a lane was not accepted");
                return draft.close(&self, error.closed());
            }
        };
        let mut warm = false;
        while let Some(opened) = next_open(&mut lane).await {
            let (source_port, id) = match opened {
                Ok(open) => open,
                Err(violation) => {
                    tracing::warn!(%violation, peer = %source, "the peer broke the lane protocol");
                    return draft.close(&self, Closed::LaneViolation);
                }
            };
            let caller = SocketAddr::new(source.ip(), source_port);
            if !self.connection(&local, &mut lane, caller, destination, id, warm).await {
                return;
            }
            warm = true;
        }
    }

    /// One connection; whether the lane can carry another.
    async fn connection(
        &self,
        local: &Local,
        lane: &mut Lane,
        caller: SocketAddr,
        destination: SocketAddr,
        id: ConnectionId,
        warm: bool,
    ) -> bool {
        let mut draft = Draft::new(id, Reporter::Destination);
        let peer = lane.stream.peer();
        let known = self.view.load().directory.workload_at(caller.ip()).cloned();
        draft.record.source = Party {
            address: Some(caller),
            identity: Some(peer.identity().clone()),
            // A name only where the directory and the certificate agree.
            workload: known.filter(|w| w.identity == *peer.identity()).map(|w| w.name.clone()),
        };
        draft.record.destination = party(&local.workload, destination);
        draft.protected(lane.stream.facts(), warm);
        let end = match self.admit(local, lane, caller, destination).await {
            Err(Refusal { closed, policy }) => {
                refuse(lane, closed, &policy).await;
                draft.record.policy = (!policy.is_empty()).then_some(policy);
                draft.close(self, closed);
                return false;
            }
            Ok((mut application, permit)) => {
                let bytes = &mut draft.bytes;
                let end = relay(&mut application, lane, Side::Callee, None, &permit, bytes).await;
                if !matches!(end, End::Finished) {
                    reset(&application);
                }
                end
            }
        };
        let closed = draft.ended(Side::Callee, &end);
        draft.close(self, closed);
        matches!(end, End::Finished)
    }

    /// Authorizes, and dials the application.
    async fn admit(
        &self,
        local: &Local,
        lane: &Lane,
        caller: SocketAddr,
        destination: SocketAddr,
    ) -> Result<(TcpStream, Permit), Refusal> {
        let refusal = |closed| Refusal { closed, policy: String::new() };
        let ours = local.workload.addresses.iter().any(|ip| *ip == destination.ip().to_canonical());
        if !ours {
            return Err(refusal(Closed::NoRoute));
        }
        let peer = lane.stream.peer();
        if peer.not_after() <= SystemTime::now() {
            return Err(refusal(Closed::PeerExpired));
        }
        let permit = self
            .view
            .load()
            .policies
            .authorize(&Request {
                caller: peer.identity(),
                caller_address: caller.ip(),
                callee: &local.workload,
                port: destination.port(),
            })
            .map_err(|denied| Refusal { closed: Closed::Denied, policy: denied.policy })?;
        let dialling = local.dial.dial(destination, Some(caller));
        match timeout(APPLICATION_TIMEOUT, dialling).await {
            Ok(Ok(application)) => Ok((application, permit)),
            Ok(Err(_)) => Err(refusal(Closed::ApplicationRefused)),
            Err(_) => Err(refusal(Closed::ApplicationTimedOut)),
        }
    }
}

/// The next connection's source port and name; `None` when the lane ends as it may.
async fn next_open(lane: &mut Lane) -> Option<Result<(u16, ConnectionId), String>> {
    let word = std::future::poll_fn(|context| lane.poll_word(context));
    match timeout(IDLE_OPEN, word).await {
        Err(_) | Ok(Ok(Word::End) | Err(LaneError::Transport(_))) => None,
        Ok(Ok(Word::Control(Frame::Open { source_port, id }))) => Some(Ok((source_port, id))),
        Ok(Ok(Word::Data)) => Some(Err("data without a connection".into())),
        Ok(Ok(Word::Control(frame))) => Some(Err(format!("{frame:?} without a connection"))),
        Ok(Err(LaneError::Violation(error))) => Some(Err(error.to_string())),
    }
}

/// Says why, and ends the lane: what the caller has sent meanwhile belongs to nobody.
async fn refuse(lane: &mut Lane, reason: Closed, policy: &str) {
    let mut bytes = Vec::new();
    Frame::Refused { reason, policy: policy.to_owned() }.write(&mut bytes);
    let say = async {
        use tokio::io::AsyncWriteExt as _;
        lane.stream.write_all(&bytes).await?;
        lane.stream.shutdown().await?;
        // Reads to the end, so that the refusal is not overtaken by a RST for unread bytes.
        tokio::io::copy(&mut lane.stream, &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = timeout(FAREWELL_TIMEOUT, say).await {
        tracing::debug!(%error, "a refusal was not delivered");
    }
}
