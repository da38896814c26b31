//! `docs/promises.md`: what is promised, which tests show it, and what they measured last.
//!
//! The list is in `list`. Tests leave figures in `EVIDENCE`; figures of tests that have not run
//! since stay as the page has them.

mod list;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use self::list::promises;

/// Where `cargo xtask test` has tests write their figures (`tests/lab/src/evidence.rs`).
pub const EVIDENCE: &str = "target/promises";
const PAGE: &str = "docs/promises.md";

pub struct Promise {
    number: u8,
    promise: &'static str,
    /// What counts as kept.
    bar: &'static str,
    /// Without any it is not shown.
    tests: &'static [Test],
    /// What the tests do not show yet, if anything.
    missing: &'static str,
}

/// A file, and a test in it.
pub struct Test(&'static str, &'static str);

/// What each test measured, as it stands in the table.
type Figures = BTreeMap<String, String>;

/// Writes the page, or with `check` fails if it is not what the list says.
pub fn run(check: bool) -> Result<()> {
    all_exist(promises())?;
    let page = fs::read_to_string(PAGE).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound if !check => Ok(String::new()),
        _ => Err(error).context(PAGE),
    })?;
    let mut figures = read_page(&page);
    if check {
        let current = render(promises(), &figures) == page;
        ensure!(current, "{PAGE} is not what the list says: run `cargo xtask promises`");
        return Ok(());
    }
    figures.extend(read_evidence(Path::new(EVIDENCE))?);
    fs::write(PAGE, render(promises(), &figures)).with_context(|| format!("writing {PAGE}"))
}

/// Before a run, so that nothing is taken for its outcome that is not.
pub fn forget_evidence() -> Result<()> {
    match fs::remove_dir_all(EVIDENCE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(EVIDENCE),
        _ => Ok(()),
    }
}

/// The tests in these files that show a promise and are not among those that ran.
pub fn absent(is_meant: impl Fn(&str) -> bool, ran: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for promise in promises() {
        for Test(file, name) in promise.tests.iter().filter(|test| is_meant(test.0)) {
            if !ran.contains(*name) {
                let number = promise.number;
                complaints.push(format!("{name} of {file} did not run; it shows promise {number}"));
            }
        }
    }
    complaints
}

fn all_exist(promises: impl IntoIterator<Item = &'static Promise>) -> Result<()> {
    for Test(file, name) in promises.into_iter().flat_map(|promise| promise.tests) {
        let text = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
        ensure!(text.contains(&format!("fn {name}(")), "{file} has no test {name}");
    }
    Ok(())
}

fn render(promises: impl IntoIterator<Item = &'static Promise>, figures: &Figures) -> String {
    let mut page = "# Promises\n\n\
        What Martlet promises, what counts as kept, and the tests that show it.\n\
        `cargo xtask promises` writes this page from `xtask/src/promises/list.rs` and from what \
        the tests measured when they ran last; `cargo xtask test` fails if one of them did not run.\n\
        A promise without a test is not shown.\n"
        .to_owned();
    for Promise { number, promise, bar, tests, missing } in promises {
        let _ = write!(page, "\n## {number}\n\n{promise}\n\nBar: {bar}.\n");
        if tests.is_empty() {
            page += "**Not shown.**\n";
        }
        if !missing.is_empty() {
            let _ = writeln!(page, "Missing: {missing}.");
        }
        if !tests.is_empty() {
            page += "\n| test | last run |\n|---|---|\n";
        }
        for Test(file, name) in *tests {
            let last = figures.get(*name).map_or("", String::as_str);
            let _ = writeln!(page, "| [`{name}`](../{file}) | {last} |");
        }
    }
    page
}

/// The figures that a page has.
fn read_page(page: &str) -> Figures {
    let row = |line: &str| {
        let (name, rest) = line.strip_prefix("| [`")?.split_once("`](")?;
        let (_, last) = rest.split_once(") | ")?;
        Some((name.to_owned(), last.trim_end_matches('|').trim().to_owned()))
    };
    page.lines().filter_map(row).collect()
}

fn read_evidence(directory: &Path) -> Result<Figures> {
    let mut figures = Figures::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(figures),
        entries => entries.with_context(|| format!("listing {}", directory.display()))?,
    };
    for entry in entries {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        for line in text.lines() {
            let (test, said) = read_line(line).with_context(|| path.display().to_string())?;
            if !promises().flat_map(|promise| promise.tests).any(|known| known.1 == test) {
                bail!("{test} measured something, but the list knows no promise that it shows");
            }
            let all = figures.entry(test).or_default();
            *all += if all.is_empty() { "" } else { ", " };
            *all += &said;
        }
    }
    Ok(figures)
}

fn read_line(line: &str) -> Result<(String, String)> {
    let said: Value = serde_json::from_str(line).context("evidence is JSON")?;
    let test = said["test"].as_str().context("evidence names its test")?;
    let figures = said["figures"].as_array().context("evidence has figures")?;
    let one = |figure: &Value| Some(format!("{} {}", figure[0].as_str()?, figure[1].as_str()?));
    let all: Option<Vec<_>> = figures.iter().map(one).collect();
    let all = all.context("a figure is a name and a value")?.join(", ");
    // It becomes one cell of a table.
    Ok((test.to_owned(), all.replace('|', "/").replace('\n', " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[Promise] = &[
        Promise { number: 1, promise: "A.", bar: "0", tests: &[Test("a.rs", "a")], missing: "" },
        Promise { number: 2, promise: "B.", bar: "0", tests: &[], missing: "all" },
    ];

    #[test]
    fn a_promise_without_a_test_is_not_shown() {
        let page = render(TWO, &Figures::new());
        let (first, second) = page.split_once("## 2").unwrap();
        assert!(first.contains("| [`a`](../a.rs) |") && !first.contains("**Not shown.**"));
        assert!(second.contains("**Not shown.**\nMissing: all."));
    }

    #[test]
    fn figures_on_the_page_survive_being_written_again() {
        let line = r#"{"test":"a","figures":[["faults","30"],["slowest","1 ms"]]}"#;
        let figures = Figures::from([read_line(line).unwrap()]);
        let page = render(TWO, &figures);
        assert!(page.contains("| faults 30, slowest 1 ms |"), "{page}");
        assert_eq!(read_page(&page), figures);
        assert_eq!(render(TWO, &read_page(&page)), page);
    }

    #[test]
    fn a_test_that_does_not_exist_is_named() {
        let error = all_exist(TWO).unwrap_err().to_string();
        assert!(error.contains("a.rs"), "{error}");
        const HERE: &[Promise] = &[Promise {
            number: 1,
            promise: "",
            bar: "",
            tests: &[Test(file!(), "nobody")],
            missing: "",
        }];
        crate::command::enter_workspace().unwrap();
        assert!(all_exist(HERE).unwrap_err().to_string().contains("nobody"));
    }

    #[test]
    fn promises_are_numbered_from_one_and_none_is_left_out() {
        assert!(promises().map(|promise| promise.number).eq(1..=23));
    }

    #[test]
    fn a_test_that_did_not_run_is_named_where_it_was_meant_to() {
        let ran = |name: &str| BTreeSet::from([name.to_owned()]);
        let policy = |file: &str| file.starts_with("userspace/policy/");
        let absent = |ran| super::absent(policy, &ran);
        assert_eq!(absent(ran("evaluation_equals_the_oracle")).len(), 1);
        assert_eq!(absent(BTreeSet::new()).len(), 2);
        assert!(super::absent(|_| false, &BTreeSet::new()).is_empty());
    }
}
