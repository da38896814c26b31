//! Totals out of what the test programs print.
//!
//! A test that cannot run here prints `SKIPPED(feature): why`. That is a skip only where the
//! kernel really lacks the feature; everywhere else it is a failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::AddAssign,
};

#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

/// Of one test program.
const FAILURE_LINES: usize = 200;

/// What was read so far.
#[derive(Default)]
pub struct Report {
    totals: Totals,
    ignored: u64,
    /// The test whose output is being shown.
    section: String,
    /// Feature by test.
    skips: BTreeMap<String, String>,
    ran: BTreeSet<String>,
    /// What the tests that failed have said.
    failures: Vec<String>,
    is_failure: bool,
}

impl Report {
    pub fn read(&mut self, line: &str) {
        // The first such line is before what failed tests have said, the second before their names.
        if line == "failures:" {
            self.is_failure = !self.is_failure;
            return;
        }
        if self.is_failure && self.failures.len() < FAILURE_LINES {
            self.failures.push(line.to_owned());
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.is_failure = false;
            self.add(result);
        } else if let Some((path, _)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            let path = path.trim_end_matches(" - should panic");
            let name = path.rsplit("::").next().unwrap_or(path);
            self.ran.insert(name.to_owned());
        } else if let Some(name) =
            line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            name.clone_into(&mut self.section);
        } else if let Some((feature, _)) =
            line.strip_prefix("SKIPPED(").and_then(|rest| rest.split_once("): "))
        {
            self.skips.insert(self.section.clone(), feature.to_owned());
        }
    }

    /// The names of the functions of all tests that began; whether they passed, the totals say.
    pub fn ran(&self) -> &BTreeSet<String> {
        &self.ran
    }

    /// What the tests that failed have said, as far as it is worth saying twice.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Reads `ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, result: &str) {
        let numbers = result.split_once(". ").map_or("", |(_, numbers)| numbers);
        for part in numbers.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => self.totals.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.totals.failed += number.parse().unwrap_or(0),
                Some((number, "ignored")) => self.ignored += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }

    /// `lacks` says whether the kernel lacks a feature, if it knows the feature.
    pub fn finish(
        self,
        success: bool,
        lacks: impl Fn(&str) -> Option<bool>,
    ) -> (Totals, Vec<String>) {
        let mut totals = self.totals;
        let mut complaints = Vec::new();
        // What does not compile, or dies, prints no result.
        if !success && totals.failed == 0 {
            totals.failed = 1;
            complaints.push("a test program did not compile or did not finish".to_owned());
        }
        if self.ignored > 0 {
            totals.failed += self.ignored;
            complaints.push(format!("{} tests are ignored", self.ignored));
        }
        for (test, feature) in self.skips {
            totals.passed = totals.passed.saturating_sub(1);
            match lacks(&feature) {
                Some(true) => totals.skipped += 1,
                verdict => {
                    totals.failed += 1;
                    let why = verdict.map_or("is not known", |_| "is there");
                    complaints.push(format!("{test} was skipped, but {feature} {why}"));
                }
            }
        }
        (totals, complaints)
    }
}

impl Totals {
    pub fn is_success(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
    const SKIP: &[&str] = &["---- over_mptcp stdout ----", "SKIPPED(mptcp): no such socket", OK];

    fn totals(lines: &[&str], success: bool, lacks: Option<bool>) -> Totals {
        let mut report = Report::default();
        lines.iter().for_each(|line| report.read(line));
        report.finish(success, |_| lacks).0
    }

    #[test]
    fn results_are_summed_over_all_test_programs() {
        let failed = "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured";
        let expected = Totals { passed: 5, failed: 4, skipped: 0 };
        assert_eq!(totals(&["running 3 tests", OK, failed], false, None), expected);
        assert!(!expected.is_success());
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        assert_eq!(totals(&[OK], false, None), Totals { passed: 3, failed: 1, skipped: 0 });
        assert_eq!(totals(&[OK], true, None), Totals { passed: 3, failed: 0, skipped: 0 });
    }

    #[test]
    fn an_ignored_test_is_a_failure() {
        let ignored = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured";
        assert_eq!(totals(&[ignored], true, None), Totals { passed: 3, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_skip_for_a_feature_that_is_lacked_is_counted() {
        let skipped = totals(SKIP, true, Some(true));
        assert_eq!(skipped, Totals { passed: 2, failed: 0, skipped: 1 });
        assert!(skipped.is_success());
    }

    #[test]
    fn a_skip_for_a_feature_that_is_there_or_unknown_is_a_failure() {
        let failed = Totals { passed: 2, failed: 1, skipped: 0 };
        assert_eq!(totals(SKIP, true, Some(false)), failed);
        assert_eq!(totals(SKIP, true, None), failed);
    }

    #[test]
    fn the_tests_that_ran_are_known_by_name() {
        let mut report = Report::default();
        report.read("test evaluate::tests::deny_wins ... ok");
        report.read("test a_claim ... said by a program of the test");
        report.read("test result: ok. 2 passed; 0 failed; 0 ignored");
        assert!(report.ran().iter().eq(["a_claim", "deny_wins"]));
    }

    #[test]
    fn what_failed_tests_have_said_can_be_said_again_and_nothing_else() {
        let mut report = Report::default();
        let said = ["", "---- a_claim stdout ----", "it is not so", ""];
        let passed = ["test a_claim ... FAILED", "successes:", "---- other stdout ----", "fine"];
        let names = ["failures:", "    a_claim", "test result: FAILED. 1 passed; 1 failed"];
        for line in passed.iter().chain(&["failures:"]).chain(&said).chain(&names) {
            report.read(line);
        }
        report.read("running 2 tests");
        assert_eq!(report.failures(), said);
    }

    #[test]
    fn no_test_at_all_is_no_success() {
        assert!(!totals(&[], true, None).is_success());
    }

    #[test]
    fn the_totals_are_written_as_they_are_looked_for() {
        let totals = Totals { passed: 5, failed: 4, skipped: 1 };
        assert_eq!(totals.to_string(), "5 passed, 4 failed, 1 skipped");
    }
}
