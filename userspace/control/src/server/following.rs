//! One agent that follows: it is told what it does not know, and listened to.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use martlet_model::Label;
use tokio::{
    sync::mpsc::Sender,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tonic::{Status, Streaming};
use tracing::{info, warn};

use super::{
    NodeCaller, Office, Shared,
    calls::{malformed, refused},
    pace::Pace,
    roster::Seat,
};
use crate::{
    Telling, limits,
    message::{acknowledgement_from, arrivals_from, standings_from, text, usage_from},
    proto::{FromAgent, Hello, ToAgent, from_agent::Said},
};

type Told = Sender<Result<Telling, Status>>;

/// Until the agent leaves, is silent or too slow, breaks a rule, or is no node any more.
pub async fn run<O: Office>(
    shared: Arc<Shared<O>>,
    node: NodeCaller,
    mut said: Streaming<FromAgent>,
    told: Told,
) {
    let ended = match hello(&mut said).await {
        Ok(hello) => follow(&shared, &node, hello, said, &told).await,
        Err(status) => status,
    };
    // Whoever has left does not hear it.
    let _ = told.try_send(Err(ended));
}

async fn hello(said: &mut Streaming<FromAgent>) -> Result<Hello, Status> {
    let first = timeout(limits::ANSWER_TIMEOUT, said.message()).await;
    match first.map_err(|_| Status::deadline_exceeded("nothing was said"))?? {
        Some(FromAgent { said: Some(Said::Hello(hello)) }) => Ok(hello),
        _ => Err(Status::invalid_argument("the first thing to say is hello")),
    }
}

async fn follow<O: Office>(
    shared: &Arc<Shared<O>>,
    node: &NodeCaller,
    hello: Hello,
    said: Streaming<FromAgent>,
    told: &Told,
) -> Status {
    let agent_version = match text("agent_version", hello.agent_version) {
        Ok(version) => version,
        Err(bad) => return malformed(bad),
    };
    let seat = shared.roster.sit(&node.node, agent_version, SystemTime::now());
    info!(node = %node.node, version = hello.version, "an agent follows");
    shared.world.raise(hello.instance, hello.version);
    let mut versions = shared.world.versions();
    versions.mark_changed();
    let (mut instance, mut known) = (hello.instance, hello.version);
    // Versions of another controller say nothing about ours, and what was acknowledged to it is said
    // again first.
    let is_stranger = instance != shared.world.instance();
    let first_told = OnceLock::new();
    // Whoever waits to be told much is listened to meanwhile, and hears that somebody is there.
    let telling = async {
        while versions.changed().await.is_ok() {
            let knows = (&mut instance, &mut known);
            if let Err(status) = tell(shared, node, &seat, knows, told).await {
                return status;
            }
            if instance == shared.world.instance() {
                first_told.get_or_init(|| known);
            }
        }
        Status::unavailable("the controller is stopping")
    };
    let floor = || match is_stranger {
        true => first_told.get().copied().unwrap_or(u64::MAX),
        false => 0,
    };
    let listening = hear((shared, node, &seat), said, told, floor);
    let ended = tokio::select! {
        ended = telling => ended,
        ended = listening => ended,
        () = told.closed() => Status::ok("the agent has left"),
        () = seat.taken.cancelled() => Status::aborted("another agent of this node follows, or it was removed"),
        () = shared.shutdown.cancelled() => Status::unavailable("the controller is stopping"),
    };
    info!(node = %node.node, reason = ended.message(), "an agent follows no more");
    ended
}

/// `floor`: an older version is not one of ours.
async fn hear<O: Office>(
    (shared, node, seat): (&Arc<Shared<O>>, &NodeCaller, &Seat<'_>),
    mut said: Streaming<FromAgent>,
    told: &Told,
    floor: impl Fn() -> u64,
) -> Status {
    let mut ticks = interval(limits::HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pace = Pace::new(limits::SAID_BURST, limits::SAID_PER_SECOND);
    let mut silent_at = Instant::now() + limits::SILENCE;
    loop {
        let step = tokio::select! {
            message = said.message() => {
                silent_at = Instant::now() + limits::SILENCE;
                match message {
                    Ok(Some(message)) if pace.try_take() => {
                        listen((&shared.office, &node.node, seat), message, floor())
                    }
                    Ok(Some(_)) => Err(Status::resource_exhausted("the agent talks too much")),
                    Ok(None) => Err(Status::ok("the agent has left")),
                    Err(status) => Err(status),
                }
            }
            _ = ticks.tick() => match shared.office.admit(node) {
                Ok(()) => send(shared, told, ToAgent::default().into()).await,
                Err(refusal) => Err(refused(refusal)),
            },
            () = sleep_until(silent_at) => Err(Status::deadline_exceeded("the agent is silent")),
        };
        if let Err(status) = step {
            return status;
        }
    }
}

async fn tell<O: Office>(
    shared: &Arc<Shared<O>>,
    node: &NodeCaller,
    seat: &Seat<'_>,
    (instance, known): (&mut u64, &mut u64),
    told: &Told,
) -> Result<(), Status> {
    // Those who have to be told everything wait for each other, so that it is in memory for some of
    // them only; changes wait for nobody.
    let is_far = shared.world.is_far(*instance, *known);
    let _turn = match is_far {
        true => Some(shared.tellers.acquire().await),
        false => None,
    };
    let news = match is_far {
        // To make all of it takes long, and who makes it keeps the threads that everything else is
        // done on: a controller would lose its lease.
        true => {
            let (shared, node) = (shared.clone(), node.node.clone());
            let (instance, known) = (*instance, *known);
            let made = spawn_blocking(move || shared.world.news(&node, instance, known));
            made.await.map_err(|_| Status::unavailable("the controller is stopping"))?
        }
        false => shared.world.news(&node.node, *instance, *known),
    };
    // Everything that is declared was found to be sayable before.
    let Some(news) = news.map_err(|bad| Status::internal(bad.to_string()))? else { return Ok(()) };
    for message in news.messages {
        send(shared, told, message).await?;
    }
    (*instance, *known) = (shared.world.instance(), news.version);
    seat.told(news.version);
    Ok(())
}

async fn send<O: Office>(
    shared: &Shared<O>,
    told: &Told,
    mut message: Telling,
) -> Result<(), Status> {
    message.said.wants_standings = shared.office.wants_standings();
    message.said.wants_arrivals = shared.office.wants_arrivals();
    let sent = told.send_timeout(Ok(message), limits::SLOW_READER).await;
    sent.map_err(|_| Status::deadline_exceeded("the agent does not read"))
}

fn listen<O: Office>(
    (office, node, seat): (&O, &Label, &Seat<'_>),
    message: FromAgent,
    floor: u64,
) -> Result<(), Status> {
    let now = SystemTime::now();
    match message.said {
        Some(Said::Usage(usage)) => seat.uses(usage_from(usage).map_err(malformed)?, now),
        Some(Said::Acknowledgement(said)) => {
            let mut said = acknowledgement_from(said).map_err(malformed)?;
            if let Some(error) = &said.error {
                warn!(version = said.version, error, "an agent did not take what it was told");
            }
            if said.version < floor {
                said.version = 0;
            }
            seat.acknowledged(said, now);
        }
        Some(Said::Standings(said)) => {
            seat.stands(standings_from(said).map_err(malformed)?, now).map_err(malformed)?;
        }
        Some(Said::Arrivals(said)) => {
            office.arrive(node, arrivals_from(said).map_err(malformed)?);
        }
        Some(Said::Hello(_)) => return Err(Status::invalid_argument("hello is said once")),
        None => return Err(Status::invalid_argument("nothing that is known was said")),
    }
    Ok(())
}
