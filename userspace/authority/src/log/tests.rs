//! Every line of a log, changed, removed, doubled, swapped and cut.

use std::time::Duration;

use tempfile::TempDir;

use super::*;

fn issued(number: u64) -> Event {
    Event::Issued {
        node: "one".parse().unwrap(),
        workload: Some(format!("shop/cart-{number}")),
        identity: Some("spiffe://a.org/ns/shop/sa/cart".parse().unwrap()),
        uid: None,
        serial: format!("{number:x}"),
        fingerprint: "f".repeat(64),
        issuer: "e".repeat(64),
        not_after: 1_800_000_000 + number,
    }
}

fn refused(count: u64) -> Event {
    Event::Refused {
        node: "two".parse().unwrap(),
        workload: None,
        identity: None,
        reason: "other_node".to_owned(),
        detail: "the workload does not run on this node".to_owned(),
        count,
    }
}

fn written(lines: u64) -> (TempDir, Anchor) {
    let directory = TempDir::new().unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let mut log = Log::open(directory.path(), now).unwrap();
    for number in 0..lines {
        let event = if number % 3 == 0 { refused(1) } else { issued(number) };
        log.append(&[event], now).unwrap();
    }
    let head = log.head();
    (directory, head)
}

fn the_file(directory: &TempDir) -> PathBuf {
    directory.path().join(name(1))
}

fn lines(directory: &TempDir) -> Vec<String> {
    let text = fs::read_to_string(the_file(directory)).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn is_whole(directory: &TempDir, lines: &[String], anchor: Option<&Anchor>) -> bool {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(the_file(directory), text).unwrap();
    verify(directory.path(), anchor).unwrap().is_whole()
}

#[test]
fn what_was_written_is_whole_and_counted() {
    let (directory, head) = written(9);
    let verdict = verify(directory.path(), Some(&head)).unwrap();
    assert_eq!(verdict.problems, []);
    assert_eq!((verdict.first, &verdict.head), (1, &head));
    assert_eq!((verdict.issued, verdict.refused), (6, 3));
    assert_eq!(head.to_string().parse::<Anchor>().unwrap(), head);
}

#[test]
fn every_line_that_is_changed_missing_doubled_or_swapped_is_found() {
    let (directory, _) = written(9);
    let good = lines(&directory);
    assert!(is_whole(&directory, &good, None));
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] = changed[at].replacen("\"node\":\"", "\"node\":\"x", 1);
        assert_ne!(changed[at], good[at]);
        assert!(!is_whole(&directory, &changed, None), "line {at} changed");
        let mut doubled = good.clone();
        doubled.insert(at, good[at].clone());
        assert!(!is_whole(&directory, &doubled, None), "line {at} doubled");
        let mut garbage = good.clone();
        garbage[at] = "{}".to_owned();
        assert!(!is_whole(&directory, &garbage, None), "line {at} is garbage");
        if at + 1 < good.len() {
            let mut missing = good.clone();
            missing.remove(at);
            assert!(!is_whole(&directory, &missing, None), "line {at} missing");
            let mut swapped = good.clone();
            swapped.swap(at, at + 1);
            assert!(!is_whole(&directory, &swapped, None), "lines {at} swapped");
        }
    }
}

#[test]
fn a_line_that_is_changed_with_a_new_hash_is_found_by_the_next() {
    let (directory, head) = written(9);
    let mut forged = lines(&directory);
    let forge = |line: &str| {
        let (line, _) = unseal(line).unwrap();
        seal(&line.replacen("\"node\":\"", "\"node\":\"x", 1)).0
    };
    forged[4] = forge(&forged[4]);
    assert!(!is_whole(&directory, &forged, None));
    let mut forged_last = lines(&written(9).0);
    forged_last[8] = forge(&forged_last[8]);
    assert!(is_whole(&directory, &forged_last, None), "without an anchor nobody knows");
    assert!(!is_whole(&directory, &forged_last, Some(&head)));
}

#[test]
fn only_an_anchor_shows_that_the_end_was_cut_off() {
    let (directory, head) = written(9);
    let cut = lines(&directory)[..5].to_vec();
    assert!(is_whole(&directory, &cut, None));
    assert!(!is_whole(&directory, &cut, Some(&head)));
    fs::remove_file(the_file(&directory)).unwrap();
    assert!(verify(directory.path(), None).unwrap().is_whole());
    assert!(!verify(directory.path(), Some(&head)).unwrap().is_whole());
}

#[test]
fn the_chain_goes_on_in_new_files_and_a_missing_one_is_found() {
    let directory = TempDir::new().unwrap();
    let now = SystemTime::now();
    let mut heads = Vec::new();
    for round in 0..4 {
        let mut log = Log::open(directory.path(), now).unwrap();
        log.append(&[issued(round), refused(7)], now).unwrap();
        heads.push(log.head());
        log.begin_file().unwrap();
    }
    assert_eq!(heads[3].sequence, 8);
    let verdict = verify(directory.path(), None).unwrap();
    assert_eq!((verdict.problems.as_slice(), verdict.issued, verdict.refused), (&[][..], 4, 28));
    // The oldest may be kept elsewhere, if it is known how it ended.
    fs::remove_file(directory.path().join(name(1))).unwrap();
    let without = verify(directory.path(), None).unwrap();
    assert_eq!(without.problems[0].what, "lines 1 to 2 are missing");
    assert_eq!(verify(directory.path(), Some(&heads[0])).unwrap().problems, []);
    let wrong = Anchor { hash: heads[1].hash.clone(), ..heads[0].clone() };
    assert!(!verify(directory.path(), Some(&wrong)).unwrap().is_whole());
    fs::remove_file(directory.path().join(name(5))).unwrap();
    let without = verify(directory.path(), Some(&heads[0])).unwrap();
    assert_eq!(without.problems[0].what, "lines 5 to 6 are missing");
}

#[test]
fn a_line_that_was_half_written_is_cut_and_told_wherever_it_was_torn() {
    let (directory, _) = written(4);
    let whole = fs::read(the_file(&directory)).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for cut in last + 1..whole.len() {
        fs::write(the_file(&directory), &whole[..cut]).unwrap();
        let now = SystemTime::now();
        let mut log = Log::open(directory.path(), now).unwrap();
        log.append(&[issued(99)], now).unwrap();
        drop(log);
        let verdict = verify(directory.path(), None).unwrap();
        assert_eq!((verdict.problems.as_slice(), verdict.head.sequence), (&[][..], 5));
        assert!(lines(&directory)[3].contains("\"event\":\"torn\""));
    }
}

#[test]
fn nothing_is_added_to_a_log_that_was_changed() {
    let (directory, _) = written(4);
    let mut changed = lines(&directory);
    changed[3] = changed[3].replace("two", "six");
    let text: String = changed.iter().map(|line| format!("{line}\n")).collect();
    fs::write(the_file(&directory), text).unwrap();
    let refused = Log::open(directory.path(), SystemTime::now()).err().unwrap().to_string();
    assert!(refused.contains("authority log verify"), "{refused}");
}

#[test]
fn two_processes_never_write_one_log() {
    let directory = TempDir::new().unwrap();
    let log = Log::open(directory.path(), SystemTime::now()).unwrap();
    let second = Log::open(directory.path(), SystemTime::now()).err().unwrap().to_string();
    assert!(second.contains("another process has it"), "{second}");
    drop(log);
    Log::open(directory.path(), SystemTime::now()).unwrap();
}

#[test]
fn what_is_no_file_of_a_log_is_not_read() {
    let directory = TempDir::new().unwrap();
    std::os::unix::fs::symlink("/dev/zero", the_file(&directory)).unwrap();
    let refused = Log::open(directory.path(), SystemTime::now()).err().unwrap().to_string();
    assert!(refused.contains("is no file of a log"), "{refused}");
    assert!(verify(directory.path(), None).is_err());
}

#[test]
fn what_was_not_written_is_not_written_later_either() {
    let directory = TempDir::new().unwrap();
    let now = SystemTime::now();
    let mut log = Log::open(directory.path(), now).unwrap();
    log.append(&[issued(1)], now).unwrap();
    let head = log.head();
    let good = std::mem::replace(&mut log.file, full());
    assert!(log.append(&[issued(2)], now).is_err());
    log.file = good;
    assert!(log.append(&[issued(3)], now).is_err(), "half a line may be there");
    assert_eq!(log.head(), head);
    drop(log);
    let mut log = Log::open(directory.path(), now).unwrap();
    log.append(&[issued(3)], now).unwrap();
    assert_eq!(verify(directory.path(), None).unwrap().issued, 2);
}

/// A disk that is full.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

impl Log {
    pub(crate) fn on_a_full_disk(mut self) -> Self {
        self.file = full();
        self
    }
}
