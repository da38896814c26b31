//! `martlet-bench`: the same loads over direct TCP, over a pair of HAProxies, and over Martlet,
//! in turns, on this machine; a table of medians, spreads, ratios and bars.

mod crowd;
mod hook;
mod interrupt;
mod line;
mod load;
mod machine;
mod measure;
mod measuring;
mod outcome;
mod plan;
mod process;
mod row;
mod settings;
mod show;
mod stand;
mod statistics;
mod subject;
mod together;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, builder::PossibleValuesParser};
use martlet_lab::Lab;
use serde_json::json;

use crate::{
    line::Verdict,
    machine::{Clocks, Machine},
    measuring::Measuring,
    outcome::{Outcome, Sample},
    plan::Step,
    row::{ROWS, Row},
    settings::Settings,
    subject::Subject,
};

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask bench",
    about = "Measure beside direct TCP and HAProxy; about a quarter of an hour"
)]
struct Args {
    /// How often each row is measured for each subject, but the long rows: 5 unless told.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// How long each measurement takes: 3 s unless told.
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// How long each measurement of a long row takes: 60 s unless told. From 20 s on, the first three seconds and
    /// those from the tenth on are compared; below that, both halves.
    #[arg(long, value_name = "S", value_parser = parse_long_seconds)]
    long: Option<f64>,
    /// Only these rows.
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(ROWS.iter().map(|row| row.name)))]
    rows: Vec<String>,
    /// Only these subjects.
    #[arg(long, value_delimiter = ',', value_enum)]
    subjects: Vec<Subject>,
    /// Measure beside this other build of martlet-agent instead of direct TCP and HAProxy. A result that is more
    /// than 3 % worse is below the bar.
    #[arg(long, value_name = "AGENT", conflicts_with_all = ["subjects", "write"])]
    against: Option<PathBuf>,
    /// Everything once and in less than a minute, to see that it works. Any error fails the run.
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "long", "write"])]
    smoke: bool,
    /// Fail where a bar is missed by more than the run's own spread.
    #[arg(long)]
    bars: bool,
    /// Write everything that was measured.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a plot.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the table as Markdown.
    #[arg(long)]
    markdown: bool,
    /// Put the table into a document, between its marks.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

fn main() -> ExitCode {
    run(&Args::parse()).unwrap_or_else(|error| {
        interrupt::wait_if_interrupted();
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    let rows: Vec<_> = ROWS.iter().filter(|row| args.wants(row)).collect();
    let subjects = match args.subjects.as_slice() {
        [] if args.against.is_some() => &[Subject::Earlier, Subject::Martlet],
        [] => &Subject::ALL[..],
        chosen => chosen,
    };
    let mut settings = args.settings();
    settings.fit_open_files()?;
    let plan = plan::steps(&rows, subjects, settings.rounds);
    if plan.is_empty() {
        bail!("none of these subjects is measured in these rows");
    }
    let outcome = measure(&plan, settings, args.against.as_deref())?;
    args.show(&outcome)?;
    Ok(judge(args, &outcome))
}

fn measure(plan: &[Step], settings: Settings, earlier: Option<&Path>) -> Result<Outcome> {
    let mut machine = Machine::look()?;
    let mut subjects: Vec<_> = plan.iter().map(|step| step.subject).collect();
    subjects.sort();
    subjects.dedup();
    let lab = Lab::new()?;
    interrupt::remove_when_interrupted(&lab)?;
    let mut measuring = Measuring::begin(&lab, &subjects, &settings, earlier)?;
    let before = Clocks::now()?;
    let mut samples = Vec::with_capacity(plan.len());
    for steps in plan.chunk_by(Step::is_together_with) {
        for sample in measuring.take(steps) {
            eprintln!("{}", progress(samples.len() + 1, plan.len(), &sample));
            samples.push(sample);
        }
    }
    machine.stolen_percent = before.stolen_percent(Clocks::now()?);
    drop(measuring);
    Ok(Outcome { machine, settings, samples })
}

fn progress(number: usize, all: usize, sample: &Sample) -> String {
    let values: Vec<_> = sample
        .values
        .iter()
        .map(|(measure, value)| format!("{} {}", show::number(*value), measure.unit()))
        .chain(sample.errors.iter().map(|(what, count)| format!("FAILED: {what} ({count})")))
        .collect();
    format!("{number}/{all}  {}, {}: {}", sample.row, sample.subject, values.join("; "))
}

fn judge(args: &Args, outcome: &Outcome) -> ExitCode {
    let mut complaints = outcome.complaints(args.smoke);
    if args.bars {
        for filled in outcome.filled() {
            if filled.verdict == Some(Verdict::Missed) {
                complaints.push(format!(
                    "{}: the bar is missed: {}",
                    filled.row,
                    filled.measure.unit()
                ));
            }
        }
    }
    for complaint in &complaints {
        eprintln!("error: {complaint}");
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Args {
    fn wants(&self, row: &Row) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|name| name == row.name)
    }

    fn settings(&self) -> Settings {
        if self.smoke {
            return Settings::smoke();
        }
        let usual = Settings::default();
        Settings {
            rounds: self.rounds.unwrap_or(usual.rounds),
            seconds: self.seconds.unwrap_or(usual.seconds),
            long_seconds: self.long.unwrap_or(usual.long_seconds),
            ..usual
        }
    }

    fn show(&self, outcome: &Outcome) -> Result<()> {
        let markdown = show::markdown(outcome);
        println!("{}", if self.markdown { markdown.clone() } else { show::terminal(outcome) });
        if let Some(path) = &self.json {
            let all = json!({ "run": outcome, "lines": outcome.filled() });
            write(path, &format!("{all:#}\n"))?;
        }
        if let Some(path) = &self.svg {
            write(path, &show::svg(outcome))?;
        }
        if let Some(path) = &self.write {
            let document =
                fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            write(path, &show::replace_block(&document, &markdown)?)?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn parse_seconds(text: &str) -> Result<f64> {
    let seconds: f64 = text.parse().context("not a number")?;
    if !(0.1..=3600.0).contains(&seconds) {
        bail!("not between 0.1 and 3600");
    }
    Ok(seconds)
}

/// Of one second there are no two halves.
fn parse_long_seconds(text: &str) -> Result<f64> {
    let seconds = parse_seconds(text)?;
    if seconds < 2.0 {
        bail!("less than 2");
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn rows_and_subjects_are_chosen_by_name() {
        let line = ["bench", "--rows", "bulk-1,crowd", "--subjects", "direct,martlet"];
        let args = Args::try_parse_from(line).unwrap();
        let rows: Vec<_> = ROWS.iter().filter(|row| args.wants(row)).map(|row| row.name).collect();
        assert_eq!(rows, ["bulk-1", "crowd"]);
        assert_eq!(args.subjects, [Subject::Direct, Subject::Martlet]);
        assert!(Args::try_parse_from(["bench", "--rows", "nonsense"]).is_err());
        assert!(Args::try_parse_from(["bench", "--subjects", "nonsense"]).is_err());
    }

    #[test]
    fn lengths_that_measure_nothing_are_refused() {
        assert_eq!(parse_seconds("3").unwrap(), 3.0);
        assert!(parse_seconds("0").is_err());
        assert!(parse_seconds("NaN").is_err());
        assert!(parse_long_seconds("1.9").is_err());
    }

    #[test]
    fn a_smoke_is_short_whatever_the_defaults_are() {
        let args = Args::try_parse_from(["bench", "--smoke"]).unwrap();
        assert_eq!(args.settings(), Settings::smoke());
        assert!(Args::try_parse_from(["bench", "--smoke", "--rounds", "9"]).is_err());
    }
}
