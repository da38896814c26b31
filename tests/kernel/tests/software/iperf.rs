//! iperf3: four streams at full speed, forward, in reverse, and both ways at once.

use serde_json::Value;

use crate::stage::{Pair, Stage, Wire, wait_until_listening};

/// Runs it, and gives the JSON in which it tells what arrived.
fn measure(pair: &Pair, arguments: &[&str]) -> Value {
    let directory = pair.server.directory().unwrap();
    let server = pair.server.command("iperf3").args(["--server", "--one-off"]);
    let mut server = server.current_dir(directory).spawn().unwrap();
    wait_until_listening(&mut server, &pair.server, 5201);
    let address = pair.servers()[0].to_string();
    let told = pair.ask("iperf3", &[&["--client", &address, "--json"], arguments].concat());
    drop(server);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told.get("error"), None, "{told}");
    told["end"].clone()
}

fn arrived(end: &Value, sum: &str) -> u64 {
    end[sum]["bytes"].as_u64().unwrap_or_else(|| panic!("{sum} is not in {end}"))
}

#[test]
fn four_streams_run_at_full_speed_in_every_direction() {
    for (direction, sums) in [
        (None, &["sum_received"][..]),
        (Some("--reverse"), &["sum_received"]),
        (Some("--bidir"), &["sum_received", "sum_received_bidir_reverse"]),
    ] {
        let stage = Stage::set();
        stage.compare(Wire::Unwatched, |pair| {
            let mut arguments = vec!["--parallel", "4", "--time", "2"];
            arguments.extend(direction);
            let end = measure(pair, &arguments);
            for sum in sums {
                let bytes = arrived(&end, sum);
                println!("{direction:?} from {}: {bytes} bytes", pair.client.name());
                assert!(bytes > 1_000_000, "{end}");
            }
        });
    }
}

#[test]
fn streams_that_the_sniffer_can_follow_are_tls_on_the_wire() {
    let stage = Stage::set();
    stage.compare(Wire::Watched, |pair| {
        let limited = ["--parallel", "2", "--bytes", "20M", "--bitrate", "400M"];
        let end = measure(pair, &limited);
        // What is on its way when the sender stops is not counted as received.
        assert!(arrived(&end, "sum_received") > 10_000_000, "{end}");
        assert!(arrived(&end, "sum_sent") >= 20 << 20, "{end}");
        end["streams"].as_array().unwrap().len()
    });
}
