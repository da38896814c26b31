//! `martlet nodes`, and what a new node needs.

use std::time::SystemTime;

use martlet_model::report::{Invitation, NodeReport, Nodes};

use crate::{
    human,
    paint::{Tone, paint},
    table::{Table, cell, plain},
};

pub fn table(all: &Nodes, now: SystemTime) -> String {
    if all.nodes.is_empty() {
        return "there is no node; `martlet node join NAME` lets one join\n".to_owned();
    }
    let mut table =
        Table::new(&["NODE", "STATE", "SEEN", "TOLD", "TRUST", "CERTIFICATES", "AGENT"]);
    for node in &all.nodes {
        let seen = node.last_seen.map_or_else(human::unknown, |at| human::relative(at, now));
        table.row([
            plain(node.name.to_string()),
            state(node),
            plain(seen),
            known(node.version, all.version),
            known(node.trust_version, all.trust_version),
            plain(node.leaves.to_string()),
            plain(node.agent_version.clone().unwrap_or_else(human::unknown)),
        ]);
    }
    let errors = all.nodes.iter().filter_map(|node| {
        let error = node.error.as_ref()?;
        Some(format!("{}\n", paint(&format!("‼ {}: {error}", node.name), Tone::Warning)))
    });
    let clocks = all.nodes.iter().filter_map(|node| {
        let skew = node.clock.filter(|clock| clock.is_too_far())?;
        let text = format!("‼ {}: its clock is {skew}, which is too far", node.name);
        Some(format!("{}\n", paint(&text, Tone::Warning)))
    });
    let errors: String = errors.chain(clocks).collect();
    let blank = if errors.is_empty() { "" } else { "\n" };
    format!("{}{blank}{errors}", table.text())
}

fn state(node: &NodeReport) -> comfy_table::Cell {
    match (node.is_connected, node.last_seen) {
        (true, _) => cell("connected", Tone::Good),
        (false, Some(_)) => cell("away", Tone::Warning),
        (false, None) => cell("not heard of", Tone::Faint),
    }
}

/// The version in effect, and by how much it is behind.
fn known(has: Option<u64>, latest: u64) -> comfy_table::Cell {
    match has {
        None | Some(0) => plain(human::unknown()),
        Some(has) if has >= latest => cell("latest", Tone::Good),
        Some(has) => cell(format!("{} behind", latest - has), Tone::Warning),
    }
}

pub fn invitation(invitation: &Invitation, now: SystemTime) -> String {
    let Invitation { node, token, expires, trust_domain, controller } = invitation;
    let address = controller.as_deref().unwrap_or("ADDRESS:PORT");
    let expires = human::relative(*expires, now);
    format!(
        "# On {node}, write this into /etc/martlet/join-token, for root alone. It is good once, and \
         expires {expires}.\n{token}\n\n# And this into /etc/martlet/node.yaml:\n\
         trustDomain: {trust_domain}\ncontroller:\n  address: {address}\n  \
         token: /etc/martlet/join-token\nnode:\n  name: {node}\n"
    )
}
