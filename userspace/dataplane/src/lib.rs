//! The life of a connection, in the order of its stages.
//!
//! At the caller's agent [`Dataplane::outbound`] resolves the origin to a route, is authorized,
//! takes a lane, relays, and records. At the called workload's agent [`Dataplane::inbound`]
//! terminates the lane and does the same for each connection that it carries. Nothing is relayed
//! without a permit, and over a lane not without a proven peer.

#![forbid(unsafe_code)]

mod affinity;
mod bound;
mod dial;
mod fair;
pub mod frame;
mod hands;
mod inbound;
mod inward;
mod lane;
pub mod limits;
mod live;
mod local;
mod outbound;
mod outward;
mod pace;
mod plain;
mod pool;
mod record;
mod relay;
mod resolve;
mod review;
mod scratch;
mod share;
mod socket;
mod standing;
mod stats;
mod warnings;

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use martlet_identity::RootKey;
use martlet_model::{
    AccessRecord, Closed, Directory, Party, Protection, Reporter, TrustDomain,
    report::ConnectionReport,
};
use martlet_policy::PolicySet;
use tokio::{net::TcpStream, task::coop::unconstrained};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    fair::{Fairness, Steps},
    hands::Hands,
    live::{Grounds, Listed},
    outbound::Refusal,
    record::{Draft, party},
    relay::{End, Side},
    share::Places,
};

pub use affinity::Staying;
pub use bound::Bound;
pub use dial::{Dial, Dialing, HostNetwork};
pub use local::Local;
pub use record::RecordSink;
pub use stats::Stats;

/// The snapshot that decisions are made by; replaced as a whole.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub directory: Arc<Directory>,
    pub policies: Arc<PolicySet>,
}

/// All connections of this node.
pub struct Dataplane {
    view: Arc<ArcSwap<View>>,
    records: RecordSink,
    stats: Arc<Stats>,
    pool: pool::Pool<pool::Parked>,
    affinity: affinity::Affinity,
    registry: live::Registry,
    standing: Arc<standing::Standing>,
    places: Arc<Places>,
    hands: Hands,
    fairness: Fairness,
    warnings: warnings::Warnings,
    tasks: TaskTracker,
    /// What is new is refused, and idle lanes are left at once.
    draining: CancellationToken,
    /// Nothing is refused, and lanes are left where nothing can be lost by it.
    leaving: CancellationToken,
}

impl Dataplane {
    /// For a process that may have any number of files open.
    pub fn new(view: Arc<ArcSwap<View>>, records: RecordSink) -> Arc<Self> {
        Self::within(view, records, u64::MAX)
    }

    /// For a process that may have `open_files` files open. One record goes to `records` for each
    /// connection; what does not fit is dropped and counted, so that a slow reader of records never
    /// holds up connections. Needs a tokio runtime.
    pub fn within(view: Arc<ArcSwap<View>>, records: RecordSink, open_files: u64) -> Arc<Self> {
        let (pool, stirred) = pool::Pool::new();
        let dataplane = Arc::new(Self {
            view,
            records,
            stats: Arc::default(),
            pool,
            affinity: affinity::Affinity::default(),
            registry: live::Registry::default(),
            standing: Arc::default(),
            places: Arc::new(Places::within(open_files)),
            hands: Hands::new(),
            fairness: Fairness::new(tokio::runtime::Handle::current().metrics().num_workers()),
            warnings: warnings::Warnings::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            leaving: CancellationToken::new(),
        });
        tokio::spawn(unconstrained(review::run(Arc::downgrade(&dataplane))));
        tokio::spawn(pool::watch(Arc::downgrade(&dataplane), stirred));
        tokio::spawn(fair::run(Arc::downgrade(&dataplane)));
        dataplane
    }

    /// Carries a connection that a workload of this node has opened. `origin` is where it wanted
    /// to go, if it was steered here. The stream resets on close (SO_LINGER with zero seconds).
    pub fn outbound(
        self: &Arc<Self>,
        local: Arc<Local>,
        stream: TcpStream,
        source: SocketAddr,
        origin: Option<SocketAddr>,
    ) {
        let mut draft = self.draft(Reporter::Source);
        draft.record.source = party(&local.workload, source);
        draft.record.origin = origin;
        self.fairness.know(local.account(Side::Caller));
        let place = self.admit(&local, |places| local.admit(places));
        let Some((draft, place)) = self.place(place, draft, &local, &stream) else { return };
        let dataplane = self.clone();
        self.tasks.spawn(async move {
            let steps = dataplane.steps(&local, Side::Caller);
            steps.of(pin!(outbound::carry(&dataplane, local, stream, origin, draft))).await;
            drop(place);
        });
    }

    /// Carries a lane that arrives at a workload of this node. `destination` is the address that
    /// it was dialed to: the application's own.
    pub fn inbound(
        self: &Arc<Self>,
        local: Arc<Local>,
        stream: TcpStream,
        source: SocketAddr,
        destination: SocketAddr,
    ) {
        let mut draft = self.draft(Reporter::Destination);
        draft.record.source.address = Some(source);
        draft.record.destination = party(&local.workload, destination);
        self.fairness.know(local.account(Side::Callee));
        let place = self.admit(&local, |places| local.admit_caller(places, source.ip()));
        let Some((draft, place)) = self.place(place, draft, &local, &stream) else { return };
        let dataplane = self.clone();
        self.tasks.spawn(async move {
            let steps = dataplane.steps(&local, Side::Callee);
            let carried = inbound::carry(&dataplane, local, stream, source, destination, draft);
            steps.of(pin!(carried)).await;
            drop(place);
        });
    }

    /// Does work for the connections that a workload opens (source) or that arrive at it, step by
    /// step, in turns with other workloads if it has much of it.
    pub async fn in_turns<T>(
        &self,
        local: &Local,
        reporter: Reporter,
        work: impl Future<Output = T>,
    ) -> T {
        self.steps(local, side_of(reporter)).of(pin!(work)).await
    }

    /// Whether the workload does such work in turns now.
    pub fn takes_turns(local: &Local, reporter: Reporter) -> bool {
        local.account(side_of(reporter)).is_busy()
    }

    fn steps(&self, local: &Local, side: Side) -> Steps {
        self.fairness.steps(local.account(side).clone())
    }

    /// What is open now.
    pub fn connections(&self) -> Vec<ConnectionReport> {
        self.registry.reports()
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.registry.len()
    }

    /// What the peers of open connections were believed for, and by how many: a root that is used
    /// cannot be given up without ending them.
    pub fn roots_in_use(&self) -> HashMap<(TrustDomain, RootKey), u64> {
        let mut roots = HashMap::new();
        for live in self.registry.all() {
            if let Some(grounds) = &live.grounds {
                let root = (grounds.peer.identity.trust_domain(), grounds.peer_root.clone());
                *roots.entry(root).or_default() += 1;
            }
        }
        roots
    }

    /// Lanes that wait for their next connection.
    pub fn idle_lanes(&self) -> usize {
        self.pool.len()
    }

    /// Where lanes stand that arrived at a port.
    pub fn standing_at(&self, port: u16) -> Vec<SocketAddr> {
        self.standing.at(port)
    }

    /// Nobody listens any more where lanes stand: they are left, those that are busy when they have
    /// carried what they carry.
    pub fn desert(&self, at: SocketAddr) {
        self.standing.desert(at);
    }

    /// Which endpoints callers stay with.
    pub fn stayings(&self) -> Vec<Staying> {
        self.affinity.all(tokio::time::Instant::now())
    }

    /// Callers stay with these too, as another process has said. To be called before anybody calls.
    pub fn keep_stayings(&self, all: impl IntoIterator<Item = Staying>) {
        let now = tokio::time::Instant::now();
        for Staying { caller, service, endpoint, lasts } in all {
            self.affinity.uses(&caller, resolve::Stay { service, lasts }, endpoint, now);
        }
    }

    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// The workload leaves this node: its idle lanes are closed, those that it was called over
    /// too, and it gets no new ones. What is open ends by itself, since the pod's processes do.
    pub fn retire(&self, local: &Local) {
        local.retired.cancel();
        self.pool.sweep();
    }

    /// Records a connection that never was the agent's: plaintext that a workload had before it
    /// became strict, and that was closed. How long it lasted and what it carried is not known.
    pub fn plaintext_closed(&self, local: &Local, own: SocketAddr, peer: SocketAddr, opened: bool) {
        let (own, known) = (party(&local.workload, own), self.view.load());
        let workload = known.directory.workload_at(peer.ip()).map(|peer| peer.name.clone());
        let peer = Party { address: Some(peer), identity: None, workload };
        let (reporter, source, destination) = match opened {
            true => (Reporter::Source, own, peer),
            false => (Reporter::Destination, peer, own),
        };
        let mut draft = Draft::new(reporter);
        let protection = Protection::Plaintext;
        draft.record = AccessRecord { source, destination, protection, ..draft.record };
        self.closed(draft, Closed::PlaintextUnwanted);
    }

    /// Until what is open now has ended. Nothing else changes, and what comes meanwhile is carried.
    pub async fn older_end(&self) {
        let mark = self.registry.mark();
        while self.registry.has_before(mark) {
            tokio::time::sleep(limits::OLDER_LOOK).await;
        }
    }

    /// Another agent accepts from now on. What was accepted here is carried to its end, lanes are left
    /// without anything being lost that callers say on them meanwhile, and what is open after
    /// `patience` is ended.
    pub async fn leave(&self, patience: Duration) {
        self.leaving.cancel();
        self.pool.close();
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            self.shutdown(Duration::ZERO).await;
        }
    }

    /// Refuses what is new, closes what is idle, waits until what is open has ended or `patience`
    /// has, and then ends the rest.
    pub async fn shutdown(&self, patience: Duration) {
        self.draining.cancel();
        self.pool.close();
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_ok() {
            return;
        }
        for live in self.registry.all() {
            live.stop(Closed::Draining);
        }
        if tokio::time::timeout(limits::CUT_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "connections were left behind");
        }
    }

    /// Puts a connection among those that are looked at again, and does so for the first time: what
    /// was decided may be old by now, since dialing and shaking hands take their time.
    fn list(&self, draft: &Draft, grounds: Grounds) -> Listed<'_> {
        let listed = self.registry.list(draft, Some(grounds));
        let view = self.view.load();
        if let Some(reason) = review::reconsider(&listed.live, &view, true, SystemTime::now()) {
            listed.live.stop(reason);
        }
        listed
    }

    fn draft(&self, reporter: Reporter) -> Draft {
        stats::count(&self.stats.opened);
        Draft::new(reporter)
    }

    /// A place for one more connection, unless there are to be no more.
    fn admit<P>(
        &self,
        local: &Local,
        claim: impl FnOnce(&Arc<Places>) -> Result<P, Bound>,
    ) -> Result<P, Refusal> {
        match self.draining.is_cancelled() || local.is_retired() {
            true => Err(Closed::Draining.into()),
            false => Ok(claim(&self.places)?),
        }
    }

    /// Its place, or the end of the connection.
    fn place<P>(
        &self,
        place: Result<P, Refusal>,
        draft: Draft,
        local: &Local,
        stream: &TcpStream,
    ) -> Option<(Draft, P)> {
        match place {
            Ok(place) => Some((draft, place)),
            Err(refusal) => {
                let zero = Some(Duration::ZERO);
                if let Err(error) = socket2::SockRef::from(stream).set_linger(zero) {
                    tracing::debug!(%error, "a connection could not be reset");
                }
                self.refused(draft, local, refusal);
                None
            }
        }
    }

    /// Records a connection that did not come about.
    fn refused(&self, mut draft: Draft, local: &Local, refusal: Refusal) {
        let Refusal { closed, policy, detail, bound } = refusal;
        if let Some(bound) = bound {
            self.stats.bound(bound);
        }
        let workload = &local.workload.name;
        if closed.is_refusal() && self.warnings.are_due(workload, closed, Instant::now()) {
            let (source, destination) =
                (draft.record.source.address, draft.record.destination.address);
            let (origin, reporter) = (draft.record.origin, draft.record.reporter.as_str());
            tracing::warn!(%workload, reason = %closed, policy, detail, reporter, ?source, ?destination, ?origin, "connection refused; more of the same are only recorded");
        }
        draft.record.policy = policy;
        self.closed(draft, closed);
    }

    /// Records a connection that was relayed over a lane; whether the lane can carry another.
    fn lane_closed(&self, mut draft: Draft, end: &End, side: Side) -> bool {
        let closed = end.closed(side);
        match end {
            End::Refused { text, .. } if !text.is_empty() => {
                draft.record.policy = Some(text.clone());
            }
            End::Violation(violation) => {
                let peer = draft.record.source.identity.as_ref();
                tracing::warn!(%violation, id = %draft.record.id, ?peer, "the peer broke the lane protocol");
            }
            _ => {}
        }
        self.closed(draft, closed);
        matches!(end, End::Finished)
    }

    fn closed(&self, draft: Draft, closed: Closed) {
        draft.close(closed, &self.records, &self.stats);
    }
}

fn side_of(reporter: Reporter) -> Side {
    match reporter {
        Reporter::Source => Side::Caller,
        Reporter::Destination => Side::Callee,
    }
}

#[cfg(test)]
mod tests {
    use martlet_identity::{Credentials, TrustBundle};
    use martlet_model::{Mode, Workload, WorkloadName};

    use super::*;

    /// What a connection costs while it is idle, apart from TLS: the bar is 8 KiB.
    #[tokio::test]
    async fn the_futures_of_a_connection_are_small() {
        let workload = Arc::new(Workload {
            name: WorkloadName { namespace: "shop".parse().unwrap(), name: "web".parse().unwrap() },
            service_account: "web".parse().unwrap(),
            identity: "spiffe://a.org/ns/shop/sa/web".parse().unwrap(),
            addresses: vec![],
            node: "one".parse().unwrap(),
            mode: Mode::Strict,
            policies: vec![],
        });
        let trust = Arc::new(TrustBundle::new([]).unwrap());
        let credentials = Arc::new(Credentials::new(workload.identity.clone(), trust));
        let local = Arc::new(Local::new(workload, credentials, Arc::new(HostNetwork)));
        let (records, _kept) = tokio::sync::mpsc::channel(1);
        let dataplane = Dataplane::new(Arc::default(), records);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let stream = || TcpStream::connect(at);
        let draft = || Draft::new(Reporter::Source);
        let (first, second) = (stream().await.unwrap(), stream().await.unwrap());
        let outbound = outbound::carry(&dataplane, local.clone(), first, None, draft());
        let inbound = inbound::carry(&dataplane, local.clone(), second, at, at, draft());
        let sizes = [size_of_val(&outbound), size_of_val(&inbound), size_of::<live::Live>()];
        println!("outbound, inbound, live: {sizes:?}");
        assert!(sizes[0] + sizes[2] <= 3584, "{sizes:?}");
        assert!(sizes[1] + sizes[2] <= 4608, "{sizes:?}");
    }
}
