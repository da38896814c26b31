//! The connections that are open now: for people to see, and for policy to take back.

use std::{
    collections::HashMap,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Instant, SystemTime},
};

use futures_util::task::AtomicWaker;
use martlet_identity::{Credentials, RootKey};
use martlet_model::{AccessRecord, Bearer, Closed, SpiffeId, Workload, report::ConnectionReport};

use crate::{Local, limits::EXPIRY_GRACE, record::Draft, relay::Side, share::Account};

/// What an open connection rests on, so that it can be looked at again.
pub struct Grounds {
    pub peer: Arc<Bearer>,
    pub peer_expires: SystemTime,
    pub peer_root: RootKey,
    /// The workload of ours that has the connection, and says whom it trusts.
    pub local: Arc<Local>,
    pub side: Side,
    pub caller_address: IpAddr,
    pub callee: Arc<Workload>,
    pub port: u16,
}

/// One connection that is being relayed.
pub struct Live {
    pub since: Instant,
    about: AccessRecord,
    /// `None` where no policy has a say: inside a pod, or to an endpoint outside the mesh.
    pub grounds: Option<Grounds>,
    /// From caller to callee.
    pub sent: AtomicU64,
    /// From callee to caller.
    pub received: AtomicU64,
    /// A code of [`Closed`], or 0.
    stop: AtomicU8,
    waker: AtomicWaker,
}

impl Live {
    /// Ends the connection soon, with a reset on both sides. The first reason stays.
    pub fn stop(&self, reason: Closed) {
        let first =
            self.stop.compare_exchange(0, reason.code(), Ordering::AcqRel, Ordering::Acquire);
        if first.is_ok() {
            self.waker.wake();
        }
    }

    /// Completes when the connection is taken back.
    pub fn stopped(&self) -> Stopped<'_> {
        Stopped(self)
    }

    /// What bounds its buffers.
    pub fn account(&self) -> Option<&Account> {
        self.grounds.as_ref().map(|grounds| &**grounds.local.account(grounds.side))
    }

    /// Bytes from our application, and to it.
    pub fn counters(&self, side: Side) -> (&AtomicU64, &AtomicU64) {
        match side {
            Side::Caller => (&self.sent, &self.received),
            Side::Callee => (&self.received, &self.sent),
        }
    }

    fn report(&self) -> ConnectionReport {
        let about = self.about.clone();
        ConnectionReport {
            id: about.id,
            reporter: about.reporter,
            source: about.source,
            destination: about.destination,
            origin: about.origin,
            protection: about.protection,
            tls: about.tls,
            age_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            bytes_sent: self.sent.load(Ordering::Relaxed),
            bytes_received: self.received.load(Ordering::Relaxed),
        }
    }
}

impl Grounds {
    /// Who asked.
    pub fn caller(&self) -> &SpiffeId {
        match self.side {
            Side::Caller => &self.local.workload.identity,
            Side::Callee => &self.peer.identity,
        }
    }

    /// Whether the peer may still be believed.
    pub fn peer_lapsed(&self, now: SystemTime) -> Option<Closed> {
        match self.peer_expires + EXPIRY_GRACE < now {
            true => Some(Closed::PeerExpired),
            false => distrusted(&self.peer, &self.peer_root, &self.local.credentials),
        }
    }
}

/// Why a peer that was believed once is not believed now, whatever the time; or why we are not to be
/// believed ourselves.
pub fn distrusted(peer: &Bearer, root: &RootKey, credentials: &Credentials) -> Option<Closed> {
    let (trust, domain) = (credentials.trust(), peer.identity.trust_domain());
    if trust.quarantine_of(peer).is_some() || credentials.quarantine().is_some() {
        return Some(Closed::Quarantined);
    }
    match (trust.trusts(&domain), trust.trusts_root(&domain, root)) {
        (false, _) => Some(Closed::PeerWrongTrustDomain),
        (true, false) => Some(Closed::PeerUntrusted),
        (true, true) => None,
    }
}

pub struct Stopped<'a>(&'a Live);

impl Future for Stopped<'_> {
    type Output = Closed;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Closed> {
        // Registered before looking, so that nothing is missed in between.
        self.0.waker.register(context.waker());
        match Closed::from_code(self.0.stop.load(Ordering::Acquire)) {
            Some(reason) => Poll::Ready(reason),
            None => Poll::Pending,
        }
    }
}

/// All connections that are open now.
#[derive(Default)]
pub struct Registry {
    live: Mutex<HashMap<u64, Arc<Live>>>,
    next: AtomicU64,
}

/// Takes the connection off the list when it is dropped.
pub struct Listed<'a> {
    registry: &'a Registry,
    key: u64,
    pub live: Arc<Live>,
}

impl Registry {
    pub fn list(&self, draft: &Draft, grounds: Option<Grounds>) -> Listed<'_> {
        let live = Arc::new(Live {
            since: draft.began,
            about: draft.record.clone(),
            grounds,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            stop: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        });
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(key, live.clone());
        Listed { registry: self, key, live }
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn all(&self) -> Vec<Arc<Live>> {
        self.lock().values().cloned().collect()
    }

    /// Comes after all that are open now, and before all that will be.
    pub fn mark(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Whether any is open that was when the mark was made.
    pub fn has_before(&self, mark: u64) -> bool {
        self.lock().keys().any(|key| *key < mark)
    }

    pub fn reports(&self) -> Vec<ConnectionReport> {
        self.all().iter().map(|live| live.report()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Live>>> {
        // A map operation either happened or did not.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.key);
    }
}
