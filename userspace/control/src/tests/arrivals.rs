//! Agents say which pods have just arrived, to controllers that want to know.

use std::collections::BTreeMap;

use martlet_model::WorkloadName;

use super::world::{Agent, Controller, Host, eventually, name};
use crate::Arrival;

fn arrivals(of: &[(&str, &[&str])]) -> BTreeMap<WorkloadName, Arrival> {
    let one = |(text, addresses): &(&str, &[&str])| {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        (name(text), Arrival { name: name(text), pod: "u1".into(), addresses })
    };
    of.iter().map(one).collect()
}

/// What is heard until there is as much of it as is waited for.
async fn heard(controller: &Controller, count: usize) -> Vec<(String, usize)> {
    let arrived = &controller.office().arrived;
    eventually("the agent says it", || arrived.lock().unwrap().len() >= count).await;
    let heard = std::mem::take(&mut *arrived.lock().unwrap());
    let one = |(node, arrival): (martlet_model::Label, Arrival)| {
        assert_eq!(node.as_str(), "one", "it is the node that the certificate names");
        (arrival.name.name.to_string(), arrival.addresses.len())
    };
    heard.into_iter().map(one).collect()
}

async fn agent(controller: &Controller) -> (Host, Agent) {
    controller.declare(0, 1);
    let host = Host::new("one").with_token(&controller.token("one"));
    let agent = Agent::start(&host, controller.address);
    agent.until_declared(1).await;
    (host, agent)
}

#[tokio::test]
async fn who_has_arrived_is_told_once_and_all_of_them_to_the_next_connection() {
    let controller = Controller::start().await;
    let (host, agent) = agent(&controller).await;
    agent.client.report_arrivals(arrivals(&[("web", &["10.0.0.1"])]));
    assert_eq!(heard(&controller, 1).await, [("web".to_owned(), 1)]);
    agent.client.report_arrivals(arrivals(&[("cart", &["10.0.0.2", "fd00::2"])]));
    assert_eq!(heard(&controller, 2).await, [("cart".to_owned(), 2), ("web".to_owned(), 0)]);
    agent.stop().await;
    let agent = Agent::start(&host, controller.address);
    agent.client.report_arrivals(arrivals(&[("cart", &["10.0.0.2", "fd00::2"])]));
    assert_eq!(heard(&controller, 1).await, [("cart".to_owned(), 2)]);
}

#[tokio::test]
async fn nobody_arrives_for_a_controller_that_does_not_want_to_hear_of_it() {
    let controller = Controller::start().await;
    *controller.office().wants_arrivals.lock().unwrap() = false;
    let (_host, agent) = agent(&controller).await;
    agent.client.report_arrivals(arrivals(&[("web", &["10.0.0.1"])]));
    // What is said later is heard.
    agent.client.acknowledge(1, 1, None);
    let said = |controller: &Controller| {
        controller.server.agents().iter().any(|agent| agent.acknowledged.version == 1)
    };
    eventually("it acknowledges", || said(&controller)).await;
    assert!(controller.office().arrived.lock().unwrap().is_empty());
    assert!(agent.client.link().borrow().connected.is_ok());
}
