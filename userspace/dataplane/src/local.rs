//! A workload of this node, as the data plane needs it, with what it may use.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use martlet_identity::Credentials;
use martlet_model::{SpiffeId, Workload};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::{
    Dial,
    bound::Bound,
    inward::Side,
    limits::{CALLER_GROUPS, HANDSHAKES_IN, HANDSHAKES_OUT, HANDSHAKES_PER_SECOND, TURN_TIMEOUT},
    pace::Rate,
    share::{Account, Place, Places, Share, Shares},
};

/// Its bounds are its own, so that one busy or attacked workload takes nothing from another; and
/// what it opens and what calls it are apart, so that neither takes from the other.
pub struct Local {
    pub workload: Arc<Workload>,
    pub credentials: Arc<Credentials>,
    /// Dials from inside the workload's network namespace.
    pub dial: Arc<dyn Dial>,
    opened: Arc<Account>,
    called: Arc<Account>,
    /// Of those that call it: by address until the identity is known, and then by that too.
    by_address: Arc<Shares<IpAddr>>,
    by_identity: Arc<Shares<SpiffeId>>,
    starting: Semaphore,
    answering: Arc<Shares<IpAddr>>,
    start_rate: Rate,
    answer_rates: Vec<Rate>,
    /// Which group a caller is in: nobody outside can choose it.
    groups: RandomState,
    /// Cancelled when the workload is gone from this node, or is somebody else now.
    pub(crate) retired: CancellationToken,
}

/// The place of a connection that somebody calls with.
#[derive(Debug)]
pub(crate) struct CalledPlace {
    _place: Place,
    _share: Share<IpAddr>,
}

impl Local {
    pub fn new(
        workload: Arc<Workload>,
        credentials: Arc<Credentials>,
        dial: Arc<dyn Dial>,
    ) -> Self {
        let rate = || Rate::per_second(HANDSHAKES_PER_SECOND);
        Self {
            workload,
            credentials,
            dial,
            opened: Arc::default(),
            called: Arc::default(),
            by_address: Arc::default(),
            by_identity: Arc::default(),
            starting: Semaphore::new(HANDSHAKES_OUT),
            answering: Arc::default(),
            start_rate: rate(),
            answer_rates: std::iter::repeat_with(rate).take(CALLER_GROUPS).collect(),
            groups: RandomState::new(),
            retired: CancellationToken::new(),
        }
    }

    /// What the workload's connections of one direction have together.
    pub(crate) fn account(&self, side: Side) -> &Arc<Account> {
        match side {
            Side::Caller => &self.opened,
            Side::Callee => &self.called,
        }
    }

    /// Whether its lanes are not used again.
    pub fn is_retired(&self) -> bool {
        self.retired.is_cancelled()
    }

    /// A place for a connection that the workload opens.
    pub(crate) fn admit(&self, places: &Arc<Places>) -> Result<Place, Bound> {
        self.opened.claim(places).ok_or(Bound::Connections)
    }

    /// A place for a connection that somebody calls it with.
    pub(crate) fn admit_caller(
        &self,
        places: &Arc<Places>,
        caller: IpAddr,
    ) -> Result<CalledPlace, Bound> {
        let share = self.by_address.claim(&caller, self.called.room(places));
        let share = share.ok_or(Bound::ConnectionsOfAddress)?;
        let place = self.called.claim(places).ok_or(Bound::Connections)?;
        Ok(CalledPlace { _place: place, _share: share })
    }

    /// The same caller, known by name now: one that has many addresses has one name.
    pub(crate) fn recognize(
        &self,
        places: &Places,
        caller: &SpiffeId,
    ) -> Result<Share<SpiffeId>, Bound> {
        let share = self.by_identity.claim(caller, self.called.room(places));
        share.ok_or(Bound::ConnectionsOfIdentity)
    }

    /// Waits for a turn to call somebody.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, Bound> {
        wait(&self.start_rate).await?;
        within(TURN_TIMEOUT, &self.starting).await
    }

    /// Waits for a turn to answer somebody, who may be silent then: nobody gets all turns.
    pub(crate) async fn answer(&self, caller: IpAddr) -> Result<Share<IpAddr>, Bound> {
        let turn = self.answering.claim(&caller, HANDSHAKES_IN).ok_or(Bound::Handshakes)?;
        let group = self.groups.hash_one(caller) % CALLER_GROUPS as u64;
        wait(&self.answer_rates[group as usize]).await?;
        Ok(turn)
    }
}

async fn wait(rate: &Rate) -> Result<(), Bound> {
    let wait = rate.next(Instant::now(), TURN_TIMEOUT).ok_or(Bound::HandshakeRate)?;
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    Ok(())
}

async fn within(time: Duration, turns: &Semaphore) -> Result<SemaphorePermit<'_>, Bound> {
    match tokio::time::timeout(time, turns.acquire()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(Bound::Handshakes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_get_a_turn_in_time_is_told_of_the_limit() {
        let turns = Semaphore::new(1);
        let first = within(TURN_TIMEOUT, &turns).await.unwrap();
        assert_eq!(within(TURN_TIMEOUT, &turns).await.unwrap_err(), Bound::Handshakes);
        drop(first);
        assert!(within(TURN_TIMEOUT, &turns).await.is_ok());
    }
}
