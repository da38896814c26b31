//! A lane that arrives at a workload of this node, and each connection that it carries: peer,
//! permit, dial, relay, record.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use martlet_identity::terminate;
use martlet_model::{Closed, Party, Reporter};
use martlet_policy::{Permit, Request};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Dataplane, Local,
    bound::Bound,
    dial,
    frame::{Frame, Open},
    hands::Party as Turns,
    lane::{Lane, MutualLane, NotOpened, Violation},
    limits::{FAREWELL_TIMEOUT, FIRST_OPEN, IDLE_OPEN, LEAVE_QUIET},
    live::{Grounds, distrusted},
    outbound::{Refusal, part},
    record::{Draft, party},
    relay::{End, Side, relay},
    scratch::Waiting,
    socket::Socket,
    stats::count,
};

/// What comes next on a lane that carries nothing.
enum Next {
    Open(Result<Open, Violation>),
    /// The lane ends as it may.
    Ended,
    /// We want it to end, and wait so long for the caller to close it.
    Leave(Closed, Duration),
}

/// From accept to the end of the lane. `draft` is used if the lane never carries a connection.
pub async fn carry(
    dataplane: &Dataplane,
    local: Arc<Local>,
    transport: TcpStream,
    source: SocketAddr,
    destination: SocketAddr,
    draft: Draft,
) {
    let stand = dataplane.standing.stand(destination);
    let mut lane = match Box::pin(shake_hands(dataplane, &local, transport, source.ip())).await {
        Ok(lane) => lane,
        Err(refusal) => return dataplane.refused(draft, &local, refusal),
    };
    let identity = lane.stream.peer().identity();
    let _share = match local.recognize(&dataplane.places, identity) {
        Ok(share) => share,
        Err(bound) => {
            return Box::pin(unwelcome(dataplane, &local, lane, draft, bound)).await;
        }
    };
    let mut draft = Some(draft);
    loop {
        let patience = if draft.is_some() { FIRST_OPEN } else { IDLE_OPEN };
        let next = next_open(dataplane, &local, &mut lane, &stand.deserted);
        let opened = match timeout(patience, next).await {
            Ok(Next::Open(opened)) => opened,
            // An idle lane ends without a record: only its end is to be seen.
            Ok(Next::Ended) => return,
            Ok(Next::Leave(why, patience)) => return Box::pin(leave(lane, why, patience)).await,
            Err(_) => return silent(dataplane, &local, &lane, draft),
        };
        // A lane that was refused before it carried anything keeps the time of its accept.
        let warm = draft.is_none();
        let mut draft = draft.take().unwrap_or_else(|| {
            count(&dataplane.stats.opened);
            Draft::new(Reporter::Destination)
        });
        draft.over_lane(lane.stream.facts(), warm);
        draft.record.source.identity = Some(lane.stream.peer().identity().clone());
        let open = match opened {
            Ok(open) => open,
            Err(violation) => {
                let ended = End::Violation(violation);
                dataplane.lane_closed(draft, &ended, Side::Callee);
                lane.stream.get_ref().reset_on_close();
                return;
            }
        };
        draft.record.id = open.id;
        draft.record.destination = party(&local.workload, destination);
        let caller = SocketAddr::new(source.ip(), open.source_port);
        draft.record.source = calling_party(dataplane, &lane, caller);
        lane = match connection(dataplane, &local, lane, caller, destination, draft).await {
            Some(lane) => lane,
            None => return,
        };
    }
}

/// The peer said nothing for too long. That is worth a record if it never said anything.
fn silent(dataplane: &Dataplane, local: &Local, lane: &MutualLane, draft: Option<Draft>) {
    let Some(mut draft) = draft else { return };
    draft.record.source.identity = Some(lane.stream.peer().identity().clone());
    dataplane.refused(draft, local, Closed::HandshakeTimedOut.into());
}

/// The caller has too many connections already, and hears so.
async fn unwelcome(
    dataplane: &Dataplane,
    local: &Local,
    mut lane: Box<MutualLane>,
    mut draft: Draft,
    bound: Bound,
) {
    draft.over_lane(lane.stream.facts(), false);
    draft.record.source.identity = Some(lane.stream.peer().identity().clone());
    dataplane.refused(draft, local, bound.into());
    let last = Frame::Refused { reason: Closed::LimitReached, text: String::new() };
    if Box::pin(lane.farewell(Side::Callee, Waiting::default(), &last)).await.is_err() {
        lane.stream.get_ref().reset_on_close();
    }
}

async fn shake_hands(
    dataplane: &Dataplane,
    local: &Local,
    transport: TcpStream,
    caller: IpAddr,
) -> Result<Box<MutualLane>, Refusal> {
    let _turn = local.answer(caller).await?;
    let turns = Turns(local.workload.name.clone(), Some(caller));
    let credentials = local.credentials.clone();
    let handshake = async move |transport| terminate(transport, &credentials).await;
    match dataplane.hands.shake(turns, transport, handshake).await {
        Ok(secured) => {
            count(&dataplane.stats.handshakes_terminated);
            Ok(Box::new(Lane::new(secured)))
        }
        Err(error) => {
            count(&dataplane.stats.handshakes_failed);
            Err(Refusal::of_handshake(&error))
        }
    }
}

/// What the caller has said already comes first.
async fn next_open(
    dataplane: &Dataplane,
    local: &Local,
    lane: &mut MutualLane,
    deserted: &CancellationToken,
) -> Next {
    let draining = Next::Leave(Closed::Draining, FAREWELL_TIMEOUT);
    // A caller asks before it uses a lane that was idle for long, and nothing is lost on that one.
    let quiet = async {
        dataplane.leaving.cancelled().await;
        sleep(LEAVE_QUIET).await;
    };
    let next = tokio::select! {
        biased;
        next = lane.next_open(&dataplane.leaving) => next,
        () = dataplane.draining.cancelled() => return draining,
        () = quiet => return draining,
        () = local.retired.cancelled() => return draining,
        // A caller whose application reads slowly hears it late.
        () = deserted.cancelled() => return Next::Leave(Closed::ApplicationRefused, IDLE_OPEN),
    };
    match next {
        Ok(open) => Next::Open(Ok(open)),
        Err(NotOpened::Violation(violation)) => Next::Open(Err(violation)),
        Err(NotOpened::Asked) => draining,
        Err(NotOpened::Ended(end)) => {
            let workload = &local.workload.name;
            tracing::trace!(%workload, ?end, "a lane ended");
            Next::Ended
        }
    }
}

/// Asks the caller to close a lane that carries nothing, and waits until it has. To reset it would be
/// faster, but the caller's application may not have read yet what the lane carried last. An OPEN
/// that crosses this is answered by it.
async fn leave(mut lane: Box<MutualLane>, reason: Closed, patience: Duration) {
    let last = Frame::Reset(reason);
    let leaving = lane.take_leave(Side::Callee, Waiting::default(), &last);
    let left = timeout(patience, leaving).await;
    tracing::trace!(%reason, ?left, "an idle lane was left");
}

/// A name only where the directory and the certificate agree.
fn calling_party(dataplane: &Dataplane, lane: &MutualLane, address: SocketAddr) -> Party {
    let identity = lane.stream.peer().identity();
    let view = dataplane.view.load();
    let known = view.directory.workload_at(address.ip());
    let known = known.filter(|workload| workload.identity == *identity);
    Party {
        address: Some(address),
        identity: Some(identity.clone()),
        workload: known.map(|workload| workload.name.clone()),
    }
}

/// One connection. Gives the lane back if it can carry another.
async fn connection(
    dataplane: &Dataplane,
    local: &Arc<Local>,
    mut lane: Box<MutualLane>,
    caller: SocketAddr,
    destination: SocketAddr,
    mut draft: Draft,
) -> Option<Box<MutualLane>> {
    let side = Side::Callee;
    let admitted = Box::pin(admit(dataplane, local, &lane, caller, destination)).await;
    let (mut application, permit) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let text = refusal.policy.clone().unwrap_or_default();
            let last = match refusal.closed.is_refusal() {
                true => Frame::Refused { reason: refusal.closed, text },
                // This agent is stopping, or the application has reset what it had accepted.
                false => Frame::Reset(refusal.closed),
            };
            dataplane.refused(draft, local, refusal);
            if Box::pin(lane.farewell(Side::Callee, Waiting::default(), &last)).await.is_err() {
                lane.stream.get_ref().reset_on_close();
            }
            return None;
        }
    };
    let peer = lane.stream.peer();
    let grounds = Grounds {
        peer: peer.bearer().clone(),
        peer_expires: peer.not_after(),
        peer_root: peer.root().clone(),
        local: local.clone(),
        side,
        caller_address: caller.ip(),
        callee: local.workload.clone(),
        port: destination.port(),
    };
    let listed = dataplane.list(&draft, grounds);
    let leaving = Some(&dataplane.leaving);
    let relayed = relay(&permit, &mut lane, &mut application, side, None, &listed.live, leaving);
    let ended = relayed.await;
    draft.count(&listed.live);
    drop(listed);
    if matches!(ended.end, End::Finished) {
        application.end_in_order();
    }
    drop(application);
    match dataplane.lane_closed(draft, &ended.end, side) {
        true if ended.is_left => {
            let left = timeout(FAREWELL_TIMEOUT, Box::pin(lane.await_end())).await;
            tracing::trace!(?left, "a lane was left after its last connection");
        }
        true => return Some(lane),
        false => Box::pin(part(lane, side, ended)).await,
    }
    None
}

/// Authorizes, and dials the application.
async fn admit(
    dataplane: &Dataplane,
    local: &Local,
    lane: &MutualLane,
    caller: SocketAddr,
    destination: SocketAddr,
) -> Result<(Socket, Permit), Refusal> {
    if dataplane.draining.is_cancelled() || local.is_retired() {
        return Err(Closed::Draining.into());
    }
    let address = destination.ip().to_canonical();
    if !local.workload.addresses.iter().any(|own| own.to_canonical() == address) {
        return Err(Closed::NoRoute.into());
    }
    let peer = lane.stream.peer();
    if peer.not_after() < SystemTime::now() {
        return Err(Closed::PeerExpired.into());
    }
    if let Some(closed) = distrusted(peer.bearer(), peer.root(), &local.credentials) {
        return Err(closed.into());
    }
    let request = Request {
        caller: peer.identity(),
        caller_address: caller.ip(),
        callee: &local.workload,
        port: destination.port(),
    };
    let permit = dataplane.view.load().policies.authorize(&request);
    let permit = permit
        .map_err(|denied| Refusal { policy: Some(denied.policy), ..Closed::Denied.into() })?;
    let application = dial::application(&*local.dial, destination, caller).await?;
    Ok((Socket::to_application(application), permit))
}
