//! One watch.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    Shared, Watches,
    path::Target,
    serve::refusal,
    store::{Change, singular},
};

/// What is told of an object.
fn line(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

struct Watching {
    shared: Arc<Shared>,
    target: Target,
    news: watch::Receiver<u64>,
    /// All until here was told; `None`: all that there is, first.
    version: Option<u64>,
    until: Instant,
    lines: VecDeque<String>,
    /// How many of the lines that are said to everybody were said before.
    said: usize,
    cuts: u64,
    stalls: u64,
    has_ended: bool,
    /// For ever, as a connection that nobody is behind any more.
    is_stalled: bool,
}

/// From this version, for so many seconds.
pub fn body(shared: Arc<Shared>, target: Target, version: Option<u64>, seconds: u64) -> Body {
    let (said, cuts, stalls) = {
        let mut store = shared.store();
        let of = store.faults.of(&target.of.plural);
        of.watching += 1;
        (of.said.len(), of.cuts, of.stalls)
    };
    let mut news = shared.news.subscribe();
    news.mark_changed();
    let watching = Watching {
        shared,
        target,
        news,
        version: version.filter(|version| *version != 0),
        until: Instant::now() + Duration::from_secs(seconds),
        lines: VecDeque::new(),
        said,
        cuts,
        stalls,
        has_ended: false,
        is_stalled: false,
    };
    Body::from_stream(stream::unfold(watching, |mut watching| async {
        let line = watching.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(line)), watching))
    }))
}

impl Watching {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.has_ended {
                return None;
            }
            tokio::select! {
                changed = self.news.changed() => {
                    changed.ok()?;
                    self.look();
                }
                () = sleep_until(self.until), if !self.is_stalled => {
                    self.look();
                    self.lines.extend(self.version.map(|version| self.bookmark(version)));
                    self.has_ended = true;
                }
            }
        }
    }

    fn bookmark(&self, version: u64) -> String {
        let of = &self.target.of;
        let object = json!({
            "kind": singular(&of.plural), "apiVersion": of.api_version(),
            "metadata": { "resourceVersion": version.to_string() },
        });
        line("BOOKMARK", &object.to_string())
    }

    fn look(&mut self) {
        let shared = self.shared.clone();
        let mut store = shared.store();
        let of = store.faults.of(&self.target.of.plural);
        self.has_ended |= matches!(of.watches, Watches::Ended) || of.cuts > self.cuts;
        self.is_stalled |= of.stalls > self.stalls;
        if self.has_ended || self.is_stalled {
            return;
        }
        let said = of.said.split_off(self.said.min(of.said.len()));
        self.said += said.len();
        of.said.extend(said.iter().cloned());
        let version = match self.version {
            Some(version) => version,
            None => {
                let (version, all) = store.list(&self.target.of, None);
                self.lines.extend(all.iter().map(|object| line("ADDED", object)));
                version
            }
        };
        match store.since(&self.target.of, version) {
            Some(changes) => {
                self.version = Some(store.version().max(version));
                let wanted = changes.iter().filter(|change| self.is_wanted(change));
                let lines: Vec<_> =
                    wanted.map(|change| line(change.kind, &change.object)).collect();
                self.lines.extend(lines);
            }
            None => {
                let gone = refusal(410, "Expired", "too old resource version");
                self.lines.push_back(line("ERROR", &gone.to_string()));
                self.has_ended = true;
            }
        }
        self.lines.extend(said);
    }

    fn is_wanted(&self, change: &Change) -> bool {
        if self.target.namespace.is_empty() {
            return true;
        }
        let object: Value = serde_json::from_str(&change.object).unwrap();
        object["metadata"]["namespace"] == self.target.namespace.as_str()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.shared.store().faults.of(&self.target.of.plural).watching -= 1;
    }
}
