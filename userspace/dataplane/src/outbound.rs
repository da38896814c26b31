//! A connection that a workload of this node opens: origin, route, permit, lane, relay, record.

use std::{io, net::SocketAddr, sync::Arc};

use martlet_identity::originate;
use martlet_model::{Closed, ConnectionId, Party, Protection, Reporter, Workload};
use martlet_policy::{Permit, Request};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    Dataplane, Local,
    frame::Frame,
    lane::{self, Lane},
    limits::DIAL_TIMEOUT,
    pool::Key,
    record::{Draft, party},
    relay::{End, Side, relay, reset},
    resolve::{Route, resolve},
};

/// A way to a destination that is open and permitted.
enum Way {
    Lane { lane: Box<Lane>, key: Key, permit: Permit },
    Plain { stream: TcpStream, protection: Protection, permit: Permit },
}

impl Dataplane {
    /// Carries one connection from accept to record. `origin` is where it wanted to go, if it was
    /// steered here.
    pub async fn outbound(
        self: Arc<Self>,
        local: Arc<Local>,
        mut application: TcpStream,
        source: SocketAddr,
        origin: Option<SocketAddr>,
    ) {
        let id = ConnectionId(rand::random());
        let mut draft = Draft::new(id, Reporter::Source);
        draft.record.source = party(&local.workload, source);
        draft.record.origin = origin;
        let closed = match self.way(&local, source, origin, &mut draft).await {
            Err(closed) => {
                reset(&application);
                closed
            }
            Ok(way) => self.carry(way, &mut application, source, &mut draft).await,
        };
        draft.close(&self, closed);
    }

    async fn way(
        &self,
        local: &Local,
        source: SocketAddr,
        origin: Option<SocketAddr>,
        draft: &mut Draft,
    ) -> Result<Way, Closed> {
        let origin = origin.ok_or(Closed::NoOrigin)?;
        let view = self.view.load_full();
        let mut last = Closed::NoEndpoint;
        for route in resolve(&view.directory, &local.workload, origin)? {
            draft.record.destination = Party { address: Some(route.address()), ..Party::default() };
            let attempt = match &route {
                Route::Mesh { address, workload } => {
                    draft.record.destination.workload = Some(workload.name.clone());
                    let request = Request {
                        caller: &local.workload.identity,
                        caller_address: source.ip(),
                        callee: workload,
                        port: address.port(),
                    };
                    let permit = view.policies.authorize(&request).map_err(|denied| {
                        draft.record.policy = Some(denied.policy);
                        Closed::Denied
                    })?;
                    self.mesh(local, *address, workload, permit, draft).await
                }
                Route::Own { address } => {
                    let permit = view.policies.authorize_own(&local.workload);
                    let stream = dial(local, *address).await;
                    let protection = Protection::Internal;
                    stream.map(|stream| Way::Plain { stream, protection, permit })
                }
                Route::Outside { address } => {
                    let permit = view.policies.authorize_outside(&local.workload);
                    let stream = dial(local, *address).await;
                    let protection = Protection::Plaintext;
                    stream.map(|stream| Way::Plain { stream, protection, permit })
                }
            };
            match attempt {
                Ok(way) => return Ok(way),
                // Another endpoint may be reached where this one is not.
                Err(
                    unreached @ (Closed::DialRefused
                    | Closed::DialTimedOut
                    | Closed::DialUnreachable),
                ) => last = unreached,
                Err(closed) => return Err(closed),
            }
        }
        Err(last)
    }

    /// A lane from the pool, or a new one.
    async fn mesh(
        &self,
        local: &Local,
        address: SocketAddr,
        workload: &Workload,
        permit: Permit,
        draft: &mut Draft,
    ) -> Result<Way, Closed> {
        let key = Key {
            caller: local.workload.name.clone(),
            destination: address,
            identity: workload.identity.clone(),
        };
        let kept = self.pool.take(&key, local.credentials.generation());
        let warm = kept.is_some();
        let lane = match kept {
            Some(lane) => lane,
            None => {
                let transport = dial(local, address).await?;
                lane::prepare(&transport).map_err(|_| Closed::DialUnreachable)?;
                let secured = originate(transport, &local.credentials, &workload.identity).await;
                Lane::new(secured.map_err(|error| {
                    let (peer, workload) = (address, &workload.name);
                    tracing::warn!(%error, %peer, %workload, "a lane was not opened");
                    error.closed()
                })?)
            }
        };
        draft.record.destination.identity = Some(lane.stream.peer().identity().clone());
        draft.protected(lane.stream.facts(), warm);
        Ok(Way::Lane { lane: Box::new(lane), key, permit })
    }

    async fn carry(
        &self,
        way: Way,
        application: &mut TcpStream,
        source: SocketAddr,
        draft: &mut Draft,
    ) -> Closed {
        match way {
            Way::Lane { mut lane, key, permit } => {
                let open = Frame::Open { source_port: source.port(), id: draft.record.id };
                let side = Side::Caller;
                let bytes = &mut draft.bytes;
                let end = relay(application, &mut lane, side, Some(&open), &permit, bytes).await;
                match &end {
                    End::Finished => self.pool.put(key, *lane),
                    _ => reset(application),
                }
                draft.ended(side, &end)
            }
            Way::Plain { mut stream, protection, permit } => {
                draft.record.protection = protection;
                plain(application, &mut stream, &permit, draft).await
            }
        }
    }
}

/// Relays without a lane: inside a pod, or to an endpoint outside the mesh.
async fn plain(
    application: &mut TcpStream,
    stream: &mut TcpStream,
    _permit: &Permit,
    draft: &mut Draft,
) -> Closed {
    match tokio::io::copy_bidirectional(application, stream).await {
        Ok((sent, received)) => {
            (draft.bytes.sent, draft.bytes.received) = (sent, received);
            Closed::Finished
        }
        Err(_) => {
            reset(application);
            reset(stream);
            Closed::ResetByCallee
        }
    }
}

async fn dial(local: &Local, to: SocketAddr) -> Result<TcpStream, Closed> {
    match timeout(DIAL_TIMEOUT, local.dial.dial(to, None)).await {
        Err(_) => Err(Closed::DialTimedOut),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(match error.kind() {
            io::ErrorKind::ConnectionRefused => Closed::DialRefused,
            io::ErrorKind::TimedOut => Closed::DialTimedOut,
            _ => Closed::DialUnreachable,
        }),
    }
}
