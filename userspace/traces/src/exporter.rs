//! From records to a collector that may be slow, wrong or not there.

use std::{
    mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use martlet_model::{AccessRecord, Collector, Label, Ratio};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    limits,
    link::{self, AuthoritiesError, Failure, Link},
    message::ExportRequest,
    span,
};

/// Where spans go, and what is the same in all of them.
#[derive(Debug, Clone)]
pub struct Settings {
    pub collector: Collector,
    /// The file with what the collector's certificate leads to; only with TLS.
    pub authorities: Option<PathBuf>,
    pub ratio: Ratio,
    pub node: Label,
    /// Whether this node's workloads are pods.
    pub are_pods: bool,
    /// The agent's.
    pub version: String,
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct Counts {
    /// The collector has them.
    pub exported: AtomicU64,
    /// The queue was full.
    pub overflowed: AtomicU64,
    /// The collector did not take them in time.
    pub undelivered: AtomicU64,
    /// The collector does not want them.
    pub refused: AtomicU64,
}

/// Takes the records of which spans are made.
#[derive(Debug, Clone)]
pub struct Spans {
    ratio: Ratio,
    queue: mpsc::Sender<Ended>,
    counts: Arc<Counts>,
}

/// A connection, and when it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub record: AccessRecord,
    pub at: SystemTime,
}

/// Sends them, one batch after the other.
pub struct Exporter {
    settings: Settings,
    queue: mpsc::Receiver<Ended>,
    counts: Arc<Counts>,
    gathered: Vec<Ended>,
    /// What is being sent, and how many spans are in there.
    sending: Option<(ExportRequest, u64)>,
    link: Option<Link>,
    pause: Duration,
    is_failing: bool,
}

/// Whatever could not work later stops the start.
pub fn open(settings: Settings) -> Result<(Spans, Exporter), AuthoritiesError> {
    if let Some(path) = &settings.authorities {
        link::authorities(path)?;
    }
    let (sender, queue) = mpsc::channel(limits::QUEUE);
    let counts = Arc::new(Counts::default());
    let spans = Spans { ratio: settings.ratio, queue: sender, counts: counts.clone() };
    let exporter = Exporter {
        settings,
        queue,
        counts,
        gathered: Vec::new(),
        sending: None,
        link: None,
        pause: limits::FIRST_PAUSE,
        is_failing: false,
    };
    Ok((spans, exporter))
}

impl Spans {
    /// A connection has ended. Never waits.
    pub fn offer(&self, record: &AccessRecord, at: SystemTime) {
        if !self.ratio.takes(record.id) {
            return;
        }
        match self.queue.try_reserve() {
            Ok(place) => place.send(Ended { record: record.clone(), at }),
            Err(_) => count(&self.counts.overflowed, 1),
        }
    }

    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }
}

impl Exporter {
    /// Until nobody can offer any more and everything is sent, or for a while after `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // What is under way is kept in `self`, and goes on afterwards.
        let is_done = shutdown.run_until_cancelled(self.send_all()).await.is_some();
        if !is_done && timeout(limits::DRAIN, self.send_all()).await.is_err() {
            warn!("the collector did not take the last spans in time");
        }
    }

    async fn send_all(&mut self) {
        loop {
            if self.sending.is_none() && !self.gather().await {
                return;
            }
            self.send().await;
        }
    }

    /// Whether there is something to send.
    async fn gather(&mut self) -> bool {
        let room = limits::BATCH.saturating_sub(self.gathered.len());
        if self.gathered.is_empty() && self.queue.recv_many(&mut self.gathered, room).await == 0 {
            return false;
        }
        let until = Instant::now() + limits::LINGER;
        while self.gathered.len() < limits::BATCH {
            let room = limits::BATCH - self.gathered.len();
            let more = self.queue.recv_many(&mut self.gathered, room);
            if matches!(timeout_at(until, more).await, Ok(0) | Err(_)) {
                break;
            }
        }
        let batch = mem::take(&mut self.gathered);
        let spans = batch.len() as u64;
        self.sending = Some((span::request(&batch, &self.settings, rand::random), spans));
        true
    }

    /// Until it was taken, or is lost.
    async fn send(&mut self) {
        let until = Instant::now() + limits::PATIENCE;
        while let Some((request, spans)) = &self.sending {
            let (request, spans) = (request.clone(), *spans);
            let is_link_old = self.link.is_some();
            let attempt = timeout(limits::ATTEMPT, self.attempt(request)).await;
            match attempt.unwrap_or(Err(Failure::TimedOut)) {
                Ok(rejected) => self.taken(spans, rejected),
                Err(failure) if failure.is_refusal() => {
                    self.say_failing(&failure);
                    self.lost(&|counts| &counts.refused, spans);
                }
                Err(failure) => {
                    self.link = None;
                    if is_link_old && !matches!(failure, Failure::TimedOut) {
                        // It ended some time ago: a new one may be all that is wanted.
                        continue;
                    }
                    self.say_failing(&failure);
                    if Instant::now() + self.pause > until {
                        self.lost(&|counts| &counts.undelivered, spans);
                    }
                    self.wait().await;
                }
            }
        }
    }

    async fn attempt(&mut self, request: ExportRequest) -> Result<u64, Failure> {
        let link = match &mut self.link {
            Some(link) => link,
            None => {
                let Settings { collector, authorities, .. } = &self.settings;
                self.link.insert(Link::to(collector, authorities.as_deref()).await?)
            }
        };
        link.export(request).await
    }

    fn taken(&mut self, spans: u64, rejected: u64) {
        let rejected = rejected.min(spans);
        count(&self.counts.exported, spans - rejected);
        count(&self.counts.refused, rejected);
        self.sending = None;
        self.pause = limits::FIRST_PAUSE;
        if mem::take(&mut self.is_failing) {
            info!(collector = %self.settings.collector, "the collector takes spans again");
        }
    }

    fn lost(&mut self, cause: &dyn Fn(&Counts) -> &AtomicU64, spans: u64) {
        count(cause(&self.counts), spans);
        self.sending = None;
    }

    /// Said once, and again when it was well in between.
    fn say_failing(&mut self, failure: &Failure) {
        if !mem::replace(&mut self.is_failing, true) {
            let error = chain(failure);
            warn!(collector = %self.settings.collector, error, "the collector does not take spans");
        }
    }

    /// Between half of the pause and all of it, so that nodes do not come together.
    async fn wait(&mut self) {
        let pause = self.pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.pause = (self.pause * 2).min(limits::LONGEST_PAUSE);
        sleep(pause).await;
    }
}

fn count(counter: &AtomicU64, spans: u64) {
    counter.fetch_add(spans, Ordering::Relaxed);
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
