//! What becomes of access records: counted, kept for a while, written as one line each.
//!
//! ```text
//! connections ─ queue ─▶ RecordWriter::run ─ lines ─▶ a thread ─▶ standard output or a file
//!                              ├─▶ Metrics
//!                              ├─▶ the listener, if there is one
//!                              └─▶ Recent
//! ```
//!
//! The thread is there because writing may block: an output that stands still or fails costs
//! records, which are counted, and nothing else.

mod line;
mod output;
mod recent;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use martlet_model::{AccessRecord, report::TimedRecord};
use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{Format, Metrics, RecordLoss, limits};
use output::Output;
pub use recent::Recent;

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordOutput {
    Stdout,
    File(PathBuf),
    Off,
}

#[derive(Debug, Error)]
pub enum RecordsError {
    #[error("opening the access log {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("starting the thread that writes the access log")]
    Thread(#[source] std::io::Error),
}

/// Is told each record, and when its connection ended. It must not wait.
pub type Listener = Box<dyn Fn(&AccessRecord, SystemTime) + Send + Sync>;

/// The queue from the connections to the writer.
pub fn queue() -> (mpsc::Sender<AccessRecord>, mpsc::Receiver<AccessRecord>) {
    mpsc::channel(limits::RECORD_QUEUE)
}

/// Takes records, one after the other.
pub struct RecordWriter {
    format: Format,
    output: Option<Output>,
    recent: Recent,
    metrics: Arc<Metrics>,
    listener: Option<Listener>,
}

impl RecordWriter {
    /// Opens the output, so that a wrong path stops the start.
    pub fn open(
        to: &RecordOutput,
        format: Format,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RecordsError> {
        let output = Output::open(to, metrics.clone())?;
        Ok(Self { format, output, recent: Recent::default(), metrics, listener: None })
    }

    /// The last records, for the admin socket.
    pub fn recent(&self) -> Recent {
        self.recent.clone()
    }

    /// Has `listener` told each record, too.
    pub fn telling(mut self, listener: Listener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Takes records until the last sender is gone, or until `shutdown`, and then those which are
    /// queued. `reopen` has the file opened anew by its path, after it was rotated.
    pub async fn run(
        self,
        mut records: mpsc::Receiver<AccessRecord>,
        reopen: Arc<Notify>,
        shutdown: CancellationToken,
    ) {
        loop {
            tokio::select! {
                record = records.recv() => match record {
                    Some(record) => self.take(record),
                    None => break,
                },
                () = reopen.notified() => self.reopen(),
                // Closing lets `recv` return what is queued, and then nothing.
                () = shutdown.cancelled(), if !records.is_closed() => records.close(),
            }
        }
        if let Some(output) = self.output {
            output.finish().await;
        }
    }

    fn take(&self, record: AccessRecord) {
        self.metrics.connection_closed(&record);
        let now = SystemTime::now();
        if let Some(listener) = &self.listener {
            listener(&record, now);
        }
        let timed = TimedRecord { time: line::timestamp(now), record };
        if let Some(output) = &self.output
            && !output.write(line::render(&timed, self.format))
        {
            self.metrics.record_dropped(RecordLoss::OutputBusy);
        }
        self.recent.push(timed);
    }

    fn reopen(&self) {
        if let Some(output) = &self.output {
            output.reopen();
        }
    }
}

#[cfg(test)]
mod tests;
