//! Whether a log is what was written: nothing changed, missing, reordered, or cut out.
//!
//! What a chain alone cannot show: that its end was cut off, or that all of it was written anew.
//! An [`Anchor`] that was kept elsewhere shows both up to that line.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{Event, Line, LogError, NOTHING, PREFIX, SUFFIX, failed, hash, list, unseal};
use crate::limits::{LOG_FILE_BYTES, LOG_LINE_BYTES, LOG_PROBLEMS};

/// A line's number and hash, as `70123:9f3a…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    pub sequence: u64,
    pub hash: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The number of the first line; 0 if there is none.
    pub first: u64,
    pub head: Anchor,
    pub issued: u64,
    pub refused: u64,
    /// The first of them; none if all is well.
    pub problems: Vec<Problem>,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// Of the file, from 1.
    pub line: u64,
    pub what: String,
}

/// A file, and the number of its first line by its name.
pub struct LogFile {
    path: PathBuf,
    first: u64,
}

struct Chain {
    next: Option<u64>,
    /// The hash of the line before; absent if that line is.
    before: Option<String>,
    verdict: Verdict,
    anchor: Option<Anchor>,
    met_anchor: bool,
}

/// Reads all of it. With an anchor, the line of that number must have that hash; lines up to it may
/// have been moved elsewhere.
pub fn verify(directory: &Path, anchor: Option<&Anchor>) -> Result<Verdict, LogError> {
    let files = files(directory)?;
    let head = Anchor::nothing();
    let mut chain = Chain {
        next: None,
        before: Some(NOTHING.to_owned()),
        verdict: Verdict { first: 0, head, issued: 0, refused: 0, problems: vec![] },
        anchor: anchor.cloned(),
        met_anchor: false,
    };
    for file in &files {
        chain.file(file)?;
    }
    Ok(chain.end())
}

impl Chain {
    fn file(&mut self, file: &LogFile) -> Result<(), LogError> {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let read = |error| failed(&file.path, "cannot be read")(Some(error));
        let mut reader = BufReader::new(fs::File::open(&file.path).map_err(read)?);
        for number in 1.. {
            let mut line = Vec::new();
            let limit = LOG_LINE_BYTES as u64;
            let length = reader.by_ref().take(limit).read_until(b'\n', &mut line).map_err(read)?;
            if length == 0 {
                break;
            }
            if line.pop_if(|last| *last == b'\n').is_none() {
                self.problem(&name, number, "is no whole line");
                break;
            }
            if number == 1 {
                self.begin(&name, file.first);
            }
            self.line(&name, number, &line);
        }
        Ok(())
    }

    /// A file's name says where it belongs.
    fn begin(&mut self, name: &str, first: u64) {
        match self.next {
            Some(next) if next != first => {
                self.problem(name, 1, &format!("lines {next} to {} are missing", first.max(1) - 1));
            }
            Some(_) => {}
            None => {
                let before = self.anchor.as_ref().filter(|at| at.sequence + 1 == first);
                match before.map(|anchor| anchor.hash.clone()) {
                    Some(hash) => (self.before, self.met_anchor) = (Some(hash), true),
                    None if first == 1 => {}
                    None => {
                        self.before = None;
                        let what = format!("lines 1 to {} are missing", first.max(1) - 1);
                        self.problem(name, 1, &what);
                    }
                }
                self.verdict.first = first;
            }
        }
        self.next = Some(first);
    }

    fn line(&mut self, name: &str, number: u64, bytes: &[u8]) {
        let next = self.next.unwrap_or(1);
        let Some((line, found)) = read(bytes) else {
            self.problem(name, number, "is not a line of this log");
            self.before = None;
            self.next = Some(next + 1);
            return;
        };
        if line.sequence != next {
            let what = format!("has number {} where {next} belongs", line.sequence);
            self.problem(name, number, &what);
        } else if self.before.as_ref().is_some_and(|before| *before != line.previous) {
            self.problem(name, number, "does not follow from the line before");
        }
        if !found.is_right {
            self.problem(name, number, "was changed: its hash is not that of its text");
        }
        if let Some(anchor) = self.anchor.clone().filter(|at| at.sequence == line.sequence) {
            self.met_anchor = true;
            if anchor.hash != found.hash {
                self.problem(name, number, "is another line than the one that was anchored");
            }
        }
        match line.event {
            Event::Issued { .. } => self.verdict.issued += 1,
            Event::Refused { count, .. } => self.verdict.refused += count,
            Event::Torn { .. } => {}
        }
        self.next = Some(line.sequence.saturating_add(1));
        self.verdict.head = Anchor { sequence: line.sequence, hash: found.hash.clone() };
        self.before = Some(found.hash);
    }

    fn end(mut self) -> Verdict {
        if let Some(anchor) = self.anchor.take().filter(|_| !self.met_anchor) {
            let last = self.verdict.head.sequence;
            let what =
                format!("line {} was anchored, and the log ends with {last}", anchor.sequence);
            self.problem("", 0, &what);
        }
        self.verdict
    }

    fn problem(&mut self, file: &str, line: u64, what: &str) {
        if self.verdict.problems.len() < LOG_PROBLEMS {
            let problem = Problem { file: file.to_owned(), line, what: what.to_owned() };
            self.verdict.problems.push(problem);
        }
    }
}

struct Sealed {
    hash: String,
    is_right: bool,
}

fn read(bytes: &[u8]) -> Option<(Line, Sealed)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (line, found) = unseal(text)?;
    let is_right = hash(line.as_bytes()) == found;
    let sealed = Sealed { hash: found.to_owned(), is_right };
    Some((serde_json::from_str(&line).ok()?, sealed))
}

/// In the order of their lines.
pub fn files(directory: &Path) -> Result<Vec<LogFile>, LogError> {
    let names =
        list(directory).map_err(|error| failed(directory, "cannot be read")(Some(error)))?;
    let file = |name: &String| {
        let first = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()?;
        Some(LogFile { path: directory.join(name), first })
    };
    let mut files: Vec<_> = names.iter().filter_map(file).collect();
    for LogFile { path, .. } in &files {
        let looked = path.symlink_metadata();
        let looked = looked.map_err(|error| failed(path, "cannot be read")(Some(error)))?;
        if !looked.is_file() || looked.len() > 2 * LOG_FILE_BYTES {
            return Err(failed(path, "is no file of a log")(None));
        }
    }
    files.sort_by_key(|file| file.first);
    Ok(files)
}

/// Where a log goes on.
pub struct End {
    /// The newest file.
    pub path: PathBuf,
    pub last: Anchor,
    /// What of a line was written after the last whole one.
    pub torn: Option<Vec<u8>>,
}

pub fn end(files: &[LogFile]) -> Result<Option<End>, LogError> {
    let Some((newest, earlier)) = files.split_last() else { return Ok(None) };
    let path = newest.path.clone();
    let changed = |what: &str| LogError::Changed { path: path.clone(), what: what.to_owned() };
    let bytes = fs::read(&path).map_err(|error| failed(&path, "cannot be read")(Some(error)))?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let torn = (whole < bytes.len()).then(|| bytes[whole..].to_vec());
    let last = if whole == 0 {
        // Just begun: the file before has the last line.
        match end(earlier)? {
            Some(before) => before.last,
            None if newest.first == 1 => Anchor::nothing(),
            None => return Err(changed("the file before is gone")),
        }
    } else {
        let before = bytes[..whole - 1].iter().rposition(|byte| *byte == b'\n');
        let line = &bytes[before.map_or(0, |at| at + 1)..whole - 1];
        let (line, sealed) = read(line).ok_or_else(|| changed("it is no line"))?;
        if !sealed.is_right {
            return Err(changed("its hash is not that of its text"));
        }
        Anchor { sequence: line.sequence, hash: sealed.hash }
    };
    Ok(Some(End { path, last, torn }))
}

impl Anchor {
    /// Before the first line.
    pub fn nothing() -> Self {
        Self { sequence: 0, hash: NOTHING.to_owned() }
    }
}

impl Verdict {
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

impl FromStr for Anchor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = "an anchor is a line's number and its hash, as in 70123:9f3a…";
        let (sequence, hash) = text.split_once(':').ok_or(error)?;
        let is_hash =
            hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match sequence.parse() {
            Ok(sequence) if is_hash => Ok(Self { sequence, hash: hash.to_owned() }),
            _ => Err(error),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file.as_str() {
            "" => f.write_str(&self.what),
            file => write!(f, "{file}:{}: {}", self.line, self.what),
        }
    }
}
