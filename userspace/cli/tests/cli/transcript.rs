//! Commands and what they print, one after the other, as a person sees them on a terminal; kept in
//! `transcripts`, compared, and made again with `MARTLET_BLESS=1`.
//!
//! What is different each time is written as what it is: `TIME`, `PORT`, `fingerprint-0001`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

pub struct Transcript {
    name: &'static str,
    text: String,
    /// Where commands run.
    directory: PathBuf,
    /// Texts that are different each time, and what stands for them.
    known: Vec<(String, String)>,
    fingerprints: Vec<String>,
    versions: Vec<String>,
}

impl Transcript {
    pub fn new(name: &'static str, directory: &Path) -> Self {
        let directory = directory.to_owned();
        let known = vec![(directory.display().to_string(), "/DIR".to_owned())];
        let (text, fingerprints, versions) = Default::default();
        Self { name, text, directory, known, fingerprints, versions }
    }

    /// Written instead of `text` wherever that is printed.
    pub fn knows(&mut self, text: impl Into<String>, instead: &str) {
        self.known.push((text.into(), instead.to_owned()));
    }

    pub fn says(&mut self, remark: &str) {
        let blank = if self.text.is_empty() { "" } else { "\n" };
        self.text.push_str(&format!("{blank}# {remark}\n"));
    }

    /// Runs a line such as `martlet trust export > a.json`; its exit code is shown if it is not 0.
    pub fn run(&mut self, socket: &Path, line: &str) {
        let (command, to) = match line.split_once(" > ") {
            Some((command, to)) => (command, Some(self.directory.join(to))),
            None => (line, None),
        };
        let words = words(command);
        assert_eq!(words[0], "martlet");
        let mut martlet = Command::new(env!("CARGO_BIN_EXE_martlet"));
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            martlet.env_remove(name);
        }
        martlet.env("MARTLET_SOCKET", socket).env("MARTLET_CONTROLLER_SOCKET", socket);
        let output = martlet.args(&words[1..]).current_dir(&self.directory).output().unwrap();
        let (mut said, told) = (output.stdout, String::from_utf8(output.stderr).unwrap());
        if let Some(to) = to {
            fs::write(to, std::mem::take(&mut said)).unwrap();
        }
        let said = self.plain(&(String::from_utf8(said).unwrap() + &told));
        let line = self.plain(line);
        self.text.push_str(&format!("$ {}\n{said}", line.trim_end()));
        if let Some(code) = output.status.code().filter(|code| *code != 0) {
            self.text.push_str(&format!("[{code}]\n"));
        }
    }

    #[track_caller]
    pub fn finish(self) {
        let Self { name, text, .. } = self;
        let path = format!("{}/tests/cli/transcripts/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("MARTLET_BLESS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let wanted = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            text == wanted,
            "{path} differs; look, and run the tests with MARTLET_BLESS=1. Now it is:\n{text}"
        );
    }

    fn plain(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.known {
            text = text.replace(from, to);
        }
        let lines: Vec<_> = text.lines().map(keyless).collect();
        let lines: Vec<_> = lines.iter().map(|line| times(&self.numbers(line))).collect();
        let mut plain = String::new();
        for line in aligned(lines) {
            // The body of a PEM.
            let is_body = line.len() > 20 && !line.contains(' ') && line.chars().all(is_base64);
            match is_body || plain.ends_with("BASE64\n") && line.chars().all(is_base64) {
                true if plain.ends_with("BASE64\n") => {}
                true => plain.push_str("BASE64\n"),
                false => plain.push_str(&(line + "\n")),
            }
        }
        plain
    }

    /// Fingerprints, versions and long texts of base64 within a line.
    fn numbers(&mut self, line: &str) -> String {
        let (mut plain, mut word) = (String::new(), String::new());
        for char in line.chars().chain(['\n']) {
            if is_base64(char) && char != '/' {
                word.push(char);
                continue;
            }
            plain.push_str(&self.word(&std::mem::take(&mut word)));
            plain.extend((char != '\n').then_some(char));
        }
        plain
    }

    fn word(&mut self, word: &str) -> String {
        let is_hex = word.chars().all(|char| matches!(char, '0'..='9' | 'a'..='f'));
        let is_number = word.chars().all(|char| char.is_ascii_digit());
        let number = |all: &mut Vec<String>, of: &str| {
            let known = all.iter().position(|known| known == of);
            known.unwrap_or_else(|| {
                all.push(of.to_owned());
                all.len() - 1
            }) + 1
        };
        match word.len() {
            // Seconds since 1970.
            10 if is_number => format!("VERSION-{}", number(&mut self.versions, word)),
            // In the middle of a table the beginning is enough.
            16 if is_hex => format!("fingerprint-{:04}", number(&mut self.fingerprints, word)),
            64 if is_hex => {
                let short =
                    format!("fingerprint-{:04}", number(&mut self.fingerprints, &word[..16]));
                format!("{short}{}", "-".repeat(48))
            }
            20.. if is_hex => "SERIAL".to_owned(),
            40.. => "BASE64".to_owned(),
            _ => word.to_owned(),
        }
    }
}

fn is_base64(char: char) -> bool {
    char.is_ascii_alphanumeric() || "+/=_".contains(char)
}

/// Between blanks; what is quoted is one word.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// A key or a certificate in JSON.
fn keyless(line: &str) -> String {
    let value = line.trim_start();
    let indent = &line[..line.len() - value.len()];
    match value.split_once("\": \"") {
        Some((name @ ("\"x" | "\"y"), _)) => format!("{indent}{name}\": \"BASE64\","),
        None if value.starts_with('"') && value.len() > 150 => format!("{indent}\"BASE64\""),
        _ => line.to_owned(),
    }
}

/// `3m 12s` is `TIME`, and so is a date.
fn times(line: &str) -> String {
    let is_date = |word: &str| word.len() >= 20 && word.contains('T') && word.ends_with('Z');
    let is_span = |word: &str| {
        let unit = word.trim_start_matches(|char: char| char.is_ascii_digit());
        unit.len() < word.len() && ["µs", "ms", "s", "m", "h", "d"].contains(&unit)
    };
    let mut plain: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let bare = word.trim_end_matches([',', ')', ':']).trim_start_matches('(');
        if !is_span(bare) && !is_date(bare) {
            plain.push(word.to_owned());
            continue;
        }
        let time = word.replace(bare, "TIME");
        match plain.last_mut() {
            Some(last) if last.as_str() == "TIME" => *last = time,
            Some(last) if last.as_str() == "(TIME" => *last = format!("({time}"),
            _ => plain.push(time),
        }
    }
    plain.join(" ")
}

/// Tables have headers of capitals; their columns are as wide as what stands in them now.
fn aligned(lines: Vec<String>) -> Vec<String> {
    let cells = |line: &String| -> Vec<String> {
        let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
        cells.map(str::to_owned).collect()
    };
    let mut lines = lines.into_iter().peekable();
    let mut all = Vec::new();
    while let Some(line) = lines.next() {
        let header = cells(&line);
        let is_header = header.len() > 1
            && header.iter().flat_map(|cell| cell.chars()).all(|char| !char.is_lowercase());
        if !is_header {
            all.push(line);
            continue;
        }
        let count = header.len();
        let mut table = vec![header];
        while let Some(row) = lines.next_if(|row| cells(row).len() == count) {
            table.push(cells(&row));
        }
        let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<_> = (0..count).map(|column| width(column).unwrap_or(0) + 2).collect();
        for row in &table {
            let row: String =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            all.push(row.trim_end().to_owned());
        }
    }
    all
}
