//! A WebSocket that lives for long, with pings, beside one on which nothing happens for as long.

use std::{env, net::SocketAddr, time::Duration};

use crate::stage::{PATIENCE, PYTHON, Pair, Stage, Wire, wait_until_listening};

const SERVER: &str = include_str!("websocket/server.py");
const CLIENT: &str = include_str!("websocket/client.py");

/// Seconds to live; minutes, and so longer than an unused lane, where the time is given.
fn lifetime() -> u64 {
    if env::var_os("MARTLET_LONG").is_some() { 180 } else { 20 }
}

/// Without Martlet there is no reason why it should not live: that needs no time.
const CONTROL: u64 = 2;

#[test]
fn it_lives_with_pings_and_without_a_word() {
    println!("the WebSockets live for {} s", lifetime());
    let stage = Stage::set();
    stage.compare(Wire::Watched, |pair| {
        talk(pair, if pair.is_enrolled { lifetime() } else { CONTROL })
    });
}

fn talk(pair: &Pair, seconds: u64) -> String {
    let mut server = pair.server.command(PYTHON).args(["-c", SERVER]).spawn().unwrap();
    wait_until_listening(&mut server, &pair.server, 8765);
    let address = format!("ws://{}/", SocketAddr::new(pair.servers()[0], 8765));
    let client = pair.client.command(PYTHON).args(["-c", CLIENT, &address]);
    let client = client.arg(seconds.to_string());
    let told = client.run_within(Duration::from_secs(seconds) + PATIENCE);
    drop(server);
    told.unwrap().success().unwrap()
}
