//! The built `martlet`, as people and programs run it.

#![allow(clippy::unwrap_used)]

mod api;
mod authority;
mod cluster;
mod failures;
mod fake;
mod fixtures;
mod install;
mod mesh;
mod pages;
mod report;
mod sessions;
mod streams;
mod transcript;
mod trust;

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

/// Longer than anything here takes, shorter than a person waits.
const DEADLINE: Duration = Duration::from_secs(30);

/// `martlet`, without anything from our own environment that changes what it prints.
fn martlet(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_martlet"));
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "MARTLET_SOCKET"] {
        command.env_remove(name);
    }
    command.arg("--socket").arg(socket);
    command
}

/// Runs it to its end.
fn run(socket: &Path, arguments: &[&str]) -> Output {
    martlet(socket).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// The pages stay the same when the version changes.
fn without_version(page: &str) -> String {
    let ours = env!("CARGO_PKG_VERSION");
    page.replace(&format!("agent          {ours},"), "agent          VERSION,")
        .replace(&format!("martlet {ours})"), "martlet VERSION)")
}

/// Compares with the text in `golden`; `MARTLET_BLESS=1` writes it.
#[track_caller]
fn golden(name: &str, found: &str) {
    let path = format!("{}/tests/cli/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("MARTLET_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, wanted, "{path} differs; look, and run the tests with MARTLET_BLESS=1");
}
