//! An agent that only answers: the real admin server with fixed reports, and servers that are
//! worse than any agent.

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{Arc, mpsc as channel},
    thread::JoinHandle,
};

use martlet_model::{
    AccessRecord,
    coverage::Coverage,
    report::{Certificates, CheckReport, Connections, Status, Workloads},
};
use martlet_telemetry::{
    Admin, Format, Metrics, RecordOutput, RecordWriter, Reports, Totals, bind_socket, queue,
};
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// What it always says.
#[derive(Clone)]
pub struct Fixed {
    pub status: Status,
    pub workloads: Workloads,
    pub connections: Connections,
    pub coverage: Coverage,
    pub certificates: Certificates,
    pub check: CheckReport,
}

impl Reports for Fixed {
    fn status(&self) -> Status {
        self.status.clone()
    }
    fn workloads(&self) -> Workloads {
        self.workloads.clone()
    }
    fn coverage(&self) -> Coverage {
        self.coverage.clone()
    }
    fn connections(&self) -> Connections {
        self.connections.clone()
    }
    fn certificates(&self) -> Certificates {
        self.certificates.clone()
    }
    fn check(&self) -> CheckReport {
        self.check.clone()
    }
    fn totals(&self) -> Totals {
        Totals::default()
    }
}

/// Runs until dropped.
pub struct FakeAgent {
    directory: TempDir,
    records: mpsc::Sender<AccessRecord>,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl FakeAgent {
    pub fn start(reports: Fixed) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("agent.sock");
        let shutdown = CancellationToken::new();
        let (records, received) = queue();
        let (bound, is_bound) = channel::channel();
        let until = shutdown.clone();
        let thread = std::thread::spawn(move || {
            let metrics = Arc::new(Metrics::default());
            let writer = RecordWriter::open(&RecordOutput::Off, Format::Json, metrics.clone());
            let writer = writer.unwrap();
            let admin = Admin { reports: Arc::new(reports), metrics, recent: writer.recent() };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let socket = bind_socket(&path).unwrap();
                bound.send(()).unwrap();
                let records = writer.run(received, Arc::new(Notify::new()), until.clone());
                tokio::join!(admin.serve_unix(socket, until.clone()), records);
            });
        });
        is_bound.recv().unwrap();
        Self { directory, records, shutdown, thread: Some(thread) }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// A connection ended. The agent takes the record soon.
    pub fn ended(&self, record: AccessRecord) {
        self.records.blocking_send(record).unwrap();
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Answers each request with these bytes, whatever was asked for.
pub fn answering(socket: &Path, answer: &'static [u8]) {
    serving(socket, move |_| answer.to_vec());
}

/// Answers by the request's first bytes. The thread ends with the test's process.
pub fn serving(socket: &Path, answer: impl Fn(&str) -> Vec<u8> + Send + 'static) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            // The client may leave before the end.
            let _ = stream.write_all(&answer(&String::from_utf8_lossy(&request[..length])));
        }
    });
}

/// An answer that is in order.
pub fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
