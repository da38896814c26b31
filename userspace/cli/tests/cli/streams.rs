//! Commands that go on until they are told to stop.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    time::Instant,
};

use crate::{
    DEADLINE,
    fake::FakeAgent,
    fixtures::{denied, record, reports},
    golden, martlet,
    pages::without_times,
    run, stdout,
};

/// A `martlet` that runs, and the lines that it prints.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let (to, lines) = mpsc::channel();
        std::thread::spawn(move || {
            // Ends with the child, or with a test that has seen enough.
            from.lines().map_while(Result::ok).try_for_each(|line| to.send(line))
        });
        Self { child, lines }
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line")
    }

    fn end(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(started.elapsed() < DEADLINE, "it did not end");
        std::thread::yield_now();
    }
}

/// Waits until the agent has so many records.
pub fn until_kept(agent: &FakeAgent, count: usize) {
    let started = Instant::now();
    loop {
        let output = run(&agent.socket(), &["records", "-o", "json"]);
        let kept: Vec<serde_json::Value> = serde_json::from_str(stdout(&output)).unwrap();
        if kept.len() == count {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "{} of {count} records", kept.len());
    }
}

#[test]
fn records_are_followed_until_the_agent_stops() {
    let agent = FakeAgent::start(reports());
    agent.ended(record());
    until_kept(&agent, 1);
    let mut running = Running::start(martlet(&agent.socket()).args(["records", "--follow"]));
    let mut page = format!("{}\n{}\n", running.line(), running.line());
    agent.ended(denied());
    page.push_str(&running.line());
    golden("records-follow", &without_times(&page));
    drop(agent);
    assert!(running.end().success());
}

#[test]
fn records_are_followed_as_one_json_object_a_line() {
    let agent = FakeAgent::start(reports());
    let json = ["records", "--follow", "-o", "json"];
    let running = Running::start(martlet(&agent.socket()).args(json));
    agent.ended(record());
    let line: serde_json::Value = serde_json::from_str(&running.line()).unwrap();
    assert_eq!(line["closed"], "finished");
}

#[test]
fn a_reader_that_leaves_ends_it_without_a_complaint() {
    let agent = FakeAgent::start(reports());
    let mut command = martlet(&agent.socket());
    command.args(["records", "--follow"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < DEADLINE, "it did not end");
        agent.ended(record());
        std::thread::yield_now();
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn connections_are_watched_page_by_page() {
    let agent = FakeAgent::start(reports());
    let running = Running::start(martlet(&agent.socket()).args(["connections", "--watch"]));
    let page = |running: &Running| -> Vec<String> { (0..6).map(|_| running.line()).collect() };
    let first = page(&running);
    assert!(first[0].starts_with("AGE "), "{first:?}");
    assert_eq!(first[5], "", "pages are apart");
    assert_eq!(page(&running), first);
}

#[test]
fn watching_ends_with_the_agent() {
    let agent = FakeAgent::start(reports());
    let json = ["connections", "--watch", "-o", "json"];
    let mut running = Running::start(martlet(&agent.socket()).args(json));
    assert!(running.line().starts_with("{\"connections\":["));
    drop(agent);
    assert_eq!(running.end().code(), Some(1));
}
