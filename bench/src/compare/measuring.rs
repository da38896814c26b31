//! Takes the steps of a plan, one after the other.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use martlet_bench::Report;
use martlet_lab::Lab;

use crate::{
    crowd,
    hook::{Counting, Program},
    interrupt,
    load::{self, Length},
    measure::{Measure, Values, read_off},
    outcome::Sample,
    plan::Step,
    row::{Turn, Work},
    settings::Settings,
    stand::{Service, Stand},
    subject::Subject,
};

/// The link of the program that sees each IPv4 `connect()`.
const CONNECT_HOOK: &str = "martlet_connect4";

/// Ports of a pod with the default range last for this long, however fast connections are.
const HOOK_SECONDS: f64 = 1.0;

pub struct Measuring<'a> {
    stand: Stand,
    settings: &'a Settings,
    /// Since when the agents live.
    round: u32,
}

impl Measuring<'_> {
    /// Builds everything, and sees that each subject carries something.
    pub fn begin<'a>(
        lab: &Lab,
        subjects: &[Subject],
        settings: &'a Settings,
        earlier: Option<&Path>,
    ) -> Result<Measuring<'a>> {
        let stand = Stand::build(lab, subjects, earlier)?;
        let measuring = Measuring { stand, settings, round: 0 };
        for subject in subjects {
            measuring.touch(*subject).with_context(|| format!("connecting through {subject}"))?;
        }
        Ok(measuring)
    }

    /// One step, or two at the same time. Whatever goes wrong belongs to the samples: one broken row
    /// must not cost all others.
    pub fn take(&mut self, steps: &[Step]) -> Vec<Sample> {
        let measured = match steps {
            [one, other] => self.measure_together([one, other]).map(Vec::from),
            _ => steps.iter().map(|step| self.measure(step)).collect(),
        };
        let mut samples: Vec<_> = steps.iter().map(Sample::new).collect();
        match measured {
            Ok(measured) => {
                for (sample, (values, report)) in samples.iter_mut().zip(measured) {
                    sample.values = values;
                    sample.errors = report.errors.clone();
                    sample.report = Some(report);
                }
            }
            Err(error) => {
                interrupt::wait_if_interrupted();
                for sample in &mut samples {
                    sample.errors.insert(format!("{error:#}"), 1);
                }
                if steps.iter().any(|step| step.subject.has_agents()) {
                    eprintln!("{}", self.stand.agents_log());
                }
            }
        }
        let failed = |sample: &Sample| !sample.errors.is_empty() && sample.subject.has_agents();
        if samples.iter().any(failed) {
            eprintln!("the agents' records: {:?}", self.stand.odd_ends());
        }
        if let Err(error) = self.stand.empty_access_logs() {
            samples[0].errors.insert(format!("{error:#}"), 1);
        }
        samples
    }

    fn measure_together(&mut self, steps: [&Step; 2]) -> Result<[(Values, Report); 2]> {
        let Step { row, round, .. } = *steps[0];
        if round != self.round {
            self.stand.restart_agents()?;
            self.round = round;
        }
        let work = row.work;
        let [first, second] = steps.map(|step| self.stand.pair(step.subject));
        let reports =
            load::run_together([first?, second?], work, Length::of(self.settings, false))?;
        for step in steps {
            self.stand.ensure_meshed(step.subject)?;
        }
        Ok(reports.map(|report| (read_off(work, false, &report), report)))
    }

    fn measure(&mut self, step: &Step) -> Result<(Values, Report)> {
        let Step { row, subject, .. } = *step;
        let is_long = row.turn == Turn::Long;
        let measured = match row.work {
            Work::Idle(size) => {
                let proxies = self.stand.proxies(subject)?;
                crowd::weigh(self.stand.pair(subject)?, &proxies, size, self.settings)?
            }
            Work::ConnectHook => self.connect_hook(subject)?,
            work => {
                let length = Length::of(self.settings, is_long);
                // What ran before would decide how the yardsticks end; Martlet has to bear it.
                let report = if is_long && !subject.is_ours() {
                    load::run(&self.stand.fresh_pair(subject)?, work, length)?
                } else {
                    load::run(self.stand.pair(subject)?, work, length)?
                };
                (read_off(work, is_long, &report), report)
            }
        };
        if subject.has_agents() {
            self.stand.ensure_meshed(subject)?;
        }
        Ok(measured)
    }

    fn connect_hook(&self, subject: Subject) -> Result<(Values, Report)> {
        let pin = self.stand.agents(subject)?.near.node().pin();
        let program = Program::behind_link(&pin, CONNECT_HOOK)?;
        let enrolled = self.stand.pair(subject)?.client();
        let elsewhere = self.stand.pair(Subject::Outside)?.address(Service::Echo).to_string();
        let length =
            Length { warmup_seconds: 0.0, seconds: self.settings.seconds.min(HOOK_SECONDS) };
        let client = load::client(enrolled, "crr", &elsewhere)?
            .args(["--seconds", &length.seconds.to_string()]);
        let _counting = Counting::begin()?;
        let before = program.runs()?;
        let report = load::finish(client, length)?;
        let nanoseconds = program.runs()?.each_since(before)?;
        Ok((Values::from([(Measure::NanosecondsEach, nanoseconds)]), report))
    }

    fn touch(&self, subject: Subject) -> Result<()> {
        let length = Length { warmup_seconds: 0.0, seconds: 0.05 };
        let report = load::run(self.stand.pair(subject)?, Work::RoundTrips(1), length)?;
        ensure!(report.errors.is_empty(), "{:?}", report.errors);
        ensure!(report.count > 0, "nothing came back");
        Ok(())
    }
}
