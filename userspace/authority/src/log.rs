//! What was issued and what was refused: one JSON object on each line, each with the hash of the one
//! before, so that nobody changes the past unnoticed.
//!
//! ```text
//! issuance-00000000000000000001.log   lines 1 to 70,123
//! issuance-00000000000000070124.log   lines 70,124 and later: the one that grows
//! ```
//!
//! A line ends with `"hash"`, the SHA-256 of all that stands before it, which includes `"previous"`,
//! the hash of the line before. Lines of certificates are on the disk before the certificates leave;
//! refusals are with the next certificate, or with [`Log::sync`], which is called every few seconds.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use aws_lc_rs::digest::{SHA256, digest};
use martlet_model::{Label, SpiffeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{files, limits::LOG_FILE_BYTES};

mod verify;

use verify::End;
pub use verify::{Anchor, Problem, Verdict, verify};

/// Before the first line there is nothing.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const PREFIX: &str = "issuance-";
const SUFFIX: &str = ".log";

/// What a line tells. No secret is in it: no key, no token, no request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Event {
    Issued {
        /// Which node asked.
        node: Label,
        /// Absent for a part of the control plane.
        workload: Option<String>,
        identity: Option<SpiffeId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<String>,
        serial: String,
        /// SHA-256 of the leaf.
        fingerprint: String,
        /// SHA-256 of the issuer's certificate.
        issuer: String,
        /// Seconds since the Unix epoch.
        not_after: u64,
    },
    Refused {
        node: Label,
        workload: Option<String>,
        /// As whom it would have been issued, if it came to that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity: Option<SpiffeId>,
        reason: String,
        detail: String,
        /// More than one if a flood was refused.
        count: u64,
    },
    /// The authority died while it wrote a line; the beginning of it was removed. No certificate
    /// belonged to it.
    Torn { bytes: u64, sha256: String },
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub sequence: u64,
    /// RFC 3339, UTC.
    pub time: String,
    /// The hash of the line before.
    pub previous: String,
    #[serde(flatten)]
    pub event: Event,
}

/// The log cannot be kept, or is not what it was.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("the log in {path}: {what}")]
    File {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: Option<io::Error>,
    },
    #[error(
        "{path}: the last lines are not what was written ({what}); look with `martlet authority log verify`, and move the files elsewhere to begin a new log"
    )]
    Changed { path: PathBuf, what: String },
    #[error("a line cannot be written")]
    Line(#[source] serde_json::Error),
    #[error("the time cannot be written")]
    Time(#[source] time::error::Format),
    #[error("the process is ending")]
    Ended,
}

/// The end of the log; one process at a time has it.
pub struct Log {
    directory: PathBuf,
    path: PathBuf,
    file: File,
    bytes: u64,
    last: Anchor,
    is_synced: bool,
    /// A write has failed, so that it is not known what is on the disk.
    is_broken: bool,
    _lock: File,
}

impl Log {
    /// Continues the log in `directory`, or begins one.
    pub fn open(directory: &Path, now: SystemTime) -> Result<Self, LogError> {
        files::make_directory(directory).map_err(|_| failed(directory, "cannot be made")(None))?;
        let lock = lock(directory)?;
        let found = verify::end(&verify::files(directory)?)?;
        let begun = || End { path: directory.join(name(1)), last: Anchor::nothing(), torn: None };
        let End { path, last, torn } = found.unwrap_or_else(begun);
        let mut log = Self::at(directory, path, last, lock)?;
        if let Some(torn) = torn {
            let event = Event::Torn { bytes: torn.len() as u64, sha256: hash(&torn) };
            let whole = log.bytes - torn.len() as u64;
            log.file.set_len(whole).map_err(|error| log.failed("cannot be cut")(Some(error)))?;
            log.bytes = whole;
            log.append(&[event], now)?;
            log.sync()?;
        }
        Ok(log)
    }

    fn at(directory: &Path, path: PathBuf, last: Anchor, lock: File) -> Result<Self, LogError> {
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = opened.map_err(|error| failed(&path, "cannot be opened")(Some(error)))?;
        let length =
            file.metadata().map_err(|error| failed(&path, "cannot be read")(Some(error)))?;
        files::sync(directory).map_err(|_| failed(directory, "cannot be written")(None))?;
        let directory = directory.to_owned();
        let (bytes, is_synced, is_broken) = (length.len(), true, false);
        Ok(Self { directory, path, file, bytes, last, is_synced, is_broken, _lock: lock })
    }

    /// Writes a line for each event; those of certificates are on the disk when it returns.
    pub fn append(&mut self, events: &[Event], now: SystemTime) -> Result<(), LogError> {
        if events.is_empty() {
            return Ok(());
        }
        if self.is_broken {
            return Err(self.failed("could not be written before; start the authority again")(
                None,
            ));
        }
        if self.bytes >= LOG_FILE_BYTES {
            self.begin_file()?;
        }
        let time = OffsetDateTime::from(now).format(&Rfc3339).map_err(LogError::Time)?;
        let (mut text, mut last) = (String::new(), self.last.clone());
        for event in events {
            let (sequence, event) = (last.sequence + 1, event.clone());
            let line = Line { sequence, time: time.clone(), previous: last.hash, event };
            let line = serde_json::to_string(&line).map_err(LogError::Line)?;
            let (sealed, hash) = seal(&line);
            text.push_str(&sealed);
            text.push('\n');
            last = Anchor { sequence, hash };
        }
        self.is_synced = false;
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            self.is_broken = true;
            return Err(self.failed("cannot be written")(Some(error)));
        }
        self.bytes += text.len() as u64;
        self.last = last;
        match events.iter().any(|event| matches!(event, Event::Issued { .. })) {
            true => self.sync(),
            false => Ok(()),
        }
    }

    /// Brings to the disk what is not there yet.
    pub fn sync(&mut self) -> Result<(), LogError> {
        if self.is_synced {
            return Ok(());
        }
        if let Err(error) = self.file.sync_data() {
            // What the kernel could not write it does not try again.
            self.is_broken = true;
            return Err(self.failed("cannot be written")(Some(error)));
        }
        self.is_synced = true;
        Ok(())
    }

    /// The hash of the last line, and its number: kept elsewhere, it shows what is cut off here.
    pub fn head(&self) -> Anchor {
        self.last.clone()
    }

    fn begin_file(&mut self) -> Result<(), LogError> {
        self.sync()?;
        let path = self.directory.join(name(self.last.sequence + 1));
        let opened = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        self.file = opened.map_err(|error| failed(&path, "cannot be made")(Some(error)))?;
        (self.path, self.bytes) = (path, 0);
        files::sync(&self.directory).map_err(|_| self.failed("cannot be made")(None))
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Option<io::Error>) -> LogError + use<> {
        failed(&self.path, what)
    }
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(Option<io::Error>) -> LogError + use<> {
    let path = path.to_owned();
    move |source| LogError::File { path, what, source }
}

/// Two processes that append would break the chain.
fn lock(directory: &Path) -> Result<File, LogError> {
    let path = directory.join("lock");
    let opened =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(|error| failed(&path, "cannot be opened")(Some(error)))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(failed(&path, "another process has it")(None)),
        Err(TryLockError::Error(error)) => Err(failed(&path, "cannot be locked")(Some(error))),
    }
}

fn name(first: u64) -> String {
    format!("{PREFIX}{first:020}{SUFFIX}")
}

/// The line with its hash at the end, and the hash.
fn seal(line: &str) -> (String, String) {
    let hash = hash(line.as_bytes());
    let open = line.strip_suffix('}').unwrap_or(line);
    (format!("{open},\"hash\":\"{hash}\"}}"), hash)
}

/// What was sealed, and with which hash, if the form is right.
fn unseal(line: &str) -> Option<(String, &str)> {
    let (open, rest) = line.rsplit_once(",\"hash\":\"")?;
    let hash = rest.strip_suffix("\"}")?;
    Some((format!("{open}}}"), hash))
}

/// SHA-256, in hex.
fn hash(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn list(directory: &Path) -> io::Result<Vec<String>> {
    let names: Result<Vec<_>, _> =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect();
    Ok(names?.iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests;
