//! What takes too long, and what is too long. The other failures are in tests/cli.

use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::UnixListener, task::JoinHandle};

use super::*;

/// Accepts one connection, writes what it is given, and keeps the connection open.
fn served(pieces: Vec<&'static [u8]>) -> (TempDir, Agent, JoinHandle<()>) {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for piece in pieces {
            // The client may have had enough.
            let _ = stream.write_all(piece).await;
        }
        std::future::pending::<()>().await;
    });
    (directory, Agent::at(socket), task)
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Time is paused: it jumps to the deadline when nothing else is to do.
#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_is_given_up() {
    let begun_only: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\":";
    for pieces in [vec![], vec![begun_only]] {
        let (_directory, agent, _task) = served(pieces);
        let error = agent.ask("/status").await.unwrap_err();
        assert!(matches!(error, AgentError::Silent), "{error:?}");
    }
    let (_directory, agent, _task) = served(vec![]);
    assert!(matches!(agent.follow("/records?follow").await, Err(AgentError::Silent)));
}

#[tokio::test]
async fn a_line_without_an_end_is_given_up() {
    const CHUNK: &[u8] = b"8\r\naaaaaaaa\r\n";
    let mut pieces = vec![HEAD];
    pieces.extend(std::iter::repeat_n(CHUNK, limits::LINE_BYTES / 8 + 2));
    let (_directory, agent, _task) = served(pieces);
    let mut lines = agent.follow("/records?follow").await.unwrap();
    assert!(matches!(lines.next().await, Err(AgentError::TooLong)));
}

#[tokio::test]
async fn lines_are_found_however_they_are_cut() {
    let end: &[u8] = b"0\r\n\r\n";
    let (_directory, agent, _task) =
        served(vec![HEAD, b"3\r\none\r\n", b"6\r\n\ntwo\nt\r\n", b"5\r\nhree\n\r\n", end]);
    let mut lines = agent.follow("/records?follow").await.unwrap();
    for wanted in ["one", "two", "three"] {
        assert_eq!(lines.next().await.unwrap().unwrap(), wanted.as_bytes());
    }
    assert_eq!(lines.next().await.unwrap(), None);
}
