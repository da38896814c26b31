//! What becomes of records: written, counted, kept, or lost and counted.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Mutex,
        mpsc::{self as channel, Receiver, Sender},
    },
    time::{Duration, UNIX_EPOCH},
};

use martlet_model::{Closed, ConnectionId};
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::{
    Totals,
    fixtures::{certificates, record, refused, status, until},
};

fn timed(record: AccessRecord) -> TimedRecord {
    let at = UNIX_EPOCH + Duration::from_millis(1_764_140_645_678);
    TimedRecord { time: line::timestamp(at), record }
}

fn lost(metrics: &Metrics, cause: &str) -> u64 {
    let page = metrics.scrape(&status(), &certificates(), &Totals::default()).unwrap();
    let name = format!("martlet_records_dropped_total{{cause=\"{cause}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

fn writer_to(path: &Path, format: Format) -> RecordWriter {
    RecordWriter::open(&RecordOutput::File(path.to_owned()), format, Arc::default()).unwrap()
}

/// Sends the records, and runs the writer until it has nothing more to do.
async fn write_all(writer: RecordWriter, records: Vec<AccessRecord>) {
    let (sender, receiver) = queue();
    for record in records {
        sender.try_send(record).unwrap();
    }
    drop(sender);
    writer.run(receiver, Arc::default(), CancellationToken::new()).await;
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_listener_is_told_each_record() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let to = told.clone();
    let writer = RecordWriter::open(&RecordOutput::Off, Format::Json, Arc::default()).unwrap();
    let listener = move |record: &AccessRecord, _| to.lock().unwrap().push(record.clone());
    write_all(writer.telling(Box::new(listener)), vec![record(), refused()]).await;
    assert_eq!(*told.lock().unwrap(), [record(), refused()]);
}

#[tokio::test]
async fn each_record_is_one_json_line() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("access.log");
    write_all(writer_to(&path, Format::Json), vec![record(), refused()]).await;
    let lines = lines(&path);
    assert_eq!(lines.len(), 2);
    let first: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(first["id"], "0000000000001234");
    assert_eq!(first["source"]["identity"], "spiffe://demo.example/ns/shop/sa/cart");
    assert_eq!(first["source"]["workload"]["name"], "cart-0");
    assert_eq!(first["destination"]["address"], "[fd00:1::3]:8080");
    assert_eq!(first["origin"], "10.96.0.10:80");
    assert_eq!(first["duration_us"], 1500);
    assert_eq!(first["closed"], "finished");
    assert_eq!(first["time"].as_str().unwrap().len(), "2026-11-26T07:04:05.678Z".len());
    let second: TimedRecord = serde_json::from_str(&lines[1]).unwrap();
    assert_eq!(second.record, refused());
}

#[test]
fn a_line_of_text_reads_like_this() {
    assert_eq!(
        line::render(&timed(record()), Format::Text),
        "2025-11-26T07:04:05.678Z connection 0000000000001234 reporter=source closed=finished \
         protection=mutual_tls source.workload=shop/cart-0 \
         source.identity=spiffe://demo.example/ns/shop/sa/cart source.address=10.1.0.2:40000 \
         destination.workload=shop/web-0 destination.identity=spiffe://demo.example/ns/shop/sa/web \
         destination.address=[fd00:1::3]:8080 origin=10.96.0.10:80 \
         tls.cipher=TLS13_AES_128_GCM_SHA256 tls.key_exchange=X25519MLKEM768 warm=true \
         bytes_sent=77 bytes_received=4096 duration=1.5ms\n"
    );
}

#[test]
fn a_line_of_text_is_one_line_whatever_the_policy_is_called() {
    let hostile = AccessRecord { policy: Some("a\nconnection 1 \"b".to_owned()), ..refused() };
    let line = line::render(&timed(hostile), Format::Text);
    assert_eq!(line.lines().count(), 1);
    assert!(line.contains(r#" policy="a\nconnection 1 \"b" "#), "{line}");
}

#[test]
fn what_is_not_known_is_left_out_of_the_text() {
    let mut stranger = AccessRecord { tls: None, origin: None, ..record() };
    stranger.source = martlet_model::Party::default();
    let line = line::render(&timed(stranger), Format::Text);
    for absent in ["source.", "tls.", "origin=", "warm=", "policy="] {
        assert!(!line.contains(absent), "{absent} is in {line}");
    }
}

#[test]
fn every_field_and_every_reason_is_in_docs() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/records.md"));
    let page = page.unwrap();
    let (fields, reasons) = page.split_once("## Reasons").unwrap();
    let json = serde_json::to_value(timed(refused())).unwrap();
    let mut wanted = BTreeSet::new();
    names("", &json, &mut wanted);
    assert_eq!(first_column(fields), wanted);
    let wanted: BTreeSet<_> = Closed::ALL.iter().map(|closed| closed.to_string()).collect();
    assert_eq!(first_column(reasons), wanted);
}

/// `source.address` for an address within a source.
fn names(within: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if within.is_empty() { "" } else { "." };
                names(&format!("{within}{dot}{name}"), value, found);
            }
        }
        _ => drop(found.insert(within.to_owned())),
    }
}

/// The names between backticks at the start of a table's rows.
fn first_column(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    rows.map(|(name, _)| name.to_owned()).collect()
}

#[tokio::test]
async fn what_is_queued_is_written_at_shutdown() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("access.log");
    let (sender, receiver) = queue();
    for _ in 0..500 {
        sender.try_send(record()).unwrap();
    }
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    writer_to(&path, Format::Json).run(receiver, Arc::default(), shutdown).await;
    assert_eq!(lines(&path).len(), 500);
    assert!(sender.try_send(record()).is_err(), "nobody takes records after the end");
}

#[tokio::test]
async fn the_file_is_appended_to_and_not_for_everybody() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("access.log");
    write_all(writer_to(&path, Format::Text), vec![record()]).await;
    write_all(writer_to(&path, Format::Text), vec![record()]).await;
    assert_eq!(lines(&path).len(), 2);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
}

#[test]
fn a_path_that_cannot_be_opened_stops_the_start() {
    let to = RecordOutput::File("/proc/none/access.log".into());
    let Err(refused) = RecordWriter::open(&to, Format::Text, Arc::default()) else {
        panic!("it was opened");
    };
    assert_eq!(refused.to_string(), "opening the access log /proc/none/access.log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_file_is_opened_anew_after_it_was_rotated() {
    let directory = TempDir::new().unwrap();
    let (path, rotated) = (directory.path().join("access.log"), directory.path().join("old"));
    let writer = writer_to(&path, Format::Json);
    let (sender, receiver) = queue();
    let reopen = Arc::new(Notify::new());
    let run = tokio::spawn(writer.run(receiver, reopen.clone(), CancellationToken::new()));
    sender.try_send(AccessRecord { id: ConnectionId(1), ..record() }).unwrap();
    until("the first line", || lines(&path).len() == 1);
    fs::rename(&path, &rotated).unwrap();
    reopen.notify_one();
    until("the new file", || path.exists());
    sender.try_send(AccessRecord { id: ConnectionId(2), ..record() }).unwrap();
    drop(sender);
    run.await.unwrap();
    assert!(lines(&rotated)[0].contains("0000000000000001"));
    assert_eq!(lines(&path).len(), 1);
    assert!(lines(&path)[0].contains("0000000000000002"));
}

/// Says when it is written to, and stands still until told to go on.
struct Held {
    entered: Sender<()>,
    release: Receiver<()>,
    written: Bytes,
}

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The test may have stopped listening, or have let go for good.
        let _ = self.entered.send(());
        let _ = self.release.recv();
        self.written.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Bytes = Arc<Mutex<Vec<u8>>>;

/// A writer whose output stands still, until the sender is dropped.
fn held() -> (RecordWriter, Sender<()>, Receiver<()>, Bytes) {
    let (entered, waits) = channel::channel();
    let (go_on, release) = channel::channel();
    let written = Bytes::default();
    let metrics = Arc::new(Metrics::default());
    let to = Box::new(Held { entered, release, written: written.clone() });
    let output = Some(Output::to_writer(to, metrics.clone()));
    let (format, recent) = (Format::Json, Recent::default());
    let writer = RecordWriter { format, output, recent, metrics, listener: None };
    (writer, go_on, waits, written)
}

#[tokio::test]
async fn an_output_that_stands_still_costs_records_and_they_are_counted() {
    let (writer, go_on, entered, written) = held();
    let metrics = writer.metrics.clone();
    writer.take(record());
    // One line is in the thread's hands, and so out of the queue.
    entered.recv_timeout(crate::fixtures::DEADLINE).unwrap();
    for _ in 0..limits::LINE_QUEUE {
        writer.take(record());
    }
    assert_eq!(lost(&metrics, "output_busy"), 0);
    for _ in 0..5 {
        writer.take(record());
    }
    assert_eq!(lost(&metrics, "output_busy"), 5);
    assert_eq!(writer.recent.all().len(), limits::RECENT_RECORDS);
    drop(go_on);
    writer.output.unwrap().finish().await;
    let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    assert_eq!(written.lines().count(), limits::LINE_QUEUE + 1);
}

#[tokio::test(start_paused = true)]
async fn an_output_that_stands_still_does_not_keep_the_agent_from_stopping() {
    let (writer, go_on, entered, written) = held();
    writer.take(record());
    entered.recv_timeout(crate::fixtures::DEADLINE).unwrap();
    writer.output.unwrap().finish().await;
    assert!(written.lock().unwrap().is_empty());
    drop(go_on);
}

#[test]
fn a_full_queue_to_the_writer_refuses_and_does_not_block() {
    let (sender, _receiver) = queue();
    for _ in 0..limits::RECORD_QUEUE {
        sender.try_send(record()).unwrap();
    }
    assert!(sender.try_send(record()).is_err());
}

#[tokio::test]
async fn without_an_output_records_are_counted_and_kept() {
    let metrics = Arc::new(Metrics::default());
    let off = RecordWriter::open(&RecordOutput::Off, Format::Json, metrics.clone()).unwrap();
    let recent = off.recent();
    write_all(off, vec![record()]).await;
    assert_eq!(recent.all()[0].record, record());
    let page = metrics.scrape(&status(), &certificates(), &Totals::default()).unwrap();
    assert!(page.contains("closed=\"finished\"} 1"), "{page}");
}

#[tokio::test]
async fn the_latest_are_kept_and_a_follower_sees_each_once() {
    let recent = Recent::default();
    let numbered = |number| timed(AccessRecord { id: ConnectionId(number), ..record() });
    let most = u64::try_from(limits::RECENT_RECORDS).unwrap();
    for number in 0..most + 3 {
        recent.push(numbered(number));
    }
    let (kept, mut live) = recent.follow();
    recent.push(numbered(7777));
    assert_eq!(kept.len(), limits::RECENT_RECORDS);
    assert_eq!(kept[0].record.id, ConnectionId(3));
    assert_eq!(kept.last().unwrap().record.id, ConnectionId(most + 2));
    assert_eq!(live.recv().await.unwrap().record.id, ConnectionId(7777));
    assert!(live.is_empty());
}
