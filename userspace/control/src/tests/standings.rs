//! Agents say how it stands with their workloads, to controllers that want to know.

use std::collections::BTreeMap;

use martlet_model::{Mode, WorkloadName};

use super::world::{Agent, Controller, Host, eventually, name};
use crate::{Standing, Stands};

fn standings(of: &[(&str, Stands)]) -> BTreeMap<WorkloadName, Standing> {
    let one = |(text, stands): &(&str, Stands)| {
        (name(text), Standing { pod: "u1".into(), stands: stands.clone() })
    };
    of.iter().map(one).collect()
}

fn strict() -> Stands {
    Stands::Enrolled(Mode::Strict)
}

/// What is heard until there is as much of it as is waited for.
async fn heard(controller: &Controller, count: usize) -> BTreeMap<WorkloadName, Option<Stands>> {
    let mut heard = BTreeMap::new();
    eventually("the agent says it", || {
        for (node, workload) in controller.server.heard() {
            assert_eq!(node.as_str(), "one");
            let standing = controller.server.standing(&node, &workload);
            heard.insert(workload, standing.map(|standing| standing.stands));
        }
        heard.len() >= count
    })
    .await;
    heard
}

async fn agent(controller: &Controller) -> (Host, Agent) {
    controller.declare(0, 1);
    let host = Host::new("one").with_token(&controller.token("one"));
    let agent = Agent::start(&host, controller.address);
    agent.until_declared(1).await;
    (host, agent)
}

#[tokio::test]
async fn what_changes_is_told_once_and_all_of_it_to_the_next_connection() {
    let controller = Controller::start().await;
    let (host, agent) = agent(&controller).await;
    let why = || Stands::Pending("no network namespace".to_owned());
    agent.client.report_standings(standings(&[("web", strict()), ("cart", why())]));
    let all = [(name("web"), Some(strict())), (name("cart"), Some(why()))];
    assert_eq!(heard(&controller, 2).await, all.into());
    agent.client.report_standings(standings(&[("web", strict())]));
    assert_eq!(heard(&controller, 1).await, [(name("cart"), None)].into());
    agent.stop().await;
    let agent = Agent::start(&host, controller.address);
    agent.until_connected().await;
    agent.client.report_standings(standings(&[("late", strict())]));
    let now = [(name("web"), None), (name("late"), Some(strict()))];
    assert_eq!(heard(&controller, 2).await, now.into());
}

#[tokio::test]
async fn nothing_is_said_to_a_controller_that_does_not_want_it() {
    let controller = Controller::start().await;
    *controller.office().wants_standings.lock().unwrap() = false;
    let (_host, agent) = agent(&controller).await;
    agent.client.report_standings(standings(&[("web", strict())]));
    // What is said later is heard.
    agent.client.acknowledge(1, 1, None);
    let said = |controller: &Controller| {
        controller.server.agents().iter().any(|agent| agent.acknowledged.version == 1)
    };
    eventually("it acknowledges", || said(&controller)).await;
    assert!(controller.server.heard().is_empty());
    assert!(agent.client.link().borrow().connected.is_ok());
}
