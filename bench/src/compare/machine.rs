//! On what it was measured, and whether anything else was running there.

use std::{env, fs, path::PathBuf, process::Command, thread};

use anyhow::{Context, Result};
use martlet_bench::limits;
use serde::Serialize;

#[derive(Debug, Clone, Default, Serialize)]
pub struct Machine {
    pub date: String,
    pub cores: usize,
    pub processor: String,
    pub kernel: String,
    pub martlet: String,
    pub haproxy: String,
    /// Of the machine, in the seconds before the run.
    pub busy_before_percent: f64,
    /// Of the time of the run, by other guests of the same host.
    pub stolen_percent: f64,
}

/// The machine's clocks, to be read twice.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    busy: u64,
    idle: u64,
    stolen: u64,
}

impl Machine {
    pub fn look() -> Result<Machine> {
        let before = Clocks::now()?;
        thread::sleep(limits::LOOK_BEFORE);
        let text = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        Ok(Machine {
            date: first_line("date", &["-u", "+%F"]),
            cores: thread::available_parallelism().context("counting the cores")?.get(),
            processor: processor(&text("/proc/cpuinfo")?),
            kernel: text("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            martlet: env!("CARGO_PKG_VERSION").to_owned(),
            haproxy: haproxy(),
            busy_before_percent: before.busy_percent(Clocks::now()?),
            stolen_percent: 0.0,
        })
    }
}

impl Clocks {
    pub fn now() -> Result<Clocks> {
        let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        Clocks::parse(&stat).context("parsing /proc/stat")
    }

    fn parse(stat: &str) -> Option<Clocks> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> =
            fields.split_whitespace().map_while(|field| field.parse().ok()).collect();
        let [user, nice, system, idle, iowait, irq, softirq, stolen, ..] = ticks[..] else {
            return None;
        };
        let busy = user + nice + system + irq + softirq;
        Some(Clocks { busy, idle: idle + iowait, stolen })
    }

    pub fn busy_percent(self, later: Clocks) -> f64 {
        percent(later.busy - self.busy, self.all(later))
    }

    pub fn stolen_percent(self, later: Clocks) -> f64 {
        percent(later.stolen - self.stolen, self.all(later))
    }

    fn all(self, later: Clocks) -> u64 {
        later.busy - self.busy + later.idle.saturating_sub(self.idle) + later.stolen - self.stolen
    }
}

fn percent(part: u64, all: u64) -> f64 {
    part as f64 * 100.0 / all.max(1) as f64
}

fn processor(cpuinfo: &str) -> String {
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let name = model.and_then(|rest| rest.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or("unknown").to_owned()
}

fn haproxy() -> String {
    let Ok(binary) = find_haproxy() else { return "none".to_owned() };
    let output = Command::new(binary).arg("-vv").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    haproxy_version(&text.unwrap_or_default())
}

/// Debian's stands in a directory that is not on everybody's path.
pub fn find_haproxy() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into()]);
    directories.map(|directory| directory.join("haproxy")).find(|binary| binary.is_file()).context(
        "haproxy is not installed (Debian: haproxy), or leave it out: --subjects direct,martlet",
    )
}

fn haproxy_version(text: &str) -> String {
    let after = |prefix: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(prefix))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    let version = after("HAProxy version ").unwrap_or_else(|| "unknown".to_owned());
    let version = version.split('-').next().unwrap_or_default();
    match after("Running on OpenSSL version : OpenSSL ") {
        Some(openssl) => format!("{version} with OpenSSL {openssl}"),
        None => version.to_owned(),
    }
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_part_of_all_time() {
        let before = Clocks::parse("cpu  0 0 0 0 0 0 0 0 0 0\n").unwrap();
        let after = Clocks::parse("cpu  30 0 20 40 0 0 0 10 0 0\n").unwrap();
        assert_eq!(before.busy_percent(after), 50.0);
        assert_eq!(before.stolen_percent(after), 10.0);
    }

    #[test]
    fn versions_are_read_without_the_distribution_and_the_date() {
        let text = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n\
                    Built with OpenSSL version : OpenSSL 3.0.17 1 Jul 2025\n\
                    Running on OpenSSL version : OpenSSL 3.0.19 27 Jan 2026\n";
        assert_eq!(haproxy_version(text), "2.6.12 with OpenSSL 3.0.19");
        assert_eq!(haproxy_version(""), "unknown");
    }

    #[test]
    fn a_processor_without_a_name_is_unknown() {
        assert_eq!(processor("model\t: 1\nmodel name\t: Fast CPU @ 3 GHz\n"), "Fast CPU @ 3 GHz");
        assert_eq!(processor("BogoMIPS : 48\n"), "unknown");
    }
}
