//! The thread that writes lines, and the bounded queue before it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{RecordOutput, RecordsError};
use crate::{Metrics, RecordLoss, limits};

/// What the thread is told.
enum Order {
    Write(String),
    Reopen,
}

/// The near end of the queue to the thread.
pub(super) struct Output {
    orders: SyncSender<Order>,
    finished: oneshot::Receiver<()>,
}

/// What the thread owns.
struct Writer {
    to: Box<dyn Write + Send>,
    path: Option<PathBuf>,
    /// Whether the latest write failed: said once, not for each line.
    failing: bool,
    /// Whether a piece of a line is at the end of what was written.
    torn: bool,
    metrics: Arc<Metrics>,
}

impl Output {
    pub(super) fn open(
        to: &RecordOutput,
        metrics: Arc<Metrics>,
    ) -> Result<Option<Self>, RecordsError> {
        let (to, path): (Box<dyn Write + Send>, _) = match to {
            RecordOutput::Off => return Ok(None),
            RecordOutput::Stdout => (Box::new(io::stdout()), None),
            RecordOutput::File(path) => (Box::new(open_file(path)?), Some(path.clone())),
        };
        Self::start(Writer { to, path, failing: false, torn: false, metrics }).map(Some)
    }

    fn start(mut writer: Writer) -> Result<Self, RecordsError> {
        let (orders, received) = sync_channel(limits::LINE_QUEUE);
        let (done, finished) = oneshot::channel();
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                writer.run(received);
                // Nobody waits any more if the agent stopped without this output.
                let _ = done.send(());
            })
            .map_err(RecordsError::Thread)?;
        Ok(Self { orders, finished })
    }

    #[cfg(test)]
    pub(super) fn to_writer(to: Box<dyn Write + Send>, metrics: Arc<Metrics>) -> Self {
        let writer = Writer { to, path: None, failing: false, torn: false, metrics };
        Self::start(writer).expect("a thread")
    }

    /// Whether there was room for the line.
    pub(super) fn write(&self, line: String) -> bool {
        self.orders.try_send(Order::Write(line)).is_ok()
    }

    pub(super) fn reopen(&self) {
        if self.orders.try_send(Order::Reopen).is_err() {
            warn!("access log not reopened: its output stands still");
        }
    }

    /// Waits until the queued lines are written, but not for an output that stands still.
    pub(super) async fn finish(self) {
        drop(self.orders);
        if tokio::time::timeout(limits::OUTPUT_DRAIN, self.finished).await.is_err() {
            warn!("last lines of the access log were not written: its output stands still");
        }
    }
}

impl Writer {
    fn run(&mut self, orders: Receiver<Order>) {
        for order in orders {
            match order {
                Order::Write(line) => self.write(&line),
                Order::Reopen => self.reopen(),
            }
        }
    }

    fn write(&mut self, line: &str) {
        match self.put_line(line) {
            Ok(()) if self.failing => {
                self.failing = false;
                info!("access log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.metrics.record_dropped(RecordLoss::OutputFailed);
                if !self.failing {
                    self.failing = true;
                    warn!(%error, "access log cannot be written; records are lost and counted");
                }
            }
        }
    }

    /// What is left of a line that failed halfway stays on a line of its own.
    fn put_line(&mut self, line: &str) -> io::Result<()> {
        if self.torn {
            self.put(b"\n")?;
        }
        self.put(line.as_bytes())?;
        self.to.flush()
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.to.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Goes on with the old file if the new one cannot be opened.
    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open_file(path) {
            Ok(file) => {
                self.to = Box::new(file);
                self.torn = false;
                info!(path = %path.display(), "access log reopened");
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                warn!(path = %path.display(), error, "access log not reopened");
            }
        }
    }
}

/// Records name who talks to whom: not for everybody's eyes.
fn open_file(path: &Path) -> Result<File, RecordsError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(|source| RecordsError::Open { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Writes while it is told to work, and fails otherwise.
    struct Moody {
        works: Arc<Mutex<bool>>,
        written: Bytes,
    }

    impl Write for Moody {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !*self.works.lock().unwrap() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged while `act` runs.
    fn logged(act: impl FnOnce()) -> String {
        let lines = Bytes::default();
        let to = Moody { works: Arc::new(Mutex::new(true)), written: lines.clone() };
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(Mutex::new(to));
        tracing::subscriber::with_default(subscriber.finish(), act);
        String::from_utf8(lines.lock().unwrap().clone()).unwrap()
    }

    type Bytes = Arc<Mutex<Vec<u8>>>;

    fn moody() -> (Writer, Arc<Mutex<bool>>, Bytes) {
        let (works, written) = (Arc::new(Mutex::new(true)), Bytes::default());
        let to = Moody { works: works.clone(), written: written.clone() };
        let writer = Writer {
            to: Box::new(to),
            path: None,
            failing: false,
            torn: false,
            metrics: Arc::default(),
        };
        (writer, works, written)
    }

    #[test]
    fn an_output_that_fails_is_counted_for_each_line_and_said_once() {
        let (mut writer, works, written) = moody();
        let said = logged(|| {
            writer.write("one\n");
            *works.lock().unwrap() = false;
            (0..3).for_each(|_| writer.write("lost\n"));
            *works.lock().unwrap() = true;
            (0..2).for_each(|_| writer.write("two\n"));
        });
        assert_eq!(said.matches("access log cannot be written").count(), 1, "{said}");
        assert_eq!(said.matches("access log is written again").count(), 1, "{said}");
        assert_eq!(*written.lock().unwrap(), b"one\ntwo\ntwo\n");
        let page = writer.metrics.scrape(
            &crate::fixtures::status(),
            &crate::fixtures::certificates(),
            &crate::Totals::default(),
        );
        assert!(page.unwrap().contains("{cause=\"output_failed\"} 3\n"));
    }

    /// Has room for so many bytes.
    struct Small {
        room: Arc<Mutex<usize>>,
        written: Bytes,
    }

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut room = self.room.lock().unwrap();
            let fits = bytes.len().min(*room);
            *room -= fits;
            match self.written.lock().unwrap().write(&bytes[..fits])? {
                0 => Err(io::ErrorKind::StorageFull.into()),
                count => Ok(count),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_spoil_the_next() {
        let (mut writer, ..) = moody();
        let (room, written) = (Arc::new(Mutex::new(7)), Bytes::default());
        writer.to = Box::new(Small { room: room.clone(), written: written.clone() });
        ["one\n", "two, cut off\n", "lost\n"].iter().for_each(|line| writer.write(line));
        *room.lock().unwrap() = 100;
        ["three\n", "four\n"].iter().for_each(|line| writer.write(line));
        assert_eq!(*written.lock().unwrap(), b"one\ntwo\nthree\nfour\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_leaves_the_old_one_in_use() {
        let (mut writer, _works, written) = moody();
        writer.path = Some("/proc/none/access.log".into());
        let said = logged(|| {
            writer.reopen();
            writer.write("still here\n");
        });
        assert!(said.contains("access log not reopened"), "{said}");
        assert_eq!(*written.lock().unwrap(), b"still here\n");
    }
}
