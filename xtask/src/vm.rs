//! Runs the tests on kernels of a distribution, in virtual machines whose processor is emulated.
//!
//! The machine sees the host's whole file system, read-only under an overlay, so the same binaries
//! run in it. What they say comes back over the serial line.

mod image;
mod kernels;
mod plan;

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    build,
    doctor::{self, Group},
    programs,
    test::{Report, Totals},
};

#[derive(clap::Args)]
pub struct Args {
    /// Only these programs of tests, such as `guard`. All by default.
    programs: Vec<String>,
    /// Only this kernel, such as `6.1`. All by default.
    #[arg(long)]
    kernel: Option<String>,
    /// Test the release builds.
    #[arg(long)]
    release: bool,
    /// Only name what is missing, instead of installing it first.
    #[arg(long)]
    no_install: bool,
}

/// A machine that takes longer is ended. It has room for a host that does something else, too.
const DEADLINE: &str = "2400";

/// What the machine prints about a program that has ended, about its kernel, and last.
const ENDED: &str = "vm: ended ";
const COMPLAINT: &str = "vm: the kernel complained: ";
const DONE: &str = "vm: done";

/// A program of tests.
struct Program {
    name: String,
    path: PathBuf,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    doctor::run(&[Group::Build, Group::Test, Group::Vm], !args.no_install)?;
    let kernels = kernels::named(args.kernel.as_deref())?;
    let programs = programs(args)?;
    let variables = if args.release { programs::variables()? } else { vec![] };
    let mut totals = Totals::default();
    for kernel in kernels {
        let unpacked = kernel.fetch()?;
        let image = unpacked.image(&programs, &variables)?;
        println!("== Linux {}", kernel.name);
        let (own, complaints) = boot(&unpacked.kernel, &image)?.finish(&programs);
        for complaint in complaints {
            println!("Linux {}: {complaint}", kernel.name);
        }
        println!("Linux {}: {own}", kernel.name);
        totals += own;
    }
    println!("{totals}");
    Ok(if totals.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds all, and chooses.
fn programs(args: &Args) -> Result<Vec<Program>> {
    build::all(args.release)?;
    let all = programs::KERNEL.programs()?;
    for name in &args.programs {
        ensure!(all.iter().any(|program| program.0 == *name), "there are no tests called {name}");
    }
    Ok(plan::choose(all, &args.programs))
}

/// Hands on what the machine says until it ends.
fn boot(kernel: &Path, image: &Path) -> Result<Seen> {
    let mut machine = emulator(kernel, image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the machine")?;
    let output = machine.stdout.take().context("its output is piped")?;
    let mut seen = Seen::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("reading what the machine says")?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        println!("{line}");
        seen.read(line);
    }
    machine.wait().context("waiting for the machine")?;
    Ok(seen)
}

/// Ended by `timeout` also if this process is killed; the file system is the host's, read-only.
fn emulator(kernel: &Path, image: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after", "5", DEADLINE, "qemu-system-x86_64"]);
    // With a thread for each processor, QEMU 7.2 lets a kernel that patches itself die of a stale
    // breakpoint ("Oops: int3" in `sched_clock_cpu`), one boot in 60 on a busy host.
    command.args(["-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max"]);
    command.args(["-smp", "2", "-m", "3G", "-nodefaults", "-display", "none", "-no-reboot"]);
    command.args(["-serial", "stdio", "-device", "virtio-rng-pci"]);
    command.args([
        "-virtfs",
        "local,path=/,mount_tag=host,security_model=passthrough,readonly=on,multidevs=remap",
    ]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    // An emulated processor is late for everything: no alarm about that, and no detours.
    command.args(["-append", "console=ttyS0 loglevel=1 panic=-1 mitigations=off nowatchdog"]);
    command
}

/// What a machine has said so far.
#[derive(Default)]
struct Seen {
    report: Report,
    ended: Vec<(String, bool)>,
    complaints: Vec<String>,
    /// It was not ended by its deadline or by its kernel.
    is_done: bool,
}

impl Seen {
    fn read(&mut self, line: &str) {
        if let Some((name, code)) =
            line.strip_prefix(ENDED).and_then(|ended| ended.split_once(": "))
        {
            self.ended.push((name.to_owned(), code == "0"));
        } else if let Some(complaint) = line.strip_prefix(COMPLAINT) {
            self.complaints.push(format!("the kernel complained: {complaint}"));
        } else if line == DONE {
            self.is_done = true;
        } else {
            self.report.read(line);
        }
    }

    /// Every program must have ended well, and the kernel said nothing. Nothing may be skipped here.
    fn finish(self, programs: &[Program]) -> (Totals, Vec<String>) {
        let mut complaints = self.complaints;
        if !self.is_done {
            complaints.push("the machine ended before its tests".to_owned());
        }
        for Program { name, .. } in programs {
            match self.ended.iter().find(|ended| ended.0 == *name) {
                Some((_, true)) => {}
                Some((_, false)) => complaints.push(format!("{name} failed")),
                None => complaints.push(format!("{name} did not end")),
            }
        }
        let (mut totals, more) = self.report.finish(complaints.is_empty(), |_| None);
        complaints.extend(more);
        totals.failed = totals.failed.max(complaints.len() as u64);
        (totals, complaints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str) -> Program {
        Program { name: name.to_owned(), path: PathBuf::new() }
    }

    fn seen(lines: &[&str]) -> (Totals, Vec<String>) {
        let mut seen = Seen::default();
        lines.iter().for_each(|line| seen.read(line));
        seen.finish(&[program("guard")])
    }

    const OK: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
    const ENDED_WELL: &str = "vm: ended guard: 0";

    #[test]
    fn a_program_that_ended_well_is_counted() {
        let (totals, complaints) = seen(&[OK, ENDED_WELL, DONE]);
        assert_eq!((totals.passed, totals.failed, complaints.len()), (3, 0, 0));
    }

    #[test]
    fn silence_a_bad_end_an_early_end_and_a_word_of_the_kernel_are_failures() {
        for lines in [
            &[OK, DONE][..],
            &[OK, "vm: ended guard: 101", DONE],
            &[OK, ENDED_WELL],
            &[OK, ENDED_WELL, "vm: the kernel complained: WARNING: CPU: 0", DONE],
        ] {
            let (totals, complaints) = seen(lines);
            assert!(totals.failed > 0 && !complaints.is_empty(), "{lines:?}");
        }
    }
}
