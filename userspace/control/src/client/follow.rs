//! Following: what the controller says is taken in, and it is told what became of it.

use tokio::{
    sync::mpsc::{self, Sender},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::{debug, info};

use super::{Inner, arrivals::Arriving, link::LinkError, member::Member, standings::Saying};
use crate::{
    Declared, Usage, limits,
    message::{acknowledgement_to, usage_to},
    proto::{FromAgent, Hello, control_client::ControlClient, from_agent::Said},
    table::{Received, Receiving},
};

/// Until something fails; there is no other end.
pub async fn follow(
    inner: &Inner,
    member: &Member,
    receiving: &mut Receiving,
    channel: Channel,
) -> Result<std::convert::Infallible, LinkError> {
    receiving.begin_again();
    let (to_say, said) = mpsc::channel(limits::QUEUE);
    let say = Say(to_say);
    say.say(Said::Hello(Hello {
        agent_version: inner.settings.agent_version.clone(),
        instance: receiving.instance(),
        version: receiving.version(),
    }))
    .await?;
    let mut client =
        ControlClient::new(channel).max_decoding_message_size(limits::CONTROLLER_MESSAGE_BYTES);
    let asked = timeout(limits::ANSWER_TIMEOUT, client.follow(ReceiverStream::new(said)));
    let mut told = asked.await.map_err(|_| LinkError::Silent)??.into_inner();

    let mut usage = inner.usage.subscribe();
    let mut acknowledged = inner.acknowledged.subscribe();
    // Whatever was acknowledged to another connection is said again to this one.
    acknowledged.mark_changed();
    let mut ticks = interval(limits::USAGE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent_at = Instant::now() + limits::SILENCE;
    let mut standings = Saying::new(inner.standings.subscribe());
    let mut arrivals = Arriving::new(inner.arrivals.subscribe());
    loop {
        tokio::select! {
            message = told.message() => {
                silent_at = Instant::now() + limits::SILENCE;
                let message = message?.ok_or(LinkError::Ended)?.said;
                standings.is_wanted(message.wants_standings);
                arrivals.is_wanted(message.wants_arrivals);
                match receiving.receive(message) {
                    Ok(Received::Nothing) => inner.is_heard(),
                    Ok(Received::Whole(declared)) => {
                        take(inner, member, receiving, *declared).await?;
                    }
                    Err(refused) => {
                        let known = receiving.version();
                        inner.is_refused(&refused);
                        let said = inner.acknowledgement(known, &refused.to_string());
                        say.say(Said::Acknowledgement(acknowledgement_to(&said))).await?;
                        drop(say);
                        let _ = timeout(limits::FAREWELL, async {
                            while let Ok(Some(_)) = told.message().await {}
                        })
                        .await;
                        return Err(refused.into());
                    }
                }
            }
            () = sleep_until(silent_at) => return Err(LinkError::Silent),
            _ = ticks.tick() => {
                let now = usage.borrow_and_update().clone();
                say.say(Said::Usage(usage_to(&with_own(now, inner, member)))).await?;
            }
            changed = usage.changed() => {
                changed.map_err(|_| LinkError::Ended)?;
                let now = usage.borrow_and_update().clone();
                say.say(Said::Usage(usage_to(&with_own(now, inner, member)))).await?;
            }
            news = arrivals.next() => say.say(Said::Arrivals(news)).await?,
            news = standings.next() => say.say(Said::Standings(news)).await?,
            changed = acknowledged.changed() => {
                changed.map_err(|_| LinkError::Ended)?;
                let latest = acknowledged.borrow_and_update().clone();
                if let Some(latest) = latest {
                    say.say(Said::Acknowledgement(acknowledgement_to(&latest))).await?;
                }
            }
        }
    }
}

/// What was received is in effect before anything is waited for: this may be cut short by the end of
/// the connection.
async fn take(
    inner: &Inner,
    member: &Member,
    receiving: &Receiving,
    declared: Declared,
) -> Result<(), LinkError> {
    let trust = declared.trust.clone();
    let is_news = *inner.trust() != *trust;
    // The roots of the own domain are there and can be read: the receiver has looked.
    member.trust(&inner.settings, &trust).map_err(LinkError::Certificate)?;
    debug!(version = declared.version, "the controller declared a version");
    inner.is_told(declared, receiving);
    if is_news {
        info!(version = trust.version, "the controller declared whom to trust");
        if let Some(own) = member.credentials.current() {
            member.keep(&inner.state, own.chain().clone(), &trust).await?;
        }
    }
    Ok(())
}

/// The node's own certificate is in use, too, and so is its clock.
fn with_own(mut usage: Usage, inner: &Inner, member: &Member) -> Usage {
    usage.clock = inner.link.borrow().clock;
    if let Some(issuer) = member.issuer() {
        *usage.leaves.entry(issuer).or_default() += 1;
    }
    let expires = member.expires().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    if let Some(expires) = expires.map(|since| since.as_secs()) {
        usage.oldest_expiry = match usage.oldest_expiry {
            0 => expires,
            oldest => oldest.min(expires),
        };
    }
    if let Some(own) = member.credentials.current() {
        usage.ages(&own, std::time::SystemTime::now());
    }
    usage
}

/// What waits to be said.
struct Say(Sender<FromAgent>);

impl Say {
    async fn say(&self, said: Said) -> Result<(), LinkError> {
        let message = FromAgent { said: Some(said) };
        let sent = self.0.send_timeout(message, limits::ANSWER_TIMEOUT).await;
        sent.map_err(|_| LinkError::Silent)
    }
}
