//! What the compiler does not check: which crate may import which, who alone may name a library,
//! how long a file may be, what must not be in the tree, and where documents lead.

mod code;
mod edges;
mod names;
mod packages;
mod pages;
mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// One complaint, as it is printed.
type Finding = String;

pub fn run() -> Result<()> {
    let mut findings = edges::check()?;
    findings.extend(packages::check()?);
    for path in files(Path::new("."))? {
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let shown = path.strip_prefix(".").unwrap_or(&path).display().to_string();
        findings.extend(sources::foreign_paths(&shown, &text));
        if shown.ends_with(".md") {
            findings.extend(pages::check(&shown, &text));
        }
        if shown.ends_with(".rs") {
            let code = code::only(&text);
            findings.extend(sources::check(&shown, &text, &code));
            findings.extend(names::check(&shown, &code));
        }
    }
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("{count} findings"),
    }
}

/// All files that a commit may hold. git is not asked: it refuses a clone that another user made.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    const HIDDEN_BUT_OURS: &[&str] = &[".cargo", ".ci", ".github", ".gitignore"];
    let mut files = Vec::new();
    let entries = fs::read_dir(directory);
    for entry in entries.with_context(|| format!("listing {}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "target" || (name.starts_with('.') && !HIDDEN_BUT_OURS.contains(&&*name)) {
            continue;
        }
        match path.is_dir() {
            true => files.extend(self::files(&path)?),
            false => files.push(path),
        }
    }
    files.sort();
    Ok(files)
}
