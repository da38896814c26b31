//! Build, test and lint: cargo with the right arguments, and honest totals.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// The kernel programs are built by `martlet-kernel` for their own target, not by these.
const ALL_BUT_EBPF: &[&str] = &["--workspace", "--exclude", "martlet-ebpf"];

#[derive(Default, Debug, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    skipped: u64,
}

pub fn build() -> Result<()> {
    run(cargo("build").args(ALL_BUT_EBPF).arg("--release"))
}

pub fn lint() -> Result<()> {
    run(Command::new("cargo").args(["fmt", "--all", "--check"]))?;
    run(cargo("clippy").args(ALL_BUT_EBPF).args(["--all-targets", "--", "-D", "warnings"]))
}

/// Prints the totals as its last line.
pub fn test() -> Result<()> {
    let mut command = cargo("test");
    command.args(ALL_BUT_EBPF).arg("--no-fail-fast").stdout(Stdio::piped());
    let mut child = command.spawn().context("starting cargo test")?;
    let output = child.stdout.take().context("cargo's output is piped")?;
    let mut totals = Totals::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("reading the tests' output")?;
        totals.add(&line);
        println!("{line}");
    }
    let status = child.wait().context("waiting for cargo test")?;
    let Totals { passed, failed, skipped } = totals;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    ensure!(status.success() && failed == 0, "tests failed");
    ensure!(skipped == 0, "tests were skipped");
    ensure!(passed > 0, "no test ran");
    Ok(())
}

impl Totals {
    /// Reads a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let numbers = result.split_once(". ").map_or("", |(_, numbers)| numbers);
        for part in numbers.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse::<u64>().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse::<u64>().unwrap_or(0),
                Some((number, "ignored")) => self.skipped += number.parse::<u64>().unwrap_or(0),
                _ => {}
            }
        }
    }
}

fn cargo(task: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg(task).env("MARTLET_REQUIRE_BPF", "1");
    command
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("running {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_summed_over_all_test_programs() {
        let mut totals = Totals::default();
        totals.add("running 3 tests");
        totals.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        totals.add("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured");
        assert_eq!(totals, Totals { passed: 5, failed: 4, skipped: 1 });
    }
}
