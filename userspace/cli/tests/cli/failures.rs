//! What is said when there is no agent, another one, or something that is none.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    fake::{FakeAgent, answering, ok, serving},
    fixtures::{reports, status},
    golden, run, stderr, stdout, without_version,
};

fn place() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("agent.sock");
    (directory, socket)
}

/// Each command fails, prints nothing, and says this and what to do.
#[track_caller]
fn fails(socket: &Path, command: &str, why: &str, hint: &str) {
    let output = run(socket, &[command]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    let said = stderr(&output);
    assert!(said.starts_with("error: ") && said.contains(why), "{said}");
    match hint {
        "" => assert!(!said.contains("hint:"), "{said}"),
        hint => assert!(said.lines().nth(1).unwrap().contains(hint), "{said}"),
    }
}

#[test]
fn without_a_socket_the_path_is_named() {
    let (_directory, socket) = place();
    let why = format!("there is no agent's socket at {}", socket.display());
    for command in ["status", "workloads", "connections", "certificates", "coverage", "records"] {
        fails(&socket, command, &why, "is martlet-agent running on this node?");
    }
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_martlet"));
    let output = command.arg("status").env("MARTLET_SOCKET", "/none/from-env").output().unwrap();
    assert!(stderr(&output).contains("at /none/from-env"), "{}", stderr(&output));
}

#[test]
fn a_socket_that_an_agent_left_behind_is_told_from_none() {
    let (_directory, socket) = place();
    drop(UnixListener::bind(&socket).unwrap());
    fails(&socket, "status", "no agent serves the socket", "systemctl start martlet-agent");
}

#[test]
fn a_user_without_permission_is_told_to_be_root() {
    let (directory, socket) = place();
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let binary = directory.path().join("martlet");
    // Not by this process: another test's child could hold the copy open for writing, and then it
    // cannot be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_martlet")).arg(&binary).status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(&binary);
    command.arg("--socket").arg(&socket).arg("status").current_dir("/");
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        // Root may open everything.
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("is not for this user") && said.contains("run this as root"), "{said}");
}

#[test]
fn a_check_without_an_agent_is_a_check_that_failed() {
    let (_directory, socket) = place();
    let output = run(&socket, &["check"]);
    assert_eq!(output.status.code(), Some(1));
    golden("check-no-agent", &stdout(&output).replace(socket.to_str().unwrap(), "SOCKET"));
    let output = run(&socket, &["check", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(json["success"], false);
    assert_eq!(json["categories"][0]["checks"][0]["result"], "error");
}

#[test]
fn an_agent_that_says_more_is_understood() {
    let (_directory, socket) = place();
    let mut more = serde_json::to_value(status()).unwrap();
    more["weather"] = "fine".into();
    more["hooks"][0]["color"] = 7.into();
    serving(&socket, move |_| ok(&more.to_string()));
    let output = run(&socket, &["status"]);
    assert!(output.status.success(), "{}", stderr(&output));
    golden("status", &without_version(stdout(&output)));
    let output = run(&socket, &["status", "-o", "json"]);
    assert!(stdout(&output).contains("\"weather\":\"fine\""), "{}", stdout(&output));
}

#[test]
fn an_agent_that_says_less_is_named_with_its_version() {
    let (_directory, socket) = place();
    serving(&socket, |request| match request.starts_with("GET /status ") {
        true => ok(r#"{"version":"9.9.9"}"#),
        false => ok(r#"{"workloads":[{"name":"x"}]}"#),
    });
    let ours = env!("CARGO_PKG_VERSION");
    let why = format!("the agent (9.9.9) says something that this martlet ({ours}) does not");
    for command in ["status", "workloads"] {
        fails(&socket, command, &why, "use the martlet that came with the agent");
    }
    fails(&socket, "status", "missing field `node`", "-o json");
    let output = run(&socket, &["workloads", "-o", "json"]);
    assert_eq!(stdout(&output), "{\"workloads\":[{\"name\":\"x\"}]}\n");
}

#[test]
fn texts_of_the_agent_cannot_write_to_the_terminal() {
    let (_directory, socket) = place();
    let mut hostile = status();
    hostile.ready = false;
    hostile.not_ready = vec!["a\u{1b}[2Jb\nsecond line".to_owned()];
    let hostile = serde_json::to_string(&hostile).unwrap();
    serving(&socket, move |_| ok(&hostile));
    let output = run(&socket, &["status"]);
    let first = stdout(&output).lines().next().unwrap();
    assert_eq!(first, "× one is not ready: a\u{fffd}[2Jb\u{fffd}second line");
}

#[test]
fn an_answer_that_is_no_agent_s_is_told_apart() {
    for (answer, why, hint) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..], "does not answer as an agent does", "node file"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
            "does not answer as an",
            "node file",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "does not know /status",
            "came with",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n{\"version",
            "broke off",
            "may have stopped",
        ),
        (b"", "broke off", "may have stopped"),
        (
            b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 12\r\n\r\nit\x1b[2J hurts",
            "the agent answered 500 Internal Server Error: it [2J hurts",
            "",
        ),
    ] {
        let (_directory, socket) = place();
        answering(&socket, answer);
        fails(&socket, "status", why, hint);
    }
}

#[test]
fn a_command_line_that_is_wrong_has_an_exit_code_of_its_own() {
    let agent = FakeAgent::start(reports());
    for arguments in [&["dance"][..], &["status", "-o", "yaml"], &["status", "--watch"], &[]] {
        assert_eq!(run(&agent.socket(), arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(run(&agent.socket(), &["--help"]).status.code(), Some(0));
    assert_eq!(run(&agent.socket(), &["--version"]).status.code(), Some(0));
}
