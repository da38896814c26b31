//! What somebody sees who watches every cable: TLS and nothing else between enrolled pods, from and
//! to the addresses and ports of the applications; and what both agents say about it.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use martlet_lab::{Canaries, Flow, Sniffer, Stage, Way, address, assert_exchanged, evidence};

/// Canaries for one exchange: each is asked or answered once.
struct Exchange {
    asked: Canaries,
    answered: Canaries,
    files: [PathBuf; 2],
}

impl Exchange {
    fn new(stage: &Stage, name: &str, each_way: usize) -> Result<Exchange> {
        let [asked, answered] = [(); 2].map(|()| Canaries::random(each_way));
        let files =
            ["asked", "answered"].map(|kind| stage.lab.directory().join(format!("{name}.{kind}")));
        asked.write_to(&files[0])?;
        answered.write_to(&files[1])?;
        Ok(Exchange { asked, answered, files })
    }

    fn canaries(&self) -> Canaries {
        self.asked.and(&self.answered)
    }

    /// Every canary crosses on its own, so that none can hide in a larger write.
    fn perform(&self, stage: &Stage, way: &Way) -> Result<()> {
        let [asked, answered] = self.files.each_ref().map(|path| path.display().to_string());
        let server = way.callee.serve(&["--then", "answer", "--canaries", &answered])?;
        let arguments = ["--then", "ask", "--canaries", &asked, "--replies", &answered];
        let client = stage.caller.connect(way.to, &arguments)?;
        assert_exchanged(&client, &server.saw_nth(0)?);
        assert_eq!(client["mismatches"], 0, "{client}");
        assert_eq!(client["received"], (self.answered.len() * Canaries::LENGTH) as u64, "{client}");
        Ok(())
    }
}

fn sniff(stage: &Stage, canaries: &Canaries) -> Result<Sniffer> {
    // Every veth has an end in one of these: the wire's, and the pods' on their nodes.
    Sniffer::start([stage.lab.wire(), stage.one.node().netns(), stage.two.node().netns()], canaries)
}

/// Half of them each way: 10,000 in all, for each family, to the same node and to the other.
#[test]
fn none_of_ten_thousand_canaries_is_seen_between_enrolled_pods_and_all_are_without() -> Result<()> {
    let mut stage = Stage::prepare("strict", |_| {})?;
    let ways = [stage.direct_ways_to(&stage.near), stage.direct_ways_to(&stage.far)].concat();
    let exchanges = |phase: &str| -> Result<Vec<Exchange>> {
        (0..ways.len()).map(|way| Exchange::new(&stage, &format!("{phase}{way}"), 1250)).collect()
    };
    let (off, on) = (exchanges("off")?, exchanges("on")?);
    let all = off.iter().chain(&on).map(Exchange::canaries).reduce(|all, next| all.and(&next));
    let all = all.context("there are ways")?;
    assert_eq!(all.len(), 20_000);
    // One sniffer for both phases, so what it finds in the first proves that it could in the second.
    let sniffer = sniff(&stage, &all)?;
    for (exchange, way) in off.iter().zip(&ways) {
        exchange.perform(&stage, way)?;
    }
    stage.launch()?;
    for (exchange, way) in on.iter().zip(&ways) {
        exchange.perform(&stage, way)?;
    }
    let capture = sniffer.stop().context("a lost frame would make the search worthless")?;
    let found = capture.found();
    assert_eq!(found.range(10_000..).count(), 0, "seen although both pods were enrolled");
    assert_eq!(found.range(..10_000).count(), 10_000, "seen while nobody was enrolled");
    evidence(
        "none_of_ten_thousand_canaries_is_seen_between_enrolled_pods_and_all_are_without",
        &[
            ("frames watched", &capture.frames()),
            ("canaries seen", &0),
            ("without Martlet", &10_000),
        ],
    )
}

/// Both directions of the one lane between the caller and this way's endpoint.
fn lane<'a>(flows: &[&'a Flow], way: &Way) -> [&'a Flow; 2] {
    let [first, second] = *flows else { panic!("one lane, and nothing else: {flows:#?}") };
    let [there, back] =
        if first.destination == way.endpoint { [first, second] } else { [second, first] };
    assert_eq!(there.source.ip(), way.caller, "{there:?}");
    assert_eq!(there.destination, way.endpoint, "{there:?}");
    assert_eq!((back.source, back.destination), (there.destination, there.source), "{back:?}");
    [there, back]
}

#[test]
fn the_wire_shows_the_applications_addresses_and_port_and_nothing_but_tls_1_3() -> Result<()> {
    // By pod and by service, of both families; a lane that is idle already would not be dialed now.
    for number in 0..4 {
        let stage = Stage::set("strict")?;
        let way = &stage.ways_to(&stage.far)[number];
        let server = way.callee.serve(&["--then", "echo"])?;
        let sniffer = sniff(&stage, &Canaries::random(0))?;
        let client = stage.caller.connect(way.to, &["--then", "send", "--bytes", "100000"])?;
        assert_exchanged(&client, &server.saw_nth(0)?);
        let capture = sniffer.stop()?;
        let flows: Vec<&Flow> = capture.flows().collect();
        for (flow, is_caller) in lane(&flows, way).into_iter().zip([true, false]) {
            assert!(flow.has_syn && !flow.has_reset, "{flow:?}");
            assert_eq!((flow.not_tls, flow.missing), (0, 0), "{flow:?}");
            assert!(flow.payload > 100_000, "{flow:?}");
            assert_eq!(flow.is_client_hello(), is_caller, "{flow:?}");
            let [_, alerts, handshakes, application] = flow.records_by_type;
            // Only the hellos are in the clear; TLS 1.3 encrypts the rest, alerts too.
            assert_eq!((alerts, handshakes), (0, 1), "{flow:?}");
            assert!(application > 1, "{flow:?}");
        }
        // supported_versions with TLS 1.3 chosen (RFC 8446, section 4.2.1).
        let hello = &lane(&flows, way)[1].start;
        assert!(hello.windows(6).any(|six| six == [0, 0x2b, 0, 2, 3, 4]), "{hello:x?}");
    }
    Ok(())
}

#[test]
fn both_records_name_both_ends_and_what_tls_agreed_on() -> Result<()> {
    let stage = Stage::set("strict")?;
    // Lanes leave when nobody listens any more, so one server each is there to the end.
    let servers = [stage.near.serve(&["--then", "echo"])?, stage.far.serve(&["--then", "echo"])?];
    for way in stage.ways() {
        let mut ids = Vec::new();
        let server = &servers[usize::from(way.callee.name() == stage.far.name())];
        for is_warm in [way.is_service(), true] {
            let client = stage.caller.connect(way.to, &["--then", "send", "--bytes", "1000"])?;
            let from = address(&client["local"]).context("the client has no address")?;
            assert_exchanged(&client, &server.saw(from)?);
            let [source, destination] = stage.records(&client, &way.callee)?;
            assert_eq!(source["id"], destination["id"]);
            ids.push(source["id"].to_string());
            assert_eq!(source["warm"], is_warm, "{way} {source}");
            assert_eq!(source["origin"], way.to.to_string(), "{source}");
            for record in [source, destination] {
                let identity = |name: &str| stage.mesh.identity("shop", name);
                assert_eq!(record["source"]["identity"], identity("cart"), "{record}");
                assert_eq!(record["destination"]["identity"], identity("web"), "{record}");
                assert_eq!(record["source"]["workload"]["name"], "caller", "{record}");
                assert_eq!(
                    record["destination"]["workload"]["name"],
                    way.callee.name(),
                    "{record}"
                );
                assert_eq!(address(&record["source"]["address"]), Some(from), "{record}");
                let endpoint: SocketAddr = way.endpoint;
                assert_eq!(address(&record["destination"]["address"]), Some(endpoint), "{record}");
                assert_eq!(record["tls"]["version"], "TLSv1.3", "{record}");
                assert_eq!(record["tls"]["cipher"], "TLS13_AES_128_GCM_SHA256", "{record}");
                assert_eq!(record["tls"]["key_exchange"], "X25519MLKEM768", "{record}");
            }
        }
        assert_ne!(ids[0], ids[1], "{way}");
    }
    Ok(())
}
