//! A played API server: it lists what it is given, and runs programs in "pods" as `exec` does. Its
//! pods are agents of these tests; the program in them is the real `martlet relay`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

/// What it knows.
#[derive(Default)]
pub struct Objects {
    /// By path, without what comes after `?`; of pods, by the name that is selected; of logs, by the
    /// container.
    pub answers: BTreeMap<String, Value>,
    /// The sockets in pods, by the pods' names.
    pub sockets: BTreeMap<String, PathBuf>,
    /// What runs in a pod instead of `martlet relay`: a line for its shell.
    pub programs: BTreeMap<String, String>,
    /// Pods the connection to whose program breaks before it is said how it ended.
    pub cut: BTreeSet<String>,
}

/// Runs until the process of the test ends.
pub struct Api {
    directory: TempDir,
}

impl Api {
    pub fn start(objects: Objects) -> Self {
        let directory = TempDir::new().unwrap();
        let (bound, port) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap().port()).unwrap();
                let objects = Arc::new(objects);
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(stream, objects.clone()));
                }
            });
        });
        let port = port.recv().unwrap();
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: played\n\
             clusters: [{{name: played, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n\
             users: [{{name: played, user: {{}}}}]\n\
             contexts: [{{name: played, context: {{cluster: played, user: played}}}}]\n"
        );
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig).unwrap();
        Self { directory }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// A pod of ours whose program runs.
pub fn pod(name: &str, node: &str) -> Value {
    let state = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    pod_in(name, node, &state)
}

pub fn pod_in(name: &str, node: &str, state: &Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "martlet-system"},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "martlet:1"}]},
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "main", "image": "", "imageID": "", "restartCount": 0,
            "ready": state.get("running").is_some(), "state": state,
        }]},
    })
}

pub fn list(kind: &str, version: &str, items: Vec<Value>) -> Value {
    json!({"kind": kind, "apiVersion": version, "metadata": {}, "items": items})
}

async fn serve(stream: TcpStream, objects: Arc<Objects>) {
    let mut head = [0; 8192];
    let head = loop {
        let length = stream.peek(&mut head).await.unwrap_or(0);
        let text = String::from_utf8_lossy(&head[..length]).into_owned();
        if length == 0 || text.contains("\r\n\r\n") {
            break text;
        }
        tokio::task::yield_now().await;
    };
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    match target.split_once("/exec?") {
        Some((path, _)) => {
            let pod = path.rsplit('/').next().unwrap_or_default().to_owned();
            exec(stream, &objects, &pod, &target).await;
        }
        None => answer(stream, &objects, &head, &target).await,
    }
}

async fn answer(mut stream: TcpStream, objects: &Objects, head: &str, target: &str) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let selected = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
    let selected = selected.and_then(|selector| selector.rsplit_once("%3D"));
    let container = query.split('&').find_map(|part| part.strip_prefix("container="));
    let path = match selected {
        _ if path.ends_with("/log") => format!("{path}?{}", container.unwrap_or_default()),
        Some((_, name)) if path.ends_with("/pods") => format!("{path}?{name}"),
        _ => path.to_owned(),
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
    });
    let mut all = vec![0; head.find("\r\n\r\n").unwrap_or(0) + 4 + length.unwrap_or(0)];
    let _ = stream.read_exact(&mut all).await;
    let (status, body) = match objects.answers.get(&path) {
        Some(body) => ("200 OK", body.clone()),
        None => (
            "404 Not Found",
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": format!("there is no {path}")}),
        ),
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all((head + &body).as_bytes()).await;
}

/// Channels of `v4.channel.k8s.io`: the first byte of each message.
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const STATUS: u8 = 3;

async fn exec(stream: TcpStream, objects: &Objects, pod: &str, target: &str) {
    #[allow(clippy::result_large_err)]
    fn protocol(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        let protocol = "v4.channel.k8s.io".parse().unwrap();
        response.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        Ok(response)
    }
    let mut stream = accept_hdr_async(stream, protocol).await.unwrap();
    let whose = target.split("command=").filter_map(|part| part.split('&').next()).last();
    let mut program = program(objects, pod, whose.unwrap_or_default());
    let (send, mut said) = mpsc::channel(16);
    let output = program.stdout.take().unwrap();
    let errors = program.stderr.take().unwrap();
    let listening = [listen(output, OUTPUT, send.clone()), listen(errors, ERRORS, send.clone())];
    let mut input = program.stdin.take();
    let is_cut = objects.cut.contains(pod);
    thread::spawn(move || {
        listening.into_iter().for_each(|one| one.join().unwrap());
        let status = match program.wait().unwrap().code() {
            Some(0) => json!({"status": "Success"}),
            code => json!({"status": "Failure",
                "message": format!("command terminated with exit code {}", code.unwrap_or(-1))}),
        };
        if !is_cut {
            let _ = send.blocking_send([&[STATUS], status.to_string().as_bytes()].concat());
        }
    });
    loop {
        tokio::select! {
            bytes = said.recv() => match bytes {
                Some(bytes) => {
                    if stream.send(Message::binary(bytes)).await.is_err() {
                        break;
                    }
                }
                None => break,
            },
            message = stream.next() => match message {
                Some(Ok(Message::Binary(bytes))) if bytes.len() > 1 => {
                    if let Some(input) = &mut input {
                        let _ = input.write_all(&bytes[1..]).and_then(|()| input.flush());
                    }
                }
                Some(Ok(_)) => {}
                _ => break,
            },
        }
    }
    // The program's input ends with the connection.
    drop(input);
}

fn program(objects: &Objects, pod: &str, whose: &str) -> Child {
    let mut command = match objects.programs.get(pod) {
        Some(line) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", line]);
            shell
        }
        None => {
            let mut martlet = Command::new(env!("CARGO_BIN_EXE_martlet"));
            let socket = objects.sockets.get(pod).cloned().unwrap_or_default();
            martlet.env("MARTLET_SOCKET", &socket).env("MARTLET_CONTROLLER_SOCKET", &socket);
            martlet.args(["relay", whose]);
            martlet
        }
    };
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn listen(
    mut from: impl std::io::Read + Send + 'static,
    channel: u8,
    to: mpsc::Sender<Vec<u8>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let message = [&[channel], &buffer[..length]].concat();
            if to.blocking_send(message).is_err() {
                break;
            }
        }
    })
}
