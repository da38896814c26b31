//! The demonstration and the benchmark: what they need, built, and then they take over.

use std::{
    io::{BufRead as _, stdin},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Error, Result, ensure};
use serde_json::Value;

use crate::{
    build::{self, NODE},
    doctor::{self, Group},
};

#[derive(clap::Args)]
pub struct Args {
    /// Only name what is missing, instead of installing it first.
    #[arg(long)]
    no_install: bool,
    /// Leave everything running, and say how to play with it.
    #[arg(long)]
    keep: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

pub fn demo(args: &Args) -> Result<ExitCode> {
    doctor::run(&[Group::Build, Group::Demo], !args.no_install)?;
    build::release(&with_node(&["martlet-demo"]))?;
    let mut command = Command::new("target/release/martlet-demo");
    command.args(args.keep.then_some("--keep")).args(args.json.then_some("--json"));
    Err(become_it(command))
}

pub fn bench(install: bool, arguments: &[String]) -> Result<ExitCode> {
    doctor::run(&[Group::Build, Group::Bench], install)?;
    build::release(&with_node(&["martlet-bench", "martlet-load"]))?;
    let mut command = Command::new("target/release/martlet-bench");
    command.args(arguments);
    Err(become_it(command))
}

fn with_node<'a>(binaries: &[&'a str]) -> Vec<&'a str> {
    [NODE, binaries].concat()
}

/// Takes this process over, so that signals and the exit status are the program's own.
fn become_it(mut command: Command) -> Error {
    Error::new(command.exec()).context(format!("running {command:?}"))
}

/// Hands the demonstration's output on, and judges its last line.
pub fn judge() -> Result<()> {
    let mut last = String::new();
    for line in stdin().lock().lines() {
        last = line.context("reading the demonstration's output")?;
        println!("{last}");
    }
    verdict(&last)
}

fn verdict(line: &str) -> Result<()> {
    let said: Value = serde_json::from_str(line).context("the last line is not JSON")?;
    let field = |name: &str| said.get(name).with_context(|| format!("{name} is missing"));
    let text = |name: &str| {
        field(name)?.as_str().with_context(|| format!("{name} is not a text")).map(str::to_owned)
    };
    ensure!(field("plaintext_on_wire")? == 0, "plaintext was on the wire");
    ensure!(field("control_saw_plaintext")? == true, "the sniffer sees nothing at all");
    for name in ["client", "server"] {
        ensure!(text(name)?.starts_with("spiffe://"), "{name} is not an identity");
    }
    ensure!(text("client")? != text("server")?, "client and server are the same");
    ensure!(text("tls")?.contains("1.3"), "tls is not 1.3");
    ensure!(text("cipher")?.contains("AES"), "cipher is not one of AES");
    ensure!(text("key_exchange")?.contains("X25519"), "key_exchange is not X25519");
    ensure!(field("connections")?.as_u64().is_some_and(|count| count > 0), "no connections");
    ensure!(field("added_p50_us")?.is_number(), "added_p50_us is not a number");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "plaintext_on_wire": 0, "control_saw_plaintext": true,
            "client": "spiffe://demo.martlet.dev/ns/shop/sa/cart",
            "server": "spiffe://demo.martlet.dev/ns/shop/sa/web",
            "tls": "TLSv1.3", "cipher": "TLS13_AES_128_GCM_SHA256",
            "key_exchange": "X25519MLKEM768", "connections": 3, "added_p50_us": 45.5,
        })
    }

    #[test]
    fn a_good_demonstration_passes() {
        verdict(&good().to_string()).unwrap();
    }

    #[test]
    fn plaintext_a_blind_sniffer_or_a_missing_field_is_refused() {
        for (name, value) in [
            ("plaintext_on_wire", json!(1)),
            ("control_saw_plaintext", json!(false)),
            ("client", json!("cart")),
            ("server", good()["client"].clone()),
            ("tls", json!("TLSv1.2")),
            ("connections", json!(0)),
            ("added_p50_us", Value::Null),
        ] {
            let mut said = good();
            said[name] = value;
            assert!(verdict(&said.to_string()).is_err(), "{name}");
            said.as_object_mut().unwrap().remove(name);
            assert!(verdict(&said.to_string()).is_err(), "{name} missing");
        }
        assert!(verdict("done").is_err());
    }
}
