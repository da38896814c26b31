//! The pages for people as golden texts, and the JSON for programs as the agent gave it.

use std::process::Command;

use martlet_model::report::{LeafReport, Status};

use crate::{
    fake::{FakeAgent, Fixed},
    fixtures::{denied, not_ready, nothing, record, reports, status, troubled},
    golden, martlet, run, stderr, stdout,
    streams::until_kept,
    without_version,
};

/// Runs a command that succeeds, and compares what it prints.
#[track_caller]
fn page(reports: Fixed, command: &str, name: &str) {
    let agent = FakeAgent::start(reports);
    let output = run(&agent.socket(), &[command]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    golden(name, &without_version(stdout(&output)));
}

#[test]
fn status_of_a_node_that_is_ready() {
    page(reports(), "status", "status");
}

#[test]
fn status_of_a_node_that_is_not_ready_says_why_in_the_first_line() {
    page(Fixed { status: not_ready(), ..reports() }, "status", "status-not-ready");
}

#[test]
fn workloads_with_the_reason_of_one_that_failed() {
    page(reports(), "workloads", "workloads");
}

#[test]
fn connections_with_both_identities() {
    page(reports(), "connections", "connections");
}

#[test]
fn coverage_begins_with_what_is_not_encrypted_and_ends_with_a_verdict() {
    page(reports(), "coverage", "coverage");
}

#[test]
fn coverage_of_some_pairs_is_of_no_others() {
    let agent = FakeAgent::start(reports());
    let lines = |arguments: &[&str]| {
        let output = run(&agent.socket(), &[&["coverage"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        // A header, an empty line and the verdict.
        stdout(&output).lines().count().saturating_sub(3)
    };
    for (arguments, pairs) in [
        (&["--workload", "shop/cart-0"][..], 3),
        (&["--workload", "cart-0"], 0),
        (&["--namespace", "shop"], 7),
        (&["--namespace", "pay"], 0),
        (&["--only", "plaintext"], 2),
        (&["--only", "plaintext", "--only", "unseen"], 3),
        (&["--only", "strict"], 1),
        (&["--only", "mtls", "--workload", "shop/cart-0"], 2),
    ] {
        assert_eq!(lines(arguments), pairs, "{arguments:?}");
    }
    let json = run(&agent.socket(), &["coverage", "--only", "strict", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!(json["pairs"].as_array().unwrap().len(), 1);
    assert_eq!(json["pairs"][0]["from"], "private");
}

#[test]
fn coverage_fails_on_what_it_was_told_to_fail_on() {
    let agent = FakeAgent::start(reports());
    let code = |arguments: &[&str]| {
        run(&agent.socket(), &[&["coverage"], arguments].concat()).status.code()
    };
    for kind in ["plaintext", "unseen", "other", "refused", "other-refused", "strict", "mtls"] {
        assert_eq!(code(&["--fail-on", kind]), Some(1), "{kind}");
    }
    assert_eq!(code(&[]), Some(0));
    // Of what is asked for only.
    assert_eq!(code(&["--fail-on", "plaintext", "--workload", "shop/cart-0"]), Some(0));
    assert_eq!(
        code(&["--fail-on", "plaintext", "--fail-on", "other", "--namespace", "pay"]),
        Some(0)
    );
    assert_eq!(code(&["--fail-on", "nonsense"]), Some(2));
    let agent = FakeAgent::start(nothing());
    let output = run(&agent.socket(), &["coverage", "--fail-on", "plaintext"]);
    assert_eq!(output.status.code(), Some(0), "there is none");
}

#[test]
fn certificates_with_time_left_renewal_and_fingerprints() {
    page(reports(), "certificates", "certificates");
}

#[test]
fn one_workloads_certificates_are_shown_with_all_that_they_say() {
    let agent = FakeAgent::start(reports());
    let output = run(&agent.socket(), &["certificates", "shop/web-0"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let page = stdout(&output);
    for said in [
        "leaf\n  subject      CN=shop/web-0\n  identity     spiffe://demo.example/ns/shop/sa/web\n",
        "\nissuer\n  subject      CN=demo.example issuer\n",
        "  serial       01\n",
        "(in 10d)\n",
        "\nrenewed in 4d\n",
    ] {
        assert!(page.contains(said), "{said:?} is not in:\n{page}");
    }
    assert!(!page.contains("cart"), "{page}");
    let json = run(&agent.socket(), &["certificates", "shop/cart-0", "--output", "json"]);
    let leaf: LeafReport = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!(leaf.workload.to_string(), "shop/cart-0");
}

#[test]
fn certificates_of_a_workload_that_is_not_here_are_an_error() {
    let agent = FakeAgent::start(reports());
    let output = run(&agent.socket(), &["certificates", "shop/nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("this node has no workload shop/nobody"));
}

#[test]
fn check_of_a_node_that_is_well() {
    page(reports(), "check", "check");
}

#[test]
fn check_of_a_node_in_trouble_fails_and_gives_hints() {
    let agent = FakeAgent::start(Fixed { check: troubled(), ..reports() });
    let output = run(&agent.socket(), &["check"]);
    assert_eq!(output.status.code(), Some(1));
    golden("check-trouble", stdout(&output));
    let json = run(&agent.socket(), &["check", "-o", "json"]);
    assert_eq!(json.status.code(), Some(1));
}

#[test]
fn warnings_alone_do_not_fail_a_check() {
    let mut check = troubled();
    check.success = true;
    check.categories.remove(0);
    let agent = FakeAgent::start(Fixed { check, ..reports() });
    let output = run(&agent.socket(), &["check"]);
    assert!(output.status.success());
    assert!(stdout(&output).ends_with("‼ 1 to look at, no errors\n"), "{}", stdout(&output));
}

#[test]
fn records_oldest_first() {
    let agent = FakeAgent::start(reports());
    agent.ended(record());
    agent.ended(denied());
    until_kept(&agent, 2);
    let output = run(&agent.socket(), &["records"]);
    golden("records", &without_times(stdout(&output)));
}

/// Records carry the time at which they were taken.
pub fn without_times(page: &str) -> String {
    const SHAPE: &str = "2026-11-26T07:04:05.678Z";
    let line = |line: &str| match line.split_once(' ') {
        Some((time, rest)) if time.len() == SHAPE.len() && time.ends_with('Z') => {
            format!("{SHAPE} {rest}\n")
        }
        _ => format!("{line}\n"),
    };
    page.lines().map(line).collect()
}

#[test]
fn an_agent_with_nothing_to_tell_says_that() {
    let agent = FakeAgent::start(nothing());
    let commands =
        ["status", "workloads", "connections", "certificates", "coverage", "check", "records"];
    let pages: String = commands
        .iter()
        .map(|command| {
            format!("$ martlet {command}\n{}", stdout(&run(&agent.socket(), &[command])))
        })
        .collect();
    golden("nothing", &without_version(&pages));
}

#[test]
fn json_is_what_the_agent_said() {
    let reports = reports();
    let agent = FakeAgent::start(reports.clone());
    let said = |json: serde_json::Result<String>| json.unwrap() + "\n";
    for (command, wanted) in [
        ("status", said(serde_json::to_string(&reports.status))),
        ("workloads", said(serde_json::to_string(&reports.workloads))),
        ("connections", said(serde_json::to_string(&reports.connections))),
        ("coverage", said(serde_json::to_string(&reports.coverage))),
        ("certificates", said(serde_json::to_string(&reports.certificates))),
        ("check", said(serde_json::to_string(&reports.check))),
        ("records", "[]\n".to_owned()),
    ] {
        let output = run(&agent.socket(), &[command, "-o", "json"]);
        assert!(output.status.success(), "{command}");
        assert_eq!(stdout(&output), wanted, "{command}");
    }
}

#[test]
fn colors_are_for_terminals() {
    let agent = FakeAgent::start(Fixed { status: not_ready(), ..reports() });
    let colored = |command: &mut Command| {
        let output = command.arg("status").output().unwrap();
        assert!(output.status.success());
        output.stdout.contains(&0x1b)
    };
    assert!(!colored(&mut martlet(&agent.socket())));
    assert!(colored(martlet(&agent.socket()).env("CLICOLOR_FORCE", "1")));
    assert!(on_a_terminal(&agent, "status", &[]).contains('\u{1b}'));
    assert!(!on_a_terminal(&agent, "status", &[("NO_COLOR", "1")]).contains('\u{1b}'));
}

#[test]
fn json_on_a_terminal_is_indented() {
    let agent = FakeAgent::start(reports());
    let shown = on_a_terminal(&agent, "status -o json", &[]);
    assert!(shown.lines().nth(1).unwrap().starts_with("  \"version\": "), "{shown}");
    assert_eq!(serde_json::from_str::<Status>(&shown).unwrap(), status());
}

#[test]
fn a_pipe_has_no_width() {
    let mut wide = reports();
    let name = format!("{}-0", "w".repeat(200));
    wide.workloads.workloads[0].name.name = name.parse().unwrap();
    let agent = FakeAgent::start(wide);
    let output = martlet(&agent.socket()).arg("workloads").env("COLUMNS", "20").output().unwrap();
    let row = stdout(&output).lines().nth(1).unwrap();
    assert!(row.contains(&name) && row.contains("fd00:1::2"), "{row}");
}

/// What appears on a terminal that `script` makes.
fn on_a_terminal(agent: &FakeAgent, arguments: &str, environment: &[(&str, &str)]) -> String {
    let binary = env!("CARGO_BIN_EXE_martlet");
    let line = format!("{binary} --socket {} {arguments}", agent.socket().display());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm");
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        script.env_remove(name);
    }
    let output = script.envs(environment.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).replace("\r\n", "\n")
}
