//! What a controller can be asked, and by whom.
//!
//! | where | who | what |
//! |---|---|---|
//! | a TCP address, loopback by default | Prometheus, a probe | `/metrics`, `/healthz`, `/readyz` |
//! | a Unix socket, mode 0600 | root, through `martlet` | the same, `/nodes`, `/trust`, and everything that changes something |
//!
//! What changes something is a `POST` on the Unix socket, and on no other.

mod roots;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use martlet_authority::trust::{Foreign, Store, TrustError};
use martlet_control::{JoinToken, Server};
use martlet_identity::{BundleDocument, RootPin};
use martlet_model::{
    Quarantine, TrustDomain,
    report::{
        Advanced, CutOff, Export, Import, Invitation, Invite, NodeName, NodeReport, Nodes, Release,
        TrustReport, Unfederate,
    },
};
use martlet_standalone::ControllerFile;
use martlet_telemetry::{AdminSocket, serve_pages_tcp, serve_pages_unix};
use tokio::{net::TcpListener, sync::Notify, task::spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    book::Book,
    cluster::Cluster,
    federate::{self, Federation},
    limits,
    members::seconds,
    metrics::{self, Counts},
    office::Clerk,
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
pub struct Desk {
    book: Arc<Book>,
    server: Server<Clerk>,
    counts: Arc<Counts>,
    file: Arc<ControllerFile>,
    cluster: Option<Cluster>,
    federation: Arc<Federation>,
    ready: Arc<AtomicBool>,
    /// Told whenever something was changed here.
    changed: Arc<Notify>,
}

/// What is told to whoever asked for something that cannot be.
struct No(StatusCode, String);

type Answer<T> = Result<Json<T>, No>;

impl IntoResponse for No {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

impl From<TrustError> for No {
    fn from(error: TrustError) -> Self {
        Self(StatusCode::CONFLICT, chain(&error))
    }
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

impl Desk {
    pub fn new(
        book: Arc<Book>,
        server: Server<Clerk>,
        counts: Arc<Counts>,
        file: Arc<ControllerFile>,
        cluster: Option<Cluster>,
        federation: Arc<Federation>,
        changed: Arc<Notify>,
    ) -> Self {
        let ready = Arc::default();
        Self { book, server, counts, file, cluster, federation, ready, changed }
    }

    pub fn is_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub async fn serve_unix(self, socket: AdminSocket, shutdown: CancellationToken) {
        let pages = public()
            .route("/nodes", get(nodes))
            .route("/trust", get(trust))
            .route("/trust/export", get(export))
            .route("/nodes/join", post(invite))
            .route("/nodes/remove", post(remove))
            .route("/trust/rotate", post(roots::rotate))
            .route("/trust/csr", post(roots::csr))
            .route("/trust/install", post(roots::install))
            .route("/trust/pause", post(pause))
            .route("/trust/resume", post(resume))
            .route("/trust/back", post(back))
            .route("/trust/force", post(force))
            .route("/trust/import", post(import))
            .route("/trust/remove", post(unfederate))
            .route("/trust/refresh", post(refresh))
            .route("/trust/quarantine", post(quarantine))
            .route("/trust/release", post(release))
            .layer(DefaultBodyLimit::max(limits::REQUEST_BYTES))
            .with_state(self);
        serve_pages_unix(socket, pages, shutdown).await;
    }

    pub async fn serve_tcp(self, listener: TcpListener, shutdown: CancellationToken) {
        serve_pages_tcp(listener, public().with_state(self), shutdown).await;
    }

    /// Changes the trust, and lets the nodes be told at once.
    async fn change<T: Send + 'static>(
        &self,
        act: impl FnOnce(
            &mut Store,
            &[martlet_authority::trust::Node],
            SystemTime,
        ) -> Result<T, TrustError>
        + Send
        + 'static,
    ) -> Result<T, No> {
        let (book, agents) = (self.book.clone(), self.server.agents());
        let done = spawn_blocking(move || {
            let said = book.said(&agents);
            book.with_store(|store| act(store, &said, SystemTime::now()))
        });
        let done = done.await.map_err(|_| broken())?;
        self.changed.notify_one();
        Ok(done?)
    }
}

fn public() -> Router<Desk> {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
}

fn broken() -> No {
    No(StatusCode::INTERNAL_SERVER_ERROR, "the controller failed to answer; see its log".to_owned())
}

fn of_cluster() -> No {
    let why = "the nodes are those of the cluster that have an agent; label or cordon them there";
    No(StatusCode::CONFLICT, why.to_owned())
}

async fn metrics_page(State(desk): State<Desk>) -> Response {
    let agents = desk.server.agents();
    let page = spawn_blocking(move || {
        let Desk { book, counts, cluster, federation, .. } = &desk;
        metrics::page(book, counts, &agents, cluster.as_ref(), federation)
    })
    .await;
    match page {
        Ok(page) => openmetrics(page),
        Err(_) => broken().into_response(),
    }
}

pub fn openmetrics(page: Result<String, std::fmt::Error>) -> Response {
    match page {
        Ok(page) => ([(header::CONTENT_TYPE, OPENMETRICS)], page).into_response(),
        Err(_) => broken().into_response(),
    }
}

async fn ready(State(desk): State<Desk>) -> Response {
    match desk.ready.load(Ordering::Acquire) {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\nstarting\n").into_response(),
    }
}

async fn nodes(State(desk): State<Desk>) -> Json<Nodes> {
    let agents = desk.server.agents();
    let trust_version = desk.book.trust().version;
    let version = desk.server.version();
    let by_name: HashMap<_, _> = agents.iter().map(|agent| (&agent.node, agent)).collect();
    let nodes = desk.book.nodes().into_iter().map(|(name, joined)| {
        let agent = by_name.get(&name).copied();
        let usage = agent.and_then(|agent| agent.usage.as_ref());
        NodeReport {
            name,
            joined,
            is_connected: agent.is_some_and(|agent| agent.is_connected),
            last_seen: agent.map(|agent| seconds(agent.last_seen)),
            agent_version: agent.map(|agent| agent.agent_version.clone()),
            version: agent.map(|agent| agent.acknowledged.version),
            trust_version: agent.map(|agent| agent.acknowledged.trust_version),
            error: agent.and_then(|agent| agent.acknowledged.error.clone()),
            leaves: usage.map_or(0, |usage| usage.leaves.values().sum()),
            connections: usage.map_or(0, |usage| usage.connections.values().sum()),
            clock: usage.and_then(|usage| usage.clock),
        }
    });
    let trust_domain = desk.book.trust_domain.clone();
    Json(Nodes { trust_domain, version, trust_version, nodes: nodes.collect() })
}

async fn invite(State(desk): State<Desk>, Json(asked): Json<Invite>) -> Answer<Invitation> {
    let Invite { node, valid_seconds } = asked;
    let lifetime = valid_seconds.map_or(limits::TOKEN_LIFETIME, Duration::from_secs);
    let (book, of, now) = (desk.book.clone(), node.clone(), SystemTime::now());
    let secret = spawn_blocking(move || {
        book.members().map(|mut members| members.invite(&of, lifetime, now))
    });
    let secret = secret.await.map_err(|_| broken())?.ok_or_else(of_cluster)?;
    let secret = secret.map_err(|error| No(StatusCode::CONFLICT, chain(&error)))?;
    let trust = desk.book.trust();
    let roots = trust.roots.get(&desk.book.trust_domain).cloned().unwrap_or_default();
    let pins = roots.iter().map(|der| RootPin::of(der)).collect();
    let token = JoinToken { node: node.clone(), pins, secret };
    info!(%node, valid = ?lifetime, "a join token was made");
    Ok(Json(Invitation {
        node,
        token: token.reveal().to_string(),
        expires: seconds(now + lifetime),
        trust_domain: desk.book.trust_domain.clone(),
        controller: desk.file.reached_at(),
    }))
}

async fn remove(State(desk): State<Desk>, Json(asked): Json<NodeName>) -> Answer<NodeName> {
    let (book, node) = (desk.book.clone(), asked.node.clone());
    let removed = spawn_blocking(move || book.members().map(|mut members| members.remove(&node)));
    let removed = removed.await.map_err(|_| broken())?.ok_or_else(of_cluster)?;
    removed.map_err(|error| No(StatusCode::CONFLICT, chain(&error)))?;
    desk.server.expel(&asked.node);
    let node = asked.node.clone();
    // Nobody waits for it any more.
    desk.change(move |store, _, _| store.forget(&node)).await?;
    info!(node = %asked.node, "a node was removed");
    Ok(Json(asked))
}

async fn trust(State(desk): State<Desk>) -> Response {
    let federation = desk.federation.clone();
    let report = move |store: &mut Store, said: &[_], now| {
        let report = store.report(said, now)?;
        Ok(TrustReport { endpoints: federation.report(store, now), ..report })
    };
    let report = desk.change(report).await;
    report.map(Json).into_response()
}

async fn pause(State(desk): State<Desk>) -> Answer<Advanced> {
    desk.change(|store, _, _| store.pause()).await?;
    info!("the rotation is paused");
    Ok(Json(Advanced::default()))
}

async fn resume(State(desk): State<Desk>) -> Answer<Advanced> {
    desk.change(|store, _, _| store.resume()).await?;
    info!("the rotation goes on");
    Ok(Json(Advanced::default()))
}

async fn back(State(desk): State<Desk>) -> Answer<Advanced> {
    desk.change(|store, _, now| store.back(now)).await?;
    info!("the rotation is taken back");
    Ok(Json(Advanced::default()))
}

async fn force(State(desk): State<Desk>) -> Answer<Advanced> {
    let broken = desk.change(|store, said, now| store.force(said, now)).await?;
    let broken: Vec<_> = broken.iter().map(ToString::to_string).collect();
    info!(?broken, "the rotation was forced on");
    Ok(Json(Advanced { broken }))
}

async fn export(State(desk): State<Desk>) -> Answer<Export> {
    let trust = desk.book.trust();
    let domain = desk.book.trust_domain.clone();
    let document = federate::published(&trust, &domain);
    let document = document.map_err(|error| No(StatusCode::CONFLICT, chain(&error)))?;
    Ok(Json(Export { trust_domain: domain, document }))
}

async fn import(State(desk): State<Desk>, Json(asked): Json<Import>) -> Answer<TrustDomain> {
    let Import { trust_domain, document, source } = asked;
    let document = BundleDocument::parse(document.as_bytes(), &trust_domain);
    let document = document.map_err(|error| No(StatusCode::BAD_REQUEST, chain(&error)))?;
    let BundleDocument { roots, sequence, refresh_hint } = document;
    let foreign = Foreign { roots, sequence, refresh_hint, fetched: SystemTime::now(), source };
    let domain = trust_domain.clone();
    desk.change(move |store, _, now| store.import(&domain, &foreign, now)).await?;
    info!(%trust_domain, "a bundle was imported");
    Ok(Json(trust_domain))
}

async fn unfederate(
    State(desk): State<Desk>,
    Json(asked): Json<Unfederate>,
) -> Answer<TrustDomain> {
    let domain = asked.trust_domain.clone();
    desk.change(move |store, _, now| store.remove(&domain, now)).await?;
    info!(trust_domain = %asked.trust_domain, "a trust domain is trusted no more");
    Ok(Json(asked.trust_domain))
}

/// Not only when its time has come.
async fn refresh(State(desk): State<Desk>, Json(asked): Json<Unfederate>) -> Answer<TrustDomain> {
    let looked = desk.federation.look(&asked.trust_domain).await;
    looked.map_err(|why| No(StatusCode::CONFLICT, why))?;
    Ok(Json(asked.trust_domain))
}

async fn quarantine(State(desk): State<Desk>, Json(asked): Json<CutOff>) -> Answer<Quarantine> {
    let CutOff { whom, reason } = asked;
    let (of, why) = (whom.clone(), reason.clone());
    desk.change(move |store, _, now| store.quarantine(of, &why, now)).await?;
    info!(%whom, reason, "cut off");
    Ok(Json(whom))
}

async fn release(State(desk): State<Desk>, Json(asked): Json<Release>) -> Answer<Quarantine> {
    let whom = asked.whom.clone();
    desk.change(move |store, _, now| store.release(&whom, now)).await?;
    info!(whom = %asked.whom, "released");
    Ok(Json(asked.whom))
}
