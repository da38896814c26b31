//! Faults of one kind, one after the other: seeded, counted, and what they have shown noted.
//!
//! `MARTLET_SEED` repeats a run; the message of a failure says how to repeat only the fault that
//! failed, with `MARTLET_FAULTS`.

use std::{collections::BTreeMap, env, fmt::Display, time::Duration};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Resources, Stage, evidence, is_long, wait_for};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::trial::{PATIENCE, SERVICE, Struck, Trial, Watching};

/// So many share a stage: its logs and records stay small.
const PER_STAGE: u64 = 50;
/// What the agents may hold more than before: idle lanes, threads that wait for work.
const MORE_FILES: usize = 40;
const MORE_THREADS: u64 = 8;
const MORE_BYTES: u64 = 48 << 20;
/// How soon connections end and service is back, as promised for 99 of 100 kills.
const PROMPT: Duration = Duration::from_secs(1);
/// Idle lanes are closed after half a minute.
const FLAT_AGAIN: Duration = Duration::from_secs(60);

pub struct Series {
    /// The test's name.
    pub test: &'static str,
    pub prepare: fn(&mut Stage) -> Result<()>,
    /// The same agents run from the first fault to the last: what they hold must not grow.
    pub same_agents: bool,
    /// Service is back by then after each fault.
    pub serves_within: Duration,
    /// How long applications on different nodes wait for an answer.
    pub patience: Duration,
    pub watching: Watching,
    pub strike: fn(&mut Trial) -> Result<Struck>,
}

impl Series {
    pub fn new(test: &'static str, strike: fn(&mut Trial) -> Result<Struck>) -> Series {
        Series {
            test,
            prepare: |_| Ok(()),
            same_agents: true,
            serves_within: SERVICE,
            patience: PATIENCE,
            watching: Watching::Everything,
            strike,
        }
    }

    pub fn run(self) -> Result<()> {
        let count = number("MARTLET_FAULTS")?.unwrap_or(if is_long() { 1000 } else { 30 });
        let seed = number("MARTLET_SEED")?.unwrap_or_else(|| rand::rng().random_range(0..1 << 40));
        println!("{}: MARTLET_SEED={seed} MARTLET_FAULTS={count}", self.test);
        let mut shown = Shown::default();
        let mut done = 0;
        while done < count {
            let here = PER_STAGE.min(count - done);
            self.on_one_stage(seed + done, here, &mut shown)?;
            done += here;
        }
        self.note(count, &mut shown)
    }

    fn on_one_stage(&self, seed: u64, count: u64, shown: &mut Shown) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mode = if rng.random() { "strict" } else { "permissive" };
        let mut stage = Stage::prepare(mode, |_| {})?;
        (self.prepare)(&mut stage)?;
        stage.launch()?;
        let mut trial = Trial::begin(stage, rng, self.patience, self.watching)?;
        trial.wait_for_service(0)?;
        let mut before = trial.resources()?;
        for number in 0..count {
            trial.rng = StdRng::seed_from_u64(seed + number);
            let begun = std::time::Instant::now();
            let struck = (self.strike)(&mut trial).and_then(|struck| trial.settle(&struck));
            let struck = struck.with_context(|| {
                let log = |log: String| log.lines().rev().take(15).collect::<Vec<_>>().join("\n");
                let logs = [&trial.stage.one, &trial.stage.two].map(|agent| log(agent.log()));
                format!(
                    "fault {number} in mode {mode}; repeat it with MARTLET_SEED={} MARTLET_FAULTS=1; \
                     agents, latest first:\n{}",
                    seed + number,
                    logs.join("\n--\n"),
                )
            });
            println!("fault {number}: {struck:?} after {:?}", begun.elapsed());
            let took = struck?;
            ensure!(took <= self.serves_within, "fault {number}: service is back after {took:?}");
            shown.recovered.push(took);
            if number == 2 {
                // By then they have what they need.
                before = trial.resources()?;
            }
        }
        if self.same_agents {
            is_flat(&trial, before)?;
        }
        for (what, durations) in trial.measured {
            shown.measured.entry(what).or_default().extend(durations);
        }
        for (error, count) in trial.errors {
            *shown.errors.entry(error).or_default() += count;
        }
        Ok(())
    }

    fn note(&self, count: u64, shown: &mut Shown) -> Result<()> {
        println!("errors that applications saw: {:?}", shown.errors);
        let back = spread(&mut shown.recovered);
        let mut figures = vec![("faults", count.to_string()), ("secrets on the wire", "0".into())];
        figures.push(("service back after", back));
        for (what, durations) in &mut shown.measured {
            figures.push((what, spread(durations)));
        }
        println!("{figures:?}");
        let figures: Vec<_> =
            figures.iter().map(|(name, value)| (*name, value as &dyn Display)).collect();
        evidence(self.test, &figures)
    }
}

#[derive(Default)]
struct Shown {
    recovered: Vec<Duration>,
    measured: BTreeMap<&'static str, Vec<Duration>>,
    errors: BTreeMap<String, u64>,
}

fn number(name: &str) -> Result<Option<u64>> {
    let Some(value) = env::var_os(name) else { return Ok(None) };
    let value = value.to_string_lossy();
    Ok(Some(value.parse().with_context(|| format!("{name} is no number: {value}"))?))
}

/// Median, 99th percentile and the most, and how many kept what is promised after a kill.
fn spread(durations: &mut [Duration]) -> String {
    durations.sort_unstable();
    let at = |percent: usize| {
        let index = (durations.len() * percent).div_ceil(100).saturating_sub(1);
        durations.get(index).map_or(0, Duration::as_millis)
    };
    let [median, p99, most] = [50, 99, 100].map(at);
    let (all, prompt) = (durations.len(), durations.partition_point(|took| *took <= PROMPT));
    format!("{median} ms (p99 {p99}, most {most}; {prompt} of {all} within 1 s)")
}

fn is_flat(trial: &Trial, before: [Resources; 2]) -> Result<()> {
    let is_flat = |before: Resources, now: Resources| {
        now.files <= before.files + MORE_FILES
            && now.threads <= before.threads + MORE_THREADS
            && now.resident_bytes <= before.resident_bytes + MORE_BYTES
    };
    let mut now = before;
    let flat = wait_for("the agents to hold no more than before", FLAT_AGAIN, || {
        now = trial.resources()?;
        let [one, two] = [0, 1].map(|agent| is_flat(before[agent], now[agent]));
        Ok((one && two).then_some(()))
    });
    flat.with_context(|| format!("before {before:?}, now {now:?}"))?;
    ensure!(trial.stage.one.pid().is_some() && trial.stage.two.pid().is_some());
    Ok(())
}
