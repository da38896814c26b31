//! A connection that a workload of this node opens: origin, route, permit, lane, relay, record.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use martlet_identity::originate_saying;
use martlet_model::{Closed, Party, Protection, Workload};
use martlet_policy::{Permit, Request};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    Dataplane, Local, View,
    bound::Bound,
    dial,
    frame::Open,
    hands::Party as Turns,
    lane::{Lane, MutualLane},
    limits::{PONG_TIMEOUT, QUIET_LANE},
    live::Grounds,
    plain::plain,
    pool::{Key, Parked},
    record::{Draft, party},
    relay::{End, Ended, Side, relay},
    resolve::{Route, resolve},
    socket::Socket,
    stats::count,
};

/// A way to a destination that is open and permitted.
enum Way {
    /// The callee is still to hear `opening`, if there is one.
    Lane {
        lane: Box<MutualLane>,
        opening: Option<Open>,
        key: Box<Key>,
        permit: Permit,
        grounds: Grounds,
    },
    Plain {
        endpoint: Socket,
        permit: Permit,
    },
}

/// Why a connection does not come about.
pub struct Refusal {
    pub closed: Closed,
    /// The policy and its rule.
    pub policy: Option<String>,
    /// For the log.
    pub detail: Option<String>,
    /// If it is a bound of ours.
    pub bound: Option<Bound>,
}

impl From<Closed> for Refusal {
    fn from(closed: Closed) -> Self {
        Self { closed, policy: None, detail: None, bound: None }
    }
}

impl From<Bound> for Refusal {
    fn from(bound: Bound) -> Self {
        let detail = Some(bound.as_str().to_owned());
        Self { detail, bound: Some(bound), ..Closed::LimitReached.into() }
    }
}

/// From accept to record.
pub async fn carry(
    dataplane: &Dataplane,
    local: Arc<Local>,
    stream: TcpStream,
    origin: Option<SocketAddr>,
    mut draft: Draft,
) {
    let mut application = Socket::from_application(stream);
    // The application may give up before there is anything to relay.
    let gone = application.clone().failed();
    let way = tokio::select! {
        biased;
        way = Box::pin(find(dataplane, &local, origin, &mut draft)) => way,
        () = gone => Err(Closed::ResetByCaller.into()),
    };
    match way {
        Err(refusal) => {
            drop(application);
            dataplane.refused(draft, &local, refusal);
        }
        Ok(Way::Plain { mut endpoint, permit }) => {
            let listed = dataplane.registry.list(&draft, None);
            let account = local.account(Side::Caller);
            let relayed = plain(&permit, &mut application, &mut endpoint, &listed.live, account);
            let closed = relayed.await;
            match closed {
                Closed::Finished => [&application, &endpoint].map(Socket::end_in_order),
                _ => [&application, &endpoint].map(Socket::reset_on_close),
            };
            draft.count(&listed.live);
            dataplane.closed(draft, closed);
        }
        Ok(Way::Lane { mut lane, opening, key, permit, grounds }) => {
            let listed = dataplane.list(&draft, grounds);
            let side = Side::Caller;
            let relayed =
                relay(&permit, &mut lane, &mut application, side, opening, &listed.live, None);
            let ended = relayed.await;
            draft.count(&listed.live);
            drop(listed);
            if matches!(ended.end, End::Finished) {
                application.end_in_order();
            }
            drop(application);
            if dataplane.lane_closed(draft, &ended.end, side) {
                dataplane.pool.park(*key, lane, local);
            } else {
                Box::pin(part(lane, side, ended)).await;
            }
        }
    }
}

/// Tells the far side why, if it does not know. What it does not hear in time it sees as a broken
/// lane.
pub async fn part(mut lane: Box<MutualLane>, side: Side, ended: Ended) {
    let said = match ended.end.farewell(side) {
        Some(last) => Box::pin(lane.farewell(side, ended.unsent, &last)).await.is_ok(),
        None => matches!(ended.end, End::ResetThere(_) | End::Refused { .. }),
    };
    if !said {
        lane.stream.get_ref().reset_on_close();
    }
}

async fn find(
    dataplane: &Dataplane,
    local: &Arc<Local>,
    origin: Option<SocketAddr>,
    draft: &mut Draft,
) -> Result<Way, Refusal> {
    let origin = origin.ok_or(Closed::NoOrigin)?;
    let view = dataplane.view.load_full();
    let mut last = Closed::NoEndpoint;
    let (own, affinity) = (&local.workload, &dataplane.affinity);
    let used = |service| affinity.used(&own.name, service, Instant::now());
    let (routes, stay) = resolve(&view.directory, own, origin, used)?;
    for route in routes {
        let endpoint = route.address();
        draft.record.destination = Party { address: Some(endpoint), ..Party::default() };
        match open(dataplane, local, &view, route, draft).await {
            // Another endpoint may be reached where this one is not.
            Err(refusal) if is_unreached(refusal.closed) => last = refusal.closed,
            found => {
                if let Some(stay) = stay.filter(|_| found.is_ok()) {
                    affinity.uses(&own.name, stay, endpoint, Instant::now());
                }
                return found;
            }
        }
    }
    Err(last.into())
}

fn is_unreached(closed: Closed) -> bool {
    matches!(closed, Closed::DialRefused | Closed::DialTimedOut | Closed::DialUnreachable)
}

async fn open(
    dataplane: &Dataplane,
    local: &Arc<Local>,
    view: &View,
    route: Route,
    draft: &mut Draft,
) -> Result<Way, Refusal> {
    let own = &local.workload;
    match route {
        Route::Own { address } => {
            let permit = view.policies.authorize_own(own);
            draft.record.destination = party(own, address);
            draft.record.protection = Protection::Internal;
            let source = draft.record.source.address.unwrap_or(address);
            let stream = dial::application(&*local.dial, address, source).await?;
            Ok(Way::Plain { endpoint: Socket::to_application(stream), permit })
        }
        Route::Outside { address } => {
            let permit = view.policies.authorize_outside(own);
            draft.record.protection = Protection::Plaintext;
            let stream = dial::endpoint(&*local.dial, address).await?;
            Ok(Way::Plain { endpoint: Socket::over_network(stream), permit })
        }
        Route::Mesh { address, workload } => {
            draft.record.destination.workload = Some(workload.name.clone());
            let caller_address = draft.record.source.address.map_or(address.ip(), |a| a.ip());
            let request = Request {
                caller: &own.identity,
                caller_address,
                callee: &workload,
                port: address.port(),
            };
            let permit = view.policies.authorize(&request).map_err(|denied| Refusal {
                policy: Some(denied.policy),
                ..Closed::Denied.into()
            })?;
            mesh(dataplane, local, address, workload, caller_address, permit, draft).await
        }
    }
}

/// A lane from the pool, or a new one.
async fn mesh(
    dataplane: &Dataplane,
    local: &Arc<Local>,
    address: SocketAddr,
    workload: Arc<Workload>,
    caller_address: std::net::IpAddr,
    permit: Permit,
    draft: &mut Draft,
) -> Result<Way, Refusal> {
    let key = Box::new(Key {
        caller: local.workload.name.clone(),
        destination: address,
        callee: workload.name.clone(),
        identity: workload.identity.clone(),
    });
    let kept = kept(dataplane, &key).await;
    let warm = kept.is_some();
    count(if warm { &dataplane.stats.lanes_warm } else { &dataplane.stats.lanes_cold });
    let port = draft.record.source.address.map_or(0, |address| address.port());
    let opening = Open { source_port: port, id: draft.record.id };
    let (lane, opening) = match kept {
        Some(lane) => (lane, Some(opening)),
        None => {
            let shaking = shake_hands(dataplane, local, address, &workload, opening);
            (Box::pin(shaking).await?, None)
        }
    };
    let peer = lane.stream.peer();
    draft.record.destination.identity = Some(peer.identity().clone());
    draft.over_lane(lane.stream.facts(), warm);
    let grounds = Grounds {
        peer: peer.bearer().clone(),
        peer_expires: peer.not_after(),
        peer_root: peer.root().clone(),
        local: local.clone(),
        side: Side::Caller,
        caller_address,
        callee: workload,
        port: address.port(),
    };
    Ok(Way::Lane { lane, opening, key, permit, grounds })
}

/// An idle lane with somebody at its other end. Who was there may have gone without a word that could
/// be heard, and what is sent to who has the address now is thrown away there.
async fn kept(dataplane: &Dataplane, key: &Key) -> Option<Box<MutualLane>> {
    loop {
        let (idle, Parked { mut lane, .. }) = dataplane.pool.take(key)?;
        if idle < QUIET_LANE {
            return Some(lane);
        }
        let answered = Box::pin(timeout(PONG_TIMEOUT, lane.is_answered())).await;
        if matches!(answered, Ok(Ok(true))) {
            return Some(lane);
        }
        lane.stream.get_ref().reset_on_close();
        tracing::debug!(destination = %key.destination, ?answered, "an idle lane led nowhere");
        if answered.is_err() {
            dataplane.pool.abandon(key);
        }
    }
}

/// A new lane, on which `opening` has been said.
async fn shake_hands(
    dataplane: &Dataplane,
    local: &Arc<Local>,
    address: SocketAddr,
    workload: &Workload,
    opening: Open,
) -> Result<Box<MutualLane>, Refusal> {
    let _turn = local.turn().await?;
    let transport = dial::endpoint(&*local.dial, address).await?;
    let turns = Turns(local.workload.name.clone(), None);
    let (credentials, expected) = (local.credentials.clone(), workload.identity.clone());
    let (opening, now) = (opening.bytes(), SystemTime::now());
    let handshake = async move |transport| {
        originate_saying(transport, &credentials, &expected, &opening, now).await
    };
    match dataplane.hands.shake(turns, transport, handshake).await {
        Ok(secured) => {
            count(&dataplane.stats.handshakes_originated);
            Ok(Box::new(Lane::new(secured)))
        }
        Err(error) => {
            count(&dataplane.stats.handshakes_failed);
            Err(Refusal::of_handshake(&error))
        }
    }
}

impl Refusal {
    pub fn of_handshake(error: &martlet_identity::HandshakeError) -> Self {
        let mut detail = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            detail.push_str(&format!(": {source}"));
        }
        Self { detail: Some(detail), ..error.closed().into() }
    }
}
