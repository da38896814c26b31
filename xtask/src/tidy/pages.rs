//! Documents lead to what there is: links to files and headings of this tree, and an index of all pages.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use super::Finding;

const INDEX: &str = "docs/README.md";

pub fn check(shown: &str, text: &str) -> Vec<Finding> {
    let mut findings =
        links(shown, text, &|path| fs::read_to_string(path).ok(), &|path| Path::new(path).exists());
    if shown == INDEX {
        findings.extend(missing(text, &pages()));
    }
    findings
}

/// The pages that stand in docs/ itself.
fn pages() -> Vec<String> {
    let entries = fs::read_dir("docs").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".md") && name != "README.md").collect()
}

fn missing(index: &str, pages: &[String]) -> Vec<Finding> {
    let is_there = |page: &&String| !index.contains(&format!("]({page})"));
    let lost = pages.iter().filter(is_there);
    lost.map(|page| format!("{INDEX}: does not lead to docs/{page}")).collect()
}

fn links(
    shown: &str,
    text: &str,
    read: &dyn Fn(&str) -> Option<String>,
    exists: &dyn Fn(&str) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in prose(text) {
        for link in line.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let (target, anchor) = link.0.split_once('#').unwrap_or((link.0, ""));
            if target.contains("://") {
                continue;
            }
            let path = if target.is_empty() { shown.to_owned() } else { beside(shown, target) };
            if !exists(&path) {
                findings.push(format!("{shown}:{number}: there is no {path}"));
            } else if !anchor.is_empty()
                && !headings(&read(&path).unwrap_or_default()).contains(anchor)
            {
                findings.push(format!("{shown}:{number}: {path} has no heading #{anchor}"));
            }
        }
    }
    findings
}

/// Lines, by their numbers, that are not code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// As GitHub makes anchors of headings.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = prose(text).filter_map(|(_, line)| line.strip_prefix('#'));
    let anchor = |title: &str| {
        let kept = title.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    titles.map(anchor).collect()
}

fn beside(page: &str, target: &str) -> String {
    let mut path = PathBuf::from(page);
    path.pop();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<Finding> {
        let read =
            |path: &str| (path == "docs/b.md").then(|| "# B\n\n## What's new, here\n".to_owned());
        links("docs/a.md", text, &read, &|path| ["docs/b.md", "README.md"].contains(&path))
    }

    #[test]
    fn links_to_what_there_is_pass() {
        for text in [
            "[b](b.md)",
            "[b](b.md#b) and [b](b.md#whats-new-here)",
            "[r](../README.md)",
            "[elsewhere](https://example.org/a.md#b)",
            "```\n[code](c.md)\n```",
        ] {
            assert!(found(text).is_empty(), "{text}: {:?}", found(text));
        }
    }

    #[test]
    fn links_to_what_there_is_not_are_found_with_their_line() {
        assert_eq!(found("x\n[c](c.md)"), ["docs/a.md:2: there is no docs/c.md"]);
        assert_eq!(found("[b](b.md#old)"), ["docs/a.md:1: docs/b.md has no heading #old"]);
        assert_eq!(found("[r](README.md)"), ["docs/a.md:1: there is no docs/README.md"]);
    }

    #[test]
    fn a_page_that_the_index_forgets_is_found() {
        let pages = ["a.md".to_owned(), "b.md".to_owned()];
        let lost = missing("[a.md](a.md)", &pages);
        assert_eq!(lost, ["docs/README.md: does not lead to docs/b.md"]);
    }
}
