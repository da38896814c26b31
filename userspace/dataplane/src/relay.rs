//! Between an application and a lane, both directions in one task.
//!
//! ```text
//!             FINISH ours          FINISH theirs
//!   open ──────────────▶ half open ─────────────▶ callee says DONE ─▶ Finished: lane idle again
//!     │ reset, refusal, violation, failure, taken back
//!     └────────────────────────────────────────────▶ any other End: lane closed
//! ```
//!
//! Nothing is read from one side while the other has not taken what was read before: TCP's own
//! flow control is the only one there is, from one application to the other. While a side is not
//! read, it is watched for failure.

use std::{
    future::Future,
    io,
    pin::pin,
    sync::atomic::AtomicU64,
    task::{Context, Poll},
};

use martlet_model::Closed;
use martlet_policy::Permit;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::{
    frame::{Frame, Open},
    inward::{Heard, Interruption, Inward},
    lane::{Lane, MutualLane, Violation},
    limits::CHUNK_BYTES,
    live::Live,
    outward::{Fault, Outward},
    scratch::Waiting,
    share::Account,
    socket::Socket,
};

pub use crate::inward::Side;

/// How a relayed connection ended, seen from this side.
#[derive(Debug)]
pub enum End {
    /// Both directions were finished; the lane can carry another connection.
    Finished,
    /// Our application reset it.
    ResetHere,
    /// The far side reset it, and says why.
    ResetThere(Closed),
    /// The far side refused it.
    Refused { reason: Closed, text: String },
    /// The lane's transport ended; the error is there if it was one.
    Broken(Option<io::Error>),
    /// The far side broke the protocol.
    Violation(Violation),
    /// It was taken back: by policy, by an expired certificate, by the agent's stopping.
    Stopped(Closed),
}

/// An end, and what must still go to the lane before anything is said about it.
#[derive(Debug)]
pub struct Ended {
    pub end: End,
    pub unsent: Waiting,
    /// Whether the far side was told behind the last word that the lane is left.
    pub is_left: bool,
}

const FINISH: &[Frame] = &[Frame::Finish];
const DONE: &[Frame] = &[Frame::Done];
/// In one piece: a caller that heard them apart could use the lane again in between.
const DONE_AND_LEAVE: &[Frame] = &[Frame::Done, Frame::Reset(Closed::Draining)];

/// Relays over a lane until the connection has ended. The permit is policy's word for it, and the
/// lane is proof of the peer. `leaving` is cancelled when the called side wants the lane to end with
/// the connection.
pub async fn relay(
    _permit: &Permit,
    lane: &mut MutualLane,
    application: &mut Socket,
    side: Side,
    opening: Option<Open>,
    live: &Live,
    leaving: Option<&CancellationToken>,
) -> Ended {
    let application_failed = application.clone().failed();
    let lane_failed = lane.stream.get_ref().clone().failed();
    let (here, there) = live.counters(side);
    let mut conversation = Conversation::new(application, lane, side, opening, here, there);
    conversation.account = live.account();
    conversation.leaving = leaving;
    run(conversation, application_failed, lane_failed, live.stopped()).await
}

async fn run<A, L>(
    mut conversation: Conversation<'_, A, L>,
    application_failed: impl Future<Output = ()>,
    lane_failed: impl Future<Output = ()>,
    stopped: impl Future<Output = Closed>,
) -> Ended
where
    A: AsyncRead + AsyncWrite + Unpin,
    L: AsyncRead + AsyncWrite + Unpin,
{
    let mut application_failed = pin!(application_failed);
    let mut lane_failed = pin!(lane_failed);
    let mut stopped = pin!(stopped);
    let end = std::future::poll_fn(|context| {
        if let Poll::Ready(reason) = stopped.as_mut().poll(context) {
            return Poll::Ready(End::Stopped(reason));
        }
        if let Poll::Ready(end) = conversation.poll(context) {
            return Poll::Ready(end);
        }
        if conversation.outward.ignores_application()
            && application_failed.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(End::ResetHere);
        }
        if conversation.inward.is_stalled && lane_failed.as_mut().poll(context).is_ready() {
            return Poll::Ready(conversation.last_words(context, None));
        }
        Poll::Pending
    })
    .await;
    let unsent = std::mem::take(&mut conversation.outward.waiting);
    Ended { end, unsent, is_left: conversation.is_left }
}

struct Conversation<'a, A, L> {
    application: &'a mut A,
    lane: &'a mut Lane<L>,
    side: Side,
    outward: Outward,
    inward: Inward,
    /// The called side has said DONE.
    done_said: bool,
    bytes_outward: &'a AtomicU64,
    bytes_inward: &'a AtomicU64,
    /// Bounds what is read at once.
    account: Option<&'a Account>,
    leaving: Option<&'a CancellationToken>,
    is_left: bool,
}

impl<'a, A, L> Conversation<'a, A, L>
where
    A: AsyncRead + AsyncWrite + Unpin,
    L: AsyncRead + AsyncWrite + Unpin,
{
    fn new(
        application: &'a mut A,
        lane: &'a mut Lane<L>,
        side: Side,
        opening: Option<Open>,
        bytes_outward: &'a AtomicU64,
        bytes_inward: &'a AtomicU64,
    ) -> Self {
        let (outward, inward) = (Outward::new(opening), Inward::new(side));
        Self {
            application,
            lane,
            side,
            outward,
            inward,
            done_said: false,
            bytes_outward,
            bytes_inward,
            account: None,
            leaving: None,
            is_left: false,
        }
    }

    /// A direction that is pending has left its waker; one that failed ends both.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let mut outward = self.poll_outward(context);
        if let Poll::Ready(Err(fault)) = outward {
            return Poll::Ready(self.fault(context, fault));
        }
        if self.done_said && outward.is_ready() {
            // What comes now belongs to the next connection.
            return Poll::Ready(End::Finished);
        }
        let heard_before = self.inward.heard;
        let chunk = self.chunk_bytes();
        let inward = self.inward.poll(
            context,
            self.lane,
            self.application,
            self.outward.finished,
            self.bytes_inward,
            chunk,
        );
        if let Poll::Ready(Err(interruption)) = inward {
            return Poll::Ready(end_of(interruption));
        }
        let finishes_now = heard_before < Heard::Finish && self.inward.heard >= Heard::Finish;
        if finishes_now && self.outward.finished && self.owes_done() {
            let last = self.last_word();
            self.outward.push(last);
            self.says(last);
            outward = self.poll_outward(context);
            if let Poll::Ready(Err(fault)) = outward {
                return Poll::Ready(self.fault(context, fault));
            }
        }
        let over = match self.side {
            Side::Caller => self.inward.heard == Heard::Done,
            Side::Callee => self.done_said,
        };
        match over && outward.is_ready() {
            true => Poll::Ready(End::Finished),
            false => Poll::Pending,
        }
    }

    fn poll_outward(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let was_finished = self.outward.finished;
        let says_done = self.owes_done() && self.inward.heard >= Heard::Finish;
        let last = if says_done { self.last_word() } else { FINISH };
        let chunk = self.chunk_bytes();
        let polled = self.outward.poll(
            context,
            self.application,
            &mut self.lane.stream,
            last,
            self.bytes_outward,
            chunk,
        );
        if says_done && !was_finished && self.outward.finished {
            self.says(last);
        }
        polled
    }

    fn last_word(&self) -> &'static [Frame] {
        match self.leaving.is_some_and(CancellationToken::is_cancelled) {
            true => DONE_AND_LEAVE,
            false => DONE,
        }
    }

    fn says(&mut self, last: &'static [Frame]) {
        self.done_said = true;
        self.is_left = last.len() > DONE.len();
    }

    fn chunk_bytes(&self) -> usize {
        self.account.map_or(CHUNK_BYTES, Account::chunk_bytes)
    }

    fn owes_done(&self) -> bool {
        self.side == Side::Callee && !self.done_said
    }

    fn fault(&mut self, context: &mut Context<'_>, fault: Fault) -> End {
        match fault {
            Fault::Application => End::ResetHere,
            Fault::Lane(error) => self.last_words(context, Some(error)),
        }
    }

    fn last_words(&mut self, context: &mut Context<'_>, error: Option<io::Error>) -> End {
        match end_of(self.inward.last_words(context, self.lane)) {
            End::Broken(None) => End::Broken(error),
            said => said,
        }
    }
}

fn end_of(interruption: Interruption) -> End {
    match interruption {
        Interruption::Application => End::ResetHere,
        Interruption::Reset(reason) => End::ResetThere(reason),
        Interruption::Refused { reason, text } => End::Refused { reason, text },
        Interruption::Violation(violation) => End::Violation(violation),
        Interruption::Ended => End::Broken(None),
        Interruption::Failed(error) => End::Broken(Some(error)),
    }
}

impl End {
    /// What the record says.
    pub fn closed(&self, side: Side) -> Closed {
        match self {
            Self::Finished => Closed::Finished,
            Self::ResetHere => reset_by(side),
            Self::ResetThere(reason) | Self::Refused { reason, .. } => *reason,
            Self::Broken(Some(error)) if martlet_identity::refused_by_peer(error) => {
                Closed::RefusedByPeer
            }
            Self::Broken(_) => Closed::LaneBroken,
            Self::Violation(_) => Closed::LaneViolation,
            Self::Stopped(reason) => *reason,
        }
    }

    /// What the far side is told, if it does not know and can be told.
    pub fn farewell(&self, side: Side) -> Option<Frame> {
        match self {
            Self::ResetHere | Self::Violation(_) | Self::Stopped(_) => {
                Some(Frame::Reset(self.closed(side)))
            }
            Self::Finished | Self::ResetThere(_) | Self::Refused { .. } | Self::Broken(_) => None,
        }
    }
}

fn reset_by(side: Side) -> Closed {
    match side {
        Side::Caller => Closed::ResetByCaller,
        Side::Callee => Closed::ResetByCallee,
    }
}

#[cfg(test)]
mod tests;
