//! OpenBSD's nc closes one direction, and the other one goes on.
//!
//! nc itself, as a server, leaves when its client has finished, so the server is a few lines of
//! Python.

use std::{fs, path::Path};

use martlet_lab::Running;

use crate::stage::{PATIENCE, PYTHON, Pair, Stage, Wire, prepare, wait_until_listening};

const SERVER: &str = include_str!("netcat/server.py");
const PORT: u16 = 9000;

/// `who` finishes first.
fn serve(pair: &Pair, who: &str, answer: &Path) -> Running {
    let server = pair.server.command(PYTHON).args(["-c", SERVER, who, &PORT.to_string()]);
    let mut server = server.arg(answer).spawn().unwrap();
    wait_until_listening(&mut server, &pair.server, PORT);
    server
}

/// Sends a file, closes that direction, and keeps what comes until the server finishes, too.
fn send(pair: &Pair, family: usize, file: &Path) -> Vec<u8> {
    let server = pair.servers()[family];
    let script = format!("exec nc.openbsd -N {server} {PORT} < {} > heard", file.display());
    pair.ask("sh", &["-c", &script]);
    fs::read(pair.client.directory().unwrap().join("heard")).unwrap()
}

#[test]
fn the_client_may_finish_first() {
    compare("client");
}

#[test]
fn the_server_may_finish_first() {
    compare("server");
}

fn compare(who: &str) {
    let stage = Stage::set();
    let [question, answer] = ["question", "answer"].map(|name| stage.file(name, 5_000_000));
    stage.compare(Wire::Watched, |pair| {
        for family in [0, 1] {
            let server = serve(pair, who, &answer);
            let heard = send(pair, family, &question);
            assert!(heard == fs::read(&answer).unwrap(), "the answer has {} bytes", heard.len());
            let told = server.wait(PATIENCE).unwrap().success().unwrap();
            let expected = prepare(pair.client.node(), "sha256sum", &[question.to_str().unwrap()]);
            assert_eq!(told.split_whitespace().next(), expected.split_whitespace().next());
        }
    });
}
