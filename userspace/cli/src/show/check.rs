//! `martlet check`: one line for each thing that was looked at, and what to do about it.

use martlet_model::report::{Check, CheckCategory, CheckReport, CheckResult};

use crate::{
    agent::AgentError,
    paint::{Tone, paint},
};

pub fn page(report: &CheckReport) -> String {
    let mut page = String::new();
    for category in &report.categories {
        let name = &category.category_name;
        page.push_str(&format!("{name}\n{}\n", "-".repeat(name.chars().count())));
        page.extend(category.checks.iter().map(lines));
        page.push('\n');
    }
    page + &verdict(report)
}

pub fn is_good(report: &CheckReport) -> bool {
    report.success && count(report, CheckResult::Error) == 0
}

/// What is found out without an agent.
pub fn no_agent(error: &AgentError) -> CheckReport {
    let why = anyhow::Chain::new(error).map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let check = Check {
        description: "the agent answers on its socket".to_owned(),
        result: CheckResult::Error,
        error: Some(why),
        hint: error.hint().map(str::to_owned),
    };
    let category = CheckCategory { category_name: "agent".to_owned(), checks: vec![check] };
    CheckReport { success: false, categories: vec![category] }
}

fn lines(check: &Check) -> String {
    let (sign, tone) = match check.result {
        CheckResult::Success => ("√", Tone::Good),
        CheckResult::Warning => ("‼", Tone::Warning),
        CheckResult::Error => ("×", Tone::Bad),
    };
    let mut lines = format!("{} {}\n", paint(sign, tone), check.description);
    if let Some(error) = &check.error {
        lines.push_str(&format!("    {error}\n"));
    }
    if let Some(hint) = &check.hint {
        lines.push_str(&format!("    {} {hint}\n", paint("hint:", Tone::Faint)));
    }
    lines
}

fn verdict(report: &CheckReport) -> String {
    let errors = count(report, CheckResult::Error);
    let warnings = count(report, CheckResult::Warning);
    let (text, tone) = match (is_good(report), warnings) {
        (true, 0) => ("√ all is well".to_owned(), Tone::Good),
        (true, _) => (format!("‼ {warnings} to look at, no errors"), Tone::Warning),
        (false, 0) => (format!("× errors: {errors}"), Tone::Bad),
        (false, _) => (format!("× errors: {errors}, and {warnings} to look at"), Tone::Bad),
    };
    format!("{}\n", paint(&text, tone))
}

fn count(report: &CheckReport, result: CheckResult) -> usize {
    let checks = report.categories.iter().flat_map(|category| &category.checks);
    checks.filter(|check| check.result == result).count()
}
