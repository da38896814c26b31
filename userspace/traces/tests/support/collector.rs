//! A played collector: OTLP over gRPC by its public messages, on a listener that it is given.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::oneshot,
};
use tonic::{Request, Response, Status};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(40);

/// What it does with spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code)]
pub enum Answer {
    Take,
    /// All but so many.
    Reject(i64),
    /// As malformed.
    Refuse,
    /// Never.
    Nothing,
}

/// A span, with what is said of the workload.
#[derive(Debug, Clone)]
pub struct Told {
    pub span: Span,
    resource: Vec<KeyValue>,
}

/// Ends when it is dropped.
pub struct Collector {
    address: SocketAddr,
    played: Played,
    _running: oneshot::Sender<()>,
}

#[derive(Clone)]
struct Played {
    answer: Answer,
    told: Arc<Mutex<Vec<Told>>>,
    connections: Arc<AtomicUsize>,
}

#[allow(dead_code)]
impl Collector {
    pub fn start(listener: TcpListener, answer: Answer) -> Self {
        Self::start_with(listener, answer, async |stream| Some(stream))
    }

    /// `secure` comes before HTTP/2; without a stream it has failed.
    pub fn start_with<S>(
        listener: TcpListener,
        answer: Answer,
        secure: impl AsyncFn(TcpStream) -> Option<S> + Send + 'static,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let address = listener.local_addr().expect("it is bound");
        let played = Played { answer, told: Arc::default(), connections: Arc::default() };
        let (running, ended) = oneshot::channel();
        let serving = played.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("there are threads");
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(listener, serving, secure) => {}
                    _ = ended => {}
                }
            });
        });
        Self { address, played, _running: running }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn connections(&self) -> usize {
        self.played.connections.load(Ordering::Relaxed)
    }

    pub fn told(&self) -> Vec<Told> {
        self.played.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first span of which this is true.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Told) -> bool) -> Told {
        until(what, || {
            let told = self.told();
            let found = told.iter().find(|told| wanted(told)).cloned();
            found.ok_or_else(|| told.iter().map(|told| format!("{}\n", told.line())).collect())
        })
    }
}

/// What there is at last; until then, what there is instead.
#[allow(dead_code)]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) if began.elapsed() > PATIENCE => {
                panic!("no {what} within {PATIENCE:?}, but {instead}")
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[allow(dead_code)]
impl Told {
    pub fn kind(&self) -> SpanKind {
        self.span.kind()
    }

    /// An attribute as text; empty if there is none.
    pub fn says(&self, key: &str) -> String {
        value(&self.span.attributes, key)
    }

    /// The same of its resource.
    pub fn of(&self, key: &str) -> String {
        value(&self.resource, key)
    }

    /// For people.
    fn line(&self) -> String {
        let says = |key| self.says(key);
        let (from, to) = (says("client.port"), says("server.port"));
        format!("{:?}: {from} to {to}, {}", self.kind(), says("martlet.closed"))
    }

    /// Code and message.
    pub fn status(&self) -> (i32, &str) {
        self.span.status.as_ref().map_or((0, ""), |status| (status.code, &status.message))
    }
}

fn value(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        _ => String::new(),
    }
}

async fn serve<S>(
    listener: TcpListener,
    played: Played,
    secure: impl AsyncFn(TcpStream) -> Option<S>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    listener.set_nonblocking(true).expect("it is a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("it is a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("it listens");
        played.connections.fetch_add(1, Ordering::Relaxed);
        let Some(stream) = secure(stream).await else { continue };
        let service = TowerToHyperService::new(TraceServiceServer::new(played.clone()));
        tokio::spawn(
            http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

#[tonic::async_trait]
impl TraceService for Played {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let partial = match self.answer {
            Answer::Take => None,
            Answer::Reject(rejected_spans) => {
                Some(ExportTracePartialSuccess { rejected_spans, ..Default::default() })
            }
            Answer::Refuse => return Err(Status::invalid_argument("no such thing")),
            Answer::Nothing => std::future::pending().await,
        };
        let told = request.into_inner().resource_spans.into_iter().flat_map(|spans| {
            let resource = spans.resource.unwrap_or_default().attributes;
            let all = spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            all.map(move |span| Told { span, resource: resource.clone() }).collect::<Vec<_>>()
        });
        self.told.lock().unwrap_or_else(PoisonError::into_inner).extend(told);
        Ok(Response::new(ExportTraceServiceResponse { partial_success: partial }))
    }
}
