//! What becomes of changes, of outages, and of a controller that hangs or lies.

use std::{sync::Arc, time::Duration};

use super::world::{Agent, Controller, Host, eventually, until};
use crate::table::Table;

async fn followed() -> (Controller, Host, Agent) {
    let controller = Controller::start().await;
    controller.declare(50, 1);
    let host = Host::new("one").with_token(&controller.token("one"));
    let agent = Agent::start(&host, controller.address);
    agent.until_declared(1).await;
    (controller, host, agent)
}

#[tokio::test]
async fn every_change_arrives_and_nothing_is_told_twice() {
    let (controller, _host, agent) = followed().await;
    for more in [51, 52, 10] {
        let version = controller.declare(more, 1);
        let declared = agent.until_declared(version).await;
        assert_eq!(declared.directory.workload_addresses().count(), more + 2);
    }
    let same = controller.declare(10, 1);
    assert_eq!(same, 4, "what is no change has no version");
}

#[tokio::test]
async fn what_contradicts_itself_is_not_declared() {
    let (controller, _host, agent) = followed().await;
    let mut bad = controller.declaration(50, 2);
    bad.workloads.push(bad.workloads[0].clone());
    assert!(bad.inventory().is_err());
    let version = controller.declare(51, 1);
    assert_eq!(agent.until_declared(version).await.version, 2);
}

#[tokio::test]
async fn an_agent_that_is_back_is_told_what_changed_meanwhile() {
    let (controller, host, agent) = followed().await;
    agent.stop().await;
    for more in [51, 52] {
        controller.declare(more, 1);
    }
    let agent = Agent::start(&host, controller.address);
    let declared = agent.until_declared(3).await;
    assert_eq!(declared.directory.workload_addresses().count(), 54);
}

#[tokio::test]
async fn a_controller_that_has_lost_its_memory_raises_its_version_above_its_agents() {
    let world = crate::server_world(7);
    let controller = Controller::start().await;
    let one = "one".parse().unwrap();
    let table = |more| Table::of(controller.declaration(more, 1)).unwrap();
    assert!(world.news(&one, 3, 40).unwrap().is_none(), "nothing is declared yet");
    assert_eq!(world.declare(table(1)), 1);
    world.raise(3, 40);
    let news = world.news(&one, 3, 40).unwrap().unwrap();
    assert_eq!(news.version, 41);
    assert!(news.messages[0].said.full, "versions of another instance are not compared");
    // An agent that was told before is told no more than that there is a new version.
    let news = world.news(&one, 7, 1).unwrap().unwrap();
    assert!(!news.messages[0].said.full && news.messages[0].said.workloads.is_empty());
    // Nobody raises it to where there is no more.
    world.raise(3, u64::MAX);
    world.raise(7, 99);
    assert_eq!(world.declare(table(2)), 42);
    let news = world.news(&one, 7, 41).unwrap().unwrap();
    assert_eq!((news.messages.len(), news.messages[0].said.workloads.len()), (1, 1));
}

#[tokio::test]
async fn a_change_costs_what_has_changed_and_who_is_far_behind_is_told_everything() {
    use prost::Message as _;
    let world = crate::server_world(7);
    let controller = Controller::start().await;
    let one = "one".parse().unwrap();
    let table = |more| Table::of(controller.declaration(more, 1)).unwrap();
    world.declare(table(5_000));
    let whole: usize = {
        let news = world.news(&one, 0, 0).unwrap().unwrap();
        news.messages.iter().map(|message| message.encoded_len()).sum()
    };
    world.declare(table(5_001));
    let change = world.news(&one, 7, 1).unwrap().unwrap().messages[0].encoded_len();
    println!("evidence 5,000 workloads: {whole} bytes at first, {change} bytes for one more");
    assert!(change < 300 && whole > 100 * change, "{change} of {whole}");
    for more in 0..crate::limits::CHANGES {
        world.declare(table(more % 2));
    }
    assert!(world.news(&one, 7, 1).unwrap().unwrap().messages[0].said.full);
}

#[tokio::test]
async fn an_outage_changes_nothing_and_is_said() {
    let (controller, _host, agent) = followed().await;
    let before = agent.client.declared().borrow().clone().unwrap();
    controller.stop().await;
    agent.until_down("").await;
    eventually("it says that nobody is there", || {
        let why = agent.client.link().borrow().connected.clone();
        why.is_err_and(|why| why.contains("cannot be reached"))
    })
    .await;
    let after = agent.client.declared().borrow().clone().unwrap();
    assert!(Arc::ptr_eq(&before, &after));
    agent.stop().await;
}

/// Each round lets pass what is between two signs of life; what is waited for then comes of it.
#[tokio::test]
async fn an_agent_that_waits_for_its_turn_hears_and_is_heard() {
    let controller = Controller::start().await;
    controller.declare(50, 1);
    let turns = controller.server.all_turns().await;
    let host = Host::new("one").with_token(&controller.token("one"));
    let agent = Agent::start(&host, controller.address);
    agent.until_connected().await;
    let heard = || controller.server.agents().first().map(|agent| agent.last_seen);
    eventually("it is heard", || heard().is_some()).await;
    for _ in 0..2 * crate::limits::SILENCE.as_secs() / crate::limits::HEARTBEAT.as_secs() {
        let before = heard();
        tokio::time::pause();
        tokio::time::advance(crate::limits::HEARTBEAT).await;
        tokio::time::resume();
        eventually("it is heard again", || heard() > before).await;
        assert_eq!(agent.client.link().borrow().connected, Ok(()));
    }
    drop(turns);
    agent.until_declared(1).await;
}

/// Time is let go on only where nothing but silence is waited for.
#[tokio::test]
async fn a_controller_that_hangs_is_noticed() {
    let liar = super::strangers::Liar::start(Vec::new()).await;
    let agent = liar.agent();
    agent.until_connected().await;
    liar.until_followed().await;
    tokio::time::pause();
    tokio::time::advance(crate::limits::SILENCE + Duration::from_secs(1)).await;
    tokio::time::resume();
    agent.until_down("silent").await;
}

#[tokio::test]
async fn a_controller_that_lies_harms_nothing_and_is_named_a_liar() {
    use super::strangers::{Liar, truth};
    let good = truth(5);
    let mut lie = truth(6);
    lie.workloads[0].addresses = vec!["10.0.0.999".to_owned()];
    let liar = Liar::start(vec![good, lie]).await;
    let agent = liar.agent();
    let link = until(&mut agent.client.link(), |link| link.refused.is_some()).await;
    assert!(link.refused.unwrap().contains("10.0.0.999"));
    let declared = agent.client.declared().borrow().clone().unwrap();
    assert_eq!(declared.version, 5);
    agent.until_down("was not taken").await;
    eventually("the controller hears of it", || liar.complaints() > 0).await;
}

#[tokio::test]
async fn an_agent_knows_how_far_its_clock_is_from_its_controllers() {
    let liar = super::strangers::Liar::start(Vec::new()).await;
    // So far that a slow machine doesn't matter.
    for (ahead_ms, is_too_far) in [(0, false), (-3_600_000, true), (3_600_000, true)] {
        liar.set_clock(ahead_ms);
        let agent = liar.agent();
        let link = until(&mut agent.client.link(), |link| link.clock.is_some()).await;
        let clock = link.clock.unwrap();
        assert_eq!(clock.is_too_far(), is_too_far, "{clock:?}");
        let off = (clock.ahead_ms + ahead_ms).unsigned_abs();
        assert!(off <= clock.within_ms + 1, "{clock:?} for {ahead_ms}");
        agent.stop().await;
    }
    // That there is no such time is nothing to fall over.
    liar.set_clock(i64::MAX);
    let agent = liar.agent();
    liar.until_followed().await;
    agent.until_connected().await;
}

#[tokio::test]
async fn a_controller_hears_how_far_the_clocks_of_its_agents_are() {
    let (controller, _host, _agent) = followed().await;
    let clock = || controller.server.agents()[0].usage.as_ref().and_then(|usage| usage.clock);
    eventually("the agent has said it", || clock().is_some()).await;
    assert!(!clock().unwrap().is_too_far(), "{:?}", clock());
}
