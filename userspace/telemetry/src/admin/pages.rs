//! What each path answers.

use std::{collections::VecDeque, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use martlet_model::report::TimedRecord;
use serde::Serialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::{Admin, Reports};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Private {
    admin: Admin,
    shutdown: CancellationToken,
}

/// What Prometheus and a kubelet may ask for.
pub(super) fn public(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(admin)
}

/// What root may ask for.
pub(super) fn private(admin: Admin, shutdown: CancellationToken) -> Router {
    Router::new()
        .route("/status", get(async |State(p): State<Private>| report(p, |r| r.status()).await))
        .route(
            "/workloads",
            get(async |State(p): State<Private>| report(p, |r| r.workloads()).await),
        )
        .route(
            "/connections",
            get(async |State(p): State<Private>| report(p, |r| r.connections()).await),
        )
        .route(
            "/certificates",
            get(async |State(p): State<Private>| report(p, |r| r.certificates()).await),
        )
        .route("/coverage", get(async |State(p): State<Private>| report(p, |r| r.coverage()).await))
        .route("/check", get(async |State(p): State<Private>| report(p, |r| r.check()).await))
        .route("/records", get(records))
        .with_state(Private { admin, shutdown })
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let Admin { reports, metrics, .. } = admin;
    let page = blocking(move || {
        metrics.scrape(&reports.status(), &reports.certificates(), &reports.totals())
    });
    match page.await {
        Some(Ok(page)) => ([(header::CONTENT_TYPE, OPENMETRICS)], page).into_response(),
        Some(Err(_)) | None => broken(),
    }
}

/// Ready or not, and if not, why: one reason a line.
async fn ready(State(admin): State<Admin>) -> Response {
    let Some(status) = blocking(move || admin.reports.status()).await else { return broken() };
    if status.ready {
        return "ready\n".into_response();
    }
    let reasons: String = status.not_ready.iter().map(|reason| format!("{reason}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{reasons}")).into_response()
}

async fn report<T: Serialize + Send + 'static>(
    private: Private,
    ask: fn(&dyn Reports) -> T,
) -> Response {
    match blocking(move || ask(&*private.admin.reports)).await {
        Some(answer) => Json(answer).into_response(),
        None => broken(),
    }
}

/// Reports read kernel maps and take locks: not on the threads that carry connections.
async fn blocking<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(ask).await.ok()
}

fn broken() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "the agent failed to answer; see its log\n").into_response()
}

/// `/records`: an array, oldest first. `/records?follow`: one object a line, and then those to come.
async fn records(State(private): State<Private>, RawQuery(query): RawQuery) -> Response {
    match query.as_deref().unwrap_or_default() {
        "" => {
            let kept = private.admin.recent.all();
            let kept: Vec<&TimedRecord> = kept.iter().map(Arc::as_ref).collect();
            Json(kept).into_response()
        }
        "follow" | "follow=true" => follow(private),
        _ => (StatusCode::BAD_REQUEST, "only ?follow is known here\n").into_response(),
    }
}

struct Following {
    kept: VecDeque<Arc<TimedRecord>>,
    live: Receiver<Arc<TimedRecord>>,
    shutdown: CancellationToken,
}

fn follow(private: Private) -> Response {
    let (kept, live) = private.admin.recent.follow();
    let following = Following { kept: kept.into(), live, shutdown: private.shutdown };
    let lines = stream::unfold(following, async |mut following| {
        let line = following.next().await?;
        Some((Ok::<_, serde_json::Error>(line), following))
    });
    let body = Body::from_stream(Box::pin(lines));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

impl Following {
    async fn next(&mut self) -> Option<String> {
        let record = match self.kept.pop_front() {
            Some(record) => record,
            None => self.next_live().await?,
        };
        serde_json::to_string(&record).ok().map(|line| line + "\n")
    }

    /// A reader that is too slow misses the oldest; the log has them.
    async fn next_live(&mut self) -> Option<Arc<TimedRecord>> {
        loop {
            let received = tokio::select! {
                received = self.live.recv() => received,
                () = self.shutdown.cancelled() => return None,
            };
            match received {
                Ok(record) => return Some(record),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
