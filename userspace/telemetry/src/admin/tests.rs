//! The admin endpoints over real sockets: what they answer, and whom they don't wait for.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
};

use martlet_model::report::{Status, TimedRecord};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    task::{JoinHandle, yield_now},
    time::{Duration, Instant, timeout},
};

use super::*;
use crate::fixtures::{DEADLINE, Fixed, record, status};

const PUBLIC: &[&str] = &["/metrics", "/healthz", "/readyz"];
const PRIVATE: &[&str] =
    &["/status", "/workloads", "/connections", "/certificates", "/check", "/records"];

fn admin(status: Status) -> Admin {
    let reports = Arc::new(Fixed { status });
    Admin { reports, metrics: Arc::default(), recent: Recent::default() }
}

/// Served at once, on both kinds of listener.
struct Served {
    directory: TempDir,
    address: SocketAddr,
    admin: Admin,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

fn serve(status: Status) -> Served {
    let directory = TempDir::new().unwrap();
    let admin = admin(status);
    let shutdown = CancellationToken::new();
    let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = tcp.local_addr().unwrap();
    let unix = bind_socket(&directory.path().join("agent.sock")).unwrap();
    let tasks = vec![
        tokio::spawn(admin.clone().serve_tcp(tcp, shutdown.clone())),
        tokio::spawn(admin.clone().serve_unix(unix, shutdown.clone())),
    ];
    Served { directory, address, admin, shutdown, tasks }
}

impl Served {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    async fn unix(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn public(&self, request: &str) -> Answer {
        ask(self.tcp().await, request).await
    }

    async fn private(&self, request: &str) -> Answer {
        ask(self.unix().await, request).await
    }

    /// Ends it, and waits for that.
    async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            timeout(DEADLINE, task).await.expect("it stops").unwrap();
        }
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// Sends `GET /path` or the like, and reads until the end.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    let request = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    // An answer may come before the request was read, for one that is too long.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an answer");
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Reads until the text has come.
async fn read_until(stream: &mut UnixStream, wanted: &str) -> String {
    let mut read = String::new();
    let mut piece = [0; 4096];
    while !read.contains(wanted) {
        let count = timeout(DEADLINE, stream.read(&mut piece)).await.expect(wanted).unwrap();
        assert!(count > 0, "ended before {wanted}: {read}");
        read.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    read
}

async fn follow(served: &Served) -> UnixStream {
    let mut stream = served.unix().await;
    stream.write_all(b"GET /records?follow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    stream
}

fn timed() -> TimedRecord {
    TimedRecord { time: "2026-11-26T07:04:05.678Z".to_owned(), record: record() }
}

#[tokio::test]
async fn every_report_is_one_json_object() {
    let served = serve(status());
    for path in PRIVATE {
        let answer = served.private(&format!("GET {path}")).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap();
    }
    let answer = served.private("GET /status").await;
    assert_eq!(serde_json::from_str::<Status>(&answer.body).unwrap(), status());
}

#[tokio::test]
async fn metrics_are_in_the_open_metrics_format() {
    let answer = serve(status()).public("GET /metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(answer.body.contains("\nmartlet_ready 1\n"));
    assert!(answer.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn an_agent_that_is_not_ready_is_healthy_and_says_why() {
    let mut waiting = status();
    waiting.ready = false;
    waiting.not_ready = vec!["no certificate for shop/web-0".into(), "sk_lookup is missing".into()];
    let served = serve(waiting);
    let answer = served.public("GET /readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "not ready\nno certificate for shop/web-0\nsk_lookup is missing\n");
    assert_eq!(served.public("GET /healthz").await.status, 200);
}

#[tokio::test]
async fn an_agent_that_is_ready_says_so() {
    let answer = serve(status()).public("GET /readyz").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ready\n"));
}

#[tokio::test]
async fn nothing_but_reading_is_allowed_on_any_path() {
    let served = serve(status());
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        for path in PUBLIC.iter().chain(&["/", "/none"]) {
            let answer = served.public(&format!("{method} {path}")).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
        }
        for path in PRIVATE.iter().chain(&["/", "/none"]) {
            let answer = served.private(&format!("{method} {path}")).await;
            assert_eq!(answer.status, 405, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_head_has_no_body() {
    let answer = serve(status()).private("HEAD /status").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
}

#[tokio::test]
async fn the_reports_are_not_on_the_public_address_nor_the_other_way_round() {
    let served = serve(status());
    for path in PRIVATE {
        assert_eq!(served.public(&format!("GET {path}")).await.status, 404, "{path}");
    }
    for path in PUBLIC {
        assert_eq!(served.private(&format!("GET {path}")).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn hostile_paths_are_refused_and_leave_the_server_working() {
    let served = serve(status());
    let long = format!("/{}", "a".repeat(1 << 20));
    for path in [
        "/status/",
        "//status",
        "/../status",
        "/%2e%2e/status",
        "/status%00",
        "/STATUS",
        "/%ff",
        "/status;x",
        "/records/../status",
        "*",
        "status",
        "",
        "/\u{0}",
        "/st atus",
        &long,
    ] {
        let answer = served.private(&format!("GET {path}")).await;
        let shown = &path[..path.len().min(30)];
        // Zero: the connection was closed without an answer.
        assert!(matches!(answer.status, 0 | 400..500), "{shown}: {}", answer.status);
    }
    for query in ["?follow=false", "?follow&x", "?%66ollow", "?limit=99999999999999999999"] {
        assert_eq!(served.private(&format!("GET /records{query}")).await.status, 400, "{query}");
    }
    assert_eq!(served.private("GET /status").await.status, 200);
}

#[tokio::test]
async fn what_is_not_http_is_closed() {
    let served = serve(status());
    let mut stream = served.unix().await;
    stream.write_all(&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3, 13, 10, 13, 10]).await.unwrap();
    let mut answer = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an end").unwrap();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    assert_eq!(served.private("GET /status").await.status, 200);
}

/// Time is paused: it jumps to the next deadline whenever nothing else is to do.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_request_is_cut_off() {
    let served = serve(status());
    for sent in ["", "GET /status HT", "GET /status HTTP/1.1\r\nHost: a\r\nX-Slow: "] {
        for slow in [true, false] {
            let began = Instant::now();
            let ended = match slow {
                true => wait_for_the_end(served.tcp().await, sent).await,
                false => wait_for_the_end(served.unix().await, sent).await,
            };
            assert!(ended, "{sent:?} was not cut off");
            assert!(began.elapsed() < limits::ADMIN_TCP_CONNECTION, "{sent:?}");
        }
    }
}

async fn wait_for_the_end(mut stream: impl AsyncRead + AsyncWrite + Unpin, sent: &str) -> bool {
    stream.write_all(sent.as_bytes()).await.unwrap();
    let hour = Duration::from_secs(3600);
    timeout(hour, stream.read_to_end(&mut Vec::new())).await.is_ok()
}

#[tokio::test]
async fn more_clients_than_there_is_room_for_wait_for_their_turn() {
    let served = serve(status());
    let mut inside = Vec::new();
    for _ in 0..limits::ADMIN_CONNECTIONS {
        inside.push(follow(&served).await);
    }
    let mut outside = served.unix().await;
    outside.write_all(b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // The server shares this thread: it gets all the turns it could want.
    for _ in 0..10_000 {
        yield_now().await;
    }
    let early = outside.try_read(&mut [0; 16]).unwrap_err();
    assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
    // Whoever is inside is served all the same.
    served.admin.recent.push(timed());
    for stream in &mut inside {
        read_until(stream, "0000000000001234").await;
    }
    drop(inside.pop());
    // A follower that left is noticed when there is something to tell it.
    served.admin.recent.push(timed());
    read_until(&mut outside, "200 OK").await;
}

#[tokio::test]
async fn a_follower_gets_what_was_kept_and_then_what_comes_until_the_end() {
    let served = serve(status());
    served.admin.recent.push(timed());
    let mut stream = follow(&served).await;
    let mut second = timed();
    second.record.id = martlet_model::ConnectionId(0xbeef);
    served.admin.recent.push(second);
    read_until(&mut stream, "000000000000beef").await;
    let socket = served.socket();
    assert!(socket.exists());
    served.stop().await;
    let mut rest = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut rest)).await.expect("an end").unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream ends in order: {rest:?}");
    assert!(!socket.exists(), "the socket is removed");
}

#[tokio::test]
async fn the_socket_and_its_directory_are_for_the_owner_only() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("run/martlet/agent.sock");
    let _socket = bind_socket(&path).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("agent.sock");
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists());
    let _socket = bind_socket(&path).unwrap();
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_live_socket_is_refused_even_if_its_queue_is_full() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("agent.sock");
    let live = bind_socket(&path).unwrap();
    let refused = bind_socket(&path).unwrap_err();
    assert!(matches!(refused, AdminError::Served(_)), "{refused:?}");
    // Nobody accepts: fill the queue until it takes no more.
    let mut waiting = Vec::new();
    loop {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.set_nonblocking(true).unwrap();
        if socket.connect(&socket2::SockAddr::unix(&path).unwrap()).is_err() {
            break;
        }
        waiting.push(socket);
    }
    let refused = bind_socket(&path).unwrap_err();
    assert!(matches!(refused, AdminError::Served(_)), "{refused:?}");
    drop(live);
}

#[tokio::test]
async fn what_is_not_a_socket_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let (file, link) = (directory.path().join("file"), directory.path().join("link"));
    fs::write(&file, "precious").unwrap();
    symlink(&file, &link).unwrap();
    for path in [&file, &link] {
        let refused = bind_socket(path).unwrap_err();
        assert!(matches!(refused, AdminError::NotASocket(_)), "{refused:?}");
    }
    assert!(matches!(bind_socket(directory.path()), Err(AdminError::NotASocket(_))));
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
}

#[tokio::test]
async fn a_socket_of_somebody_else_is_not_removed_at_the_end() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("agent.sock");
    let ours = bind_socket(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _theirs = StdListener::bind(&path).unwrap();
    drop(ours);
    assert!(path.exists());
}

#[tokio::test]
async fn paths_and_addresses_that_cannot_be_taken_are_named() {
    let long = PathBuf::from(format!("/tmp/{}", "a".repeat(200)));
    assert!(matches!(bind_socket(&long), Err(AdminError::Socket { .. })));
    let proc = bind_socket(Path::new("/proc/none/agent.sock"));
    assert!(matches!(proc, Err(AdminError::Directory { .. })));
    let taken = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let again = bind_tcp(taken.local_addr().unwrap()).unwrap_err();
    assert!(again.to_string().starts_with("listening on 127.0.0.1:"), "{again}");
}
