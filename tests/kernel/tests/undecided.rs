//! Pods about which nothing is decided yet: neither enrolled nor outside.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;
use martlet_kernel::{Membership, Node};
use martlet_tests_kernel::{Lab, Place, leave_outside, members};
use tokio::net::TcpListener;

const PORT: u16 = 8080;

fn listen(place: &Place) -> Result<Vec<TcpListener>> {
    place.addresses().iter().map(|ip| place.listen(SocketAddr::new(*ip, PORT))).collect()
}

/// By every address of the called pod, IPv4 in both of its forms.
async fn reaches(from: &Place, to: &Place) -> Result<Vec<Result<(), ErrorKind>>> {
    let mut outcomes = Vec::new();
    let mapped = match to.v4 {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    };
    for ip in [to.v4, to.v6, mapped] {
        let connected = from.connect(SocketAddr::new(ip, PORT)).await;
        outcomes.push(connected.map(drop).map_err(|error| error.kind()));
    }
    Ok(outcomes)
}

fn refusals(node: &Node) -> Result<u64> {
    let counters = node.counters()?;
    let ours = counters.iter().filter(|counter| counter.verdict == "refused_undecided");
    Ok(ours.map(|counter| counter.count).sum())
}

const REFUSED: Result<(), ErrorKind> = Err(ErrorKind::PermissionDenied);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undecided_pod_reaches_all_but_the_mesh() -> Result<()> {
    let lab = Lab::new()?;
    let (fresh, web, other) = (lab.place("fresh")?, lab.place("web")?, lab.place("other")?);
    let _listening = (listen(&web)?, listen(&other)?);
    assert_eq!(reaches(&fresh, &web).await?, [Ok(()); 3], "without Martlet");
    let node = Node::start(&lab.settings)?;
    assert_eq!(reaches(&fresh, &web).await?, [Ok(()); 3], "the mesh is empty");
    members(&node, &[&web, &fresh])?;
    assert_eq!(reaches(&fresh, &web).await?, [REFUSED; 3]);
    assert_eq!(reaches(&fresh, &other).await?, [Ok(()); 3]);
    assert_eq!(refusals(&node)?, 3);
    node.set_members([(web.v4, Membership::service())].into_iter())?;
    assert_eq!(reaches(&fresh, &web).await?, [REFUSED, Ok(()), REFUSED], "a service's address");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_outside_by_decision_reaches_the_mesh_in_plaintext() -> Result<()> {
    let lab = Lab::new()?;
    let (fresh, web) = (lab.place("fresh")?, lab.place("web")?);
    let _listening = listen(&web)?;
    let node = Node::start(&lab.settings)?;
    members(&node, &[&web])?;
    leave_outside(&node, &[&fresh])?;
    assert_eq!(reaches(&fresh, &web).await?, [Ok(()); 3]);
    leave_outside(&node, &[&web])?;
    assert_eq!(reaches(&fresh, &web).await?, [REFUSED; 3], "decided no longer");
    node.set_all_outside()?;
    assert_eq!(reaches(&fresh, &web).await?, [Ok(()); 3], "nothing is undecided");
    node.set_outside([])?;
    assert_eq!(reaches(&fresh, &web).await?, [REFUSED; 3]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_own_processes_reach_the_mesh() -> Result<()> {
    let lab = Lab::new()?;
    let web = lab.place("web")?;
    let _listening = listen(&web)?;
    let node = Node::start(&lab.settings)?;
    members(&node, &[&web])?;
    node.set_outside([])?;
    let connect = || std::net::TcpStream::connect(SocketAddr::new(web.v4, PORT));
    lab.node.run(connect)??;
    assert_eq!(refusals(&node)?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_made_while_no_agent_runs_is_closed_and_what_was_outside_stays_so()
-> Result<()> {
    let lab = Lab::new()?;
    let (known, web) = (lab.place("known")?, lab.place("web")?);
    let _listening = listen(&web)?;
    let node = Node::start(&lab.settings)?;
    members(&node, &[&web])?;
    leave_outside(&node, &[&known])?;
    drop(node);
    let fresh = lab.place("fresh")?;
    assert_eq!(reaches(&fresh, &web).await?, [REFUSED; 3]);
    assert_eq!(reaches(&known, &web).await?, [Ok(()); 3]);
    // The next agent has not said anything yet.
    let node = Node::start(&lab.settings)?;
    assert_eq!(reaches(&fresh, &web).await?, [REFUSED; 3]);
    assert_eq!(reaches(&known, &web).await?, [Ok(()); 3]);
    drop(node);
    Ok(())
}
