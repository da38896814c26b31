//! Runs the tests and counts them. The totals are the last line, also after a failure.

mod totals;

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result};

pub use self::totals::{Report, Totals};
use crate::{
    build::{self, ALL_BUT_EBPF},
    command::cargo,
    doctor::{self, Group, machine},
    image,
    programs::{self, KERNEL, KUBERNETES, Tests},
    promises,
};

#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose name has this in it.
    filter: Option<String>,
    /// Only unit and property tests and those of the lab.
    #[arg(long)]
    unit: bool,
    /// Only tests on the running kernel.
    #[arg(long, conflicts_with = "unit")]
    kernel: bool,
    /// Only tests on a Kubernetes cluster: the one that KUBECONFIG names, or one of their own. Other
    /// runs leave these out.
    #[arg(long, conflicts_with_all = ["unit", "kernel"])]
    kubernetes: bool,
    /// Let tests on the running kernel take as long as their claims are worth.
    #[arg(long)]
    long: bool,
    /// Only name what is missing, instead of installing it first.
    #[arg(long)]
    no_install: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if args.kubernetes {
        return kubernetes(args);
    }
    doctor::run(&[Group::Build, Group::Test], !args.no_install)?;
    promises::forget_evidence()?;
    let mut course = Course::default();
    if !args.kernel {
        course.watch(unit_tests(args))?;
    }
    if !args.unit {
        build::all(true)?;
        for command in kernel_tests(args)? {
            course.watch(command)?;
        }
    }
    Ok(course.close(args))
}

/// They bring up clusters, and make the product's image, by the task that runs them.
fn kubernetes(args: &Args) -> Result<ExitCode> {
    doctor::run(&[Group::Build, Group::Cluster, Group::Image], !args.no_install)?;
    let image = image::of_release()?;
    let own = env::current_exe().context("asking for this program's path")?;
    let variables = programs::variables()?;
    let cli = variables.iter().find(|(name, _)| name == "MARTLET").context("martlet is built")?;
    let mut course = Course::default();
    for (_, path) in KUBERNETES.programs()? {
        let mut command = Command::new(path);
        command.current_dir(KUBERNETES.directory).env("MARTLET_XTASK", &own);
        command.env("MARTLET_IMAGE", &image).env("MARTLET_CLI", &cli.1);
        command.args(&args.filter).args(["--test-threads=1", "--show-output"]);
        course.watch(command)?;
    }
    Ok(course.close(args))
}

/// Whether these arguments ask for all tests of a file.
fn is_meant(args: &Args, file: &str) -> bool {
    let is_of = |tests: &Tests| Path::new(file).starts_with(tests.directory);
    let is_asked_for = match file {
        _ if is_of(&KUBERNETES) => args.kubernetes,
        _ if is_of(&KERNEL) => !args.unit && !args.kubernetes,
        _ => !args.kernel && !args.kubernetes,
    };
    args.filter.is_none() && is_asked_for
}

fn unit_tests(args: &Args) -> Command {
    let mut command = cargo("test");
    command.args(ALL_BUT_EBPF).args(["--exclude", KERNEL.package, "--exclude", KUBERNETES.package]);
    command.arg("--no-fail-fast").args(&args.filter);
    command
}

/// One after the other: they share the machine's root cgroup, and some measure memory and time.
/// What they test are the release builds, which is what a user runs.
fn kernel_tests(args: &Args) -> Result<Vec<Command>> {
    let variables = programs::variables()?;
    let command = |(_, path): (String, PathBuf)| {
        let mut command = Command::new(path);
        command.current_dir(KERNEL.directory).envs(variables.iter().cloned());
        command.args(&args.filter).args(["--test-threads=1", "--show-output"]);
        if args.long {
            command.env("MARTLET_LONG", "1");
        }
        command
    };
    Ok(KERNEL.programs()?.into_iter().map(command).collect())
}

/// What has come of the test programs that have run.
#[derive(Default)]
struct Course {
    totals: Totals,
    ran: BTreeSet<String>,
    /// What went wrong, line by line.
    failures: Vec<String>,
}

impl Course {
    /// Hands the tests' output on, and keeps what counts.
    fn watch(&mut self, mut command: Command) -> Result<()> {
        command.env("MARTLET_EVIDENCE", env::current_dir()?.join(promises::EVIDENCE));
        let mut child = command.stdout(Stdio::piped()).spawn().context("starting the tests")?;
        let output = child.stdout.take().context("cargo's output is piped")?;
        let mut report = Report::default();
        for line in BufReader::new(output).split(b'\n') {
            // Not every program that a test shows speaks UTF-8.
            let line = line.context("reading the tests' output")?;
            let line = String::from_utf8_lossy(&line);
            report.read(&line);
            println!("{line}");
        }
        let success = child.wait().context("waiting for the tests")?.success();
        self.ran.extend(report.ran().iter().cloned());
        self.failures.extend_from_slice(report.failures());
        let (totals, complaints) = report.finish(success, machine::lacks);
        self.totals += totals;
        self.failures.extend(complaints);
        Ok(())
    }

    /// Says once more what failed, which is far above by now, and which promises were not shown. The
    /// totals are the last line.
    fn close(mut self, args: &Args) -> ExitCode {
        let absent = promises::absent(|file| is_meant(args, file), &self.ran);
        self.totals.failed += absent.len() as u64;
        self.failures.extend(absent);
        if !self.failures.is_empty() {
            println!("\nWhat failed:");
            self.failures.iter().for_each(|line| println!("{line}"));
        }
        if self.totals.passed == 0 {
            println!("no test ran");
        }
        println!("{}", self.totals);
        if self.totals.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
