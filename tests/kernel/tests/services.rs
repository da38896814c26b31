//! Services: virtual addresses that no route leads to, and what is behind them.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use martlet_lab::{
    Canaries, Mesh, PORT, Pod, SERVICE_PORT, Sniffer, Stage, Way, address, assert_exchanged,
    assert_refused,
};

const SEND: [&str; 4] = ["--then", "send", "--bytes", "1000"];

/// Makes services of both families with endpoints on these pods.
fn serve(mesh: &mut Mesh, number: u8, pods: &[&Pod], port: u16) -> Result<[SocketAddr; 2]> {
    let addresses = [format!("10.96.200.{number}"), format!("fd96:200::{number}")];
    for (family, address) in addresses.iter().enumerate() {
        let endpoint = |pod: &&Pod| SocketAddr::new(pod.addresses()[family], port).to_string();
        let endpoints: Vec<_> = pods.iter().map(endpoint).collect();
        let name = format!("service-{number}-{family}");
        mesh.service("shop", &name, address, SERVICE_PORT, &endpoints);
    }
    let [v4, v6] = addresses;
    Ok([SocketAddr::new(v4.parse()?, SERVICE_PORT), SocketAddr::new(v6.parse()?, SERVICE_PORT)])
}

#[test]
fn a_pod_reaches_itself_through_its_service_without_leaving() -> Result<()> {
    let stage = Stage::set("strict")?;
    let server = stage.far.serve(&["--then", "echo"])?;
    let sniffer =
        Sniffer::start([stage.lab.wire(), stage.two.node().netns()], &Canaries::random(0))?;
    for way in stage.ways_to(&stage.far).into_iter().filter(Way::is_service) {
        let client = stage.far.connect(way.to, &SEND)?;
        let from = address(&client["local"]).context("the client has no address")?;
        let seen = server.saw(from)?;
        assert_exchanged(&client, &seen);
        assert_eq!(from.ip(), way.endpoint.ip());
        assert_eq!(address(&client["peer"]), Some(way.to), "{client}");
        assert_eq!(address(&seen["peer"]), Some(from), "{seen}");
        let record = stage.two.wait_for_record("the pod to itself", |record| {
            address(&record["source"]["address"]) == Some(from)
        })?;
        assert_eq!(record["protection"], "internal", "{record}");
        assert_eq!(record["closed"], "finished", "{record}");
    }
    let capture = sniffer.stop()?;
    let flows: Vec<_> = capture.flows().collect();
    assert!(flows.is_empty(), "{flows:#?}");
    Ok(())
}

#[test]
fn every_endpoint_of_a_service_is_used_and_one_on_which_nobody_listens_is_passed_over() -> Result<()>
{
    let mut stage = Stage::set("strict")?;
    let pods = [stage.near.clone(), stage.far.clone()];
    let both = serve(&mut stage.mesh, 1, &[&pods[0], &pods[1]], PORT)?;
    stage.reload()?;
    let ask = || -> Result<()> {
        for to in both {
            for _ in 0..15 {
                let client = stage.caller.connect(to, &SEND)?;
                assert_eq!(
                    (&client["received"], &client["finished"]),
                    (&1000.into(), &true.into())
                );
                assert_eq!(address(&client["peer"]), Some(to), "{client}");
            }
        }
        Ok(())
    };
    let near = pods[0].serve(&["--then", "echo"])?;
    ask().context("nobody listens in the other pod")?;
    let alone = near.seen().len();
    let far = pods[1].serve(&["--then", "echo"])?;
    // That one of the two is never chosen happens once in two to the power of 29.
    ask()?;
    assert!(near.seen().len() > alone && !far.seen().is_empty());
    Ok(())
}

#[test]
fn a_service_without_endpoints_and_a_port_that_it_lacks_are_refused() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let far = stage.far.clone();
    let _server = far.serve(&["--then", "echo"])?;
    let empty = serve(&mut stage.mesh, 1, &[], PORT)?;
    let other = serve(&mut stage.mesh, 2, &[&far], PORT)?.map(|to| SocketAddr::new(to.ip(), 81));
    stage.reload()?;
    for (to, expected) in
        empty.map(|to| (to, "no_endpoint")).into_iter().chain(other.map(|to| (to, "no_route")))
    {
        assert_refused(&stage.caller.connect(to, &SEND)?);
        let record = stage
            .one
            .wait_for_record("the refusal", |record| record["origin"] == to.to_string())?;
        assert_eq!(record["closed"], expected, "{record}");
    }
    Ok(())
}

#[test]
fn an_endpoint_outside_the_mesh_is_reached_in_plaintext_and_counted() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let outside = stage.outside.clone();
    let server = outside.serve(&["--then", "echo"])?;
    let services = serve(&mut stage.mesh, 1, &[&outside], PORT)?;
    stage.reload()?;
    for (number, to) in services.into_iter().enumerate() {
        let client = stage.caller.connect(to, &SEND)?;
        assert_exchanged(&client, &server.saw_nth(number)?);
        assert_eq!(address(&client["peer"]), Some(to), "{client}");
        let record = stage
            .one
            .wait_for_record("the plaintext", |record| record["origin"] == to.to_string())?;
        assert_eq!(record["protection"], "plaintext", "{record}");
        assert_eq!(record["tls"], serde_json::Value::Null, "{record}");
        let counted = stage.one.metric("martlet_plaintext_connections_total", &["outbound"])?;
        assert_eq!(counted, (number + 1) as f64);
    }
    Ok(())
}
