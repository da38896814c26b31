//! How far this node's clock is from the controller's: asked for now and then, on the connection that
//! there is.

use std::{
    convert::Infallible,
    future::pending,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use martlet_model::Skew;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, transport::Channel};
use tracing::{debug, info, warn};

use super::Inner;
use crate::{
    limits,
    proto::{TimeRequest, control_client::ControlClient},
};

/// For as long as the connection lasts. Whether it does is found out by others.
pub async fn watch(inner: &Inner, channel: Channel) -> Infallible {
    let mut client = ControlClient::new(channel);
    loop {
        let began = Instant::now();
        match timeout(limits::ANSWER_TIMEOUT, client.time(TimeRequest {})).await {
            Ok(Ok(told)) => {
                let (trip, ours) = (began.elapsed(), SystemTime::now());
                let theirs =
                    UNIX_EPOCH.checked_add(Duration::from_millis(told.into_inner().unix_ms));
                inner.is_measured(theirs.map(|theirs| Skew::measured(theirs, trip, ours)));
            }
            // A controller of before.
            Ok(Err(status)) if status.code() == Code::Unimplemented => return pending().await,
            Ok(Err(status)) => debug!(%status, "the controller did not tell the time"),
            Err(_) => debug!("the controller did not tell the time in time"),
        }
        sleep(limits::CLOCK_INTERVAL).await;
    }
}

impl Inner {
    fn is_measured(&self, skew: Option<Skew>) {
        let was_too_far = self.link.borrow().clock.is_some_and(|known| known.is_too_far());
        self.link.send_modify(|link| link.clock = skew);
        match (was_too_far, skew) {
            (false, Some(skew)) if skew.is_too_far() => warn!(
                limit_seconds = Skew::LIMIT.as_secs(),
                "this node's clock is {skew}; beyond a minute, certificates are refused that are \
                 good: set it, or look why it is not kept right"
            ),
            (true, Some(skew)) if !skew.is_too_far() => {
                info!("this node's clock is {skew}, which is close enough again");
            }
            _ => {}
        }
    }
}
