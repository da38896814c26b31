//! What a scrape shows, and what it never shows.

mod queries;

use std::net::{IpAddr, SocketAddr};

use martlet_model::{Closed, Skew, report::ControllerReport};

use super::*;
use crate::fixtures::{
    certificates, counter, record, refused, same_as_page, status, totals, workload,
};

fn scrape(metrics: &Metrics) -> String {
    metrics.scrape(&status(), &certificates(), &totals()).unwrap()
}

/// Every metric has been counted once.
fn busy() -> Metrics {
    let metrics = Metrics::new("0.1.0");
    metrics.connection_closed(&record());
    metrics.connection_closed(&refused());
    metrics
}

#[track_caller]
fn shows(page: &str, line: &str) {
    assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
}

#[test]
fn the_names_are_these() {
    let all = page::labels_of_all(&scrape(&busy()));
    let names: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
    let wanted = [
        "martlet_build_info",
        "martlet_ready",
        "martlet_workloads",
        "martlet_connections_opened_total",
        "martlet_connections_closed_total",
        "martlet_live_connections",
        "martlet_connection_duration_seconds",
        "martlet_sent_bytes_total",
        "martlet_received_bytes_total",
        "martlet_plaintext_connections_total",
        "martlet_fails_open",
        "martlet_controller_lost_timestamp_seconds",
        "martlet_clock_ahead_seconds",
        "martlet_failed_open_connections_total",
        "martlet_handshakes_total",
        "martlet_handshake_failures_total",
        "martlet_lanes_taken_total",
        "martlet_idle_lanes",
        "martlet_records_dropped_total",
        "martlet_spans_exported_total",
        "martlet_spans_dropped_total",
        "martlet_certificate_expiry_timestamp_seconds",
        "martlet_workload_api_calls_total",
        "martlet_certificate_renewals_total",
        "martlet_configuration_reloads_total",
        "martlet_repairs_total",
        "martlet_takeovers_total",
        "martlet_predecessor_connections",
        "martlet_hook_attached",
        "martlet_hook_verdicts_total",
        "martlet_coverage_bytes_total",
        "martlet_coverage_connections_total",
        "martlet_coverage_packets_total",
    ];
    assert_eq!(names, wanted);
}

#[test]
fn the_page_in_docs_is_what_the_registry_says() {
    same_as_page("metrics.md", &page::page(&scrape(&busy())));
}

#[test]
fn counters_that_alerts_watch_exist_from_the_start() {
    let metrics = Metrics::default();
    let mut quiet = status();
    quiet.counters.clear();
    let page = metrics.scrape(&quiet, &certificates(), &Totals::default()).unwrap();
    for line in [
        "martlet_plaintext_connections_total{direction=\"inbound\"} 0",
        "martlet_plaintext_connections_total{direction=\"outbound\"} 0",
        "martlet_failed_open_connections_total{direction=\"inbound\"} 0",
        "martlet_failed_open_connections_total{direction=\"outbound\"} 0",
        "martlet_certificate_renewals_total{result=\"success\"} 0",
        "martlet_certificate_renewals_total{result=\"failure\"} 0",
        "martlet_configuration_reloads_total{result=\"success\"} 0",
        "martlet_configuration_reloads_total{result=\"failure\"} 0",
        "martlet_records_dropped_total{cause=\"queue\"} 0",
        "martlet_records_dropped_total{cause=\"output_busy\"} 0",
        "martlet_records_dropped_total{cause=\"output_failed\"} 0",
        "martlet_handshake_failures_total 0",
        "martlet_connections_opened_total 0",
        "martlet_lanes_taken_total{lane=\"cold\"} 0",
    ] {
        shows(&page, line);
    }
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn a_record_is_counted_by_reporter_identity_protection_and_reason() {
    let page = scrape(&busy());
    let cart = "reporter=\"source\",identity=\"spiffe://demo.example/ns/shop/sa/cart\",protection=\"mutual_tls\"";
    let web = "reporter=\"destination\",identity=\"spiffe://demo.example/ns/shop/sa/web\",protection=\"mutual_tls\"";
    shows(&page, &format!("martlet_connections_closed_total{{{cart},closed=\"finished\"}} 1"));
    shows(&page, &format!("martlet_connections_closed_total{{{web},closed=\"denied\"}} 1"));
    shows(&page, &format!("martlet_sent_bytes_total{{{cart}}} 77"));
    shows(&page, &format!("martlet_received_bytes_total{{{web}}} 4096"));
    shows(&page, "martlet_connection_duration_seconds_count{reporter=\"source\"} 1");
    // The called side takes no lane.
    shows(&page, "martlet_lanes_taken_total{lane=\"warm\"} 1");
    shows(&page, "martlet_lanes_taken_total{lane=\"cold\"} 0");
}

#[test]
fn plaintext_is_counted_in_both_directions() {
    let metrics = Metrics::default();
    metrics.connection_closed(&AccessRecord { protection: Protection::Plaintext, ..record() });
    let page = scrape(&metrics);
    shows(&page, "martlet_plaintext_connections_total{direction=\"outbound\"} 1");
    shows(&page, "martlet_plaintext_connections_total{direction=\"inbound\"} 5");
}

#[test]
fn a_controller_is_lost_only_while_it_is_away() {
    let metrics = Metrics::default();
    shows(&scrape(&metrics), "martlet_controller_lost_timestamp_seconds 0");
    let report = ControllerReport {
        address: "controller.example.org:15012".to_owned(),
        away: Some("connection refused".to_owned()),
        since: 1_700_000_000,
        version: Some(7),
        refused: None,
        clock: None,
        certificate_expires: None,
    };
    let page = |report: ControllerReport| {
        let status = Status { controller: Some(report), ..status() };
        metrics.scrape(&status, &certificates(), &Totals::default()).unwrap()
    };
    let lost = "martlet_controller_lost_timestamp_seconds 1700000000";
    shows(&page(report.clone()), lost);
    let connected = page(ControllerReport { away: None, ..report.clone() });
    shows(&connected, "martlet_controller_lost_timestamp_seconds 0");
    shows(&connected, "martlet_clock_ahead_seconds 0.0");
    let behind = Some(Skew { ahead_ms: -1500, within_ms: 3 });
    let page = page(ControllerReport { clock: behind, ..report });
    shows(&page, "martlet_clock_ahead_seconds -1.5");
}

#[test]
fn what_went_in_plaintext_without_an_agent_is_counted_in_both_directions() {
    let metrics = Metrics::default();
    shows(&scrape(&metrics), "martlet_fails_open 0");
    let mut open = Status { fails_open: true, ..status() };
    open.counters.extend(
        [("connect", 3), ("lookup", 2), ("guard", 7)]
            .map(|(hook, count)| counter(hook, "passed_failed_open", count)),
    );
    let page = metrics.scrape(&open, &certificates(), &Totals::default()).unwrap();
    shows(&page, "martlet_fails_open 1");
    shows(&page, "martlet_failed_open_connections_total{direction=\"outbound\"} 3");
    shows(&page, "martlet_failed_open_connections_total{direction=\"inbound\"} 2");
}

#[test]
fn state_is_what_the_reports_say_now() {
    let metrics = Metrics::default();
    let page = scrape(&metrics);
    for line in [
        "martlet_ready 1",
        "martlet_workloads 2",
        "martlet_live_connections 3",
        "martlet_idle_lanes 1",
        "martlet_hook_attached{hook=\"martlet_connect4\"} 1",
        "martlet_hook_verdicts_total{hook=\"connect\",verdict=\"steered\"} 12",
        "martlet_certificate_expiry_timestamp_seconds{workload=\"shop/web-0\"} 1800086400",
        "martlet_handshakes_total{side=\"source\"} 4",
        "martlet_handshakes_total{side=\"destination\"} 3",
    ] {
        shows(&page, line);
    }
    let mut gone = status();
    gone.ready = false;
    gone.hooks.clear();
    let none = Certificates { roots: Vec::new(), leaves: Vec::new() };
    let page = metrics.scrape(&gone, &none, &totals()).unwrap();
    shows(&page, "martlet_ready 0");
    assert!(!page.contains("martlet_hook_attached{"), "{page}");
    assert!(!page.contains("shop/web-0"), "{page}");
}

#[test]
fn counters_never_go_back() {
    let metrics = busy();
    let before = scrape(&metrics);
    let mut less = status();
    less.counters =
        vec![counter("connect", "steered", 1), counter("lookup", "passed_plaintext", 0)];
    let after = metrics.scrape(&less, &certificates(), &Totals::default()).unwrap();
    assert_eq!(before, after);
}

#[test]
fn outcomes_and_losses_are_counted_where_they_belong() {
    let metrics = Metrics::default();
    metrics.certificate_renewal(Outcome::Failure);
    metrics.configuration_reload(Outcome::Success);
    metrics.record_dropped(RecordLoss::OutputBusy);
    let page = scrape(&metrics);
    shows(&page, "martlet_certificate_renewals_total{result=\"failure\"} 1");
    shows(&page, "martlet_certificate_renewals_total{result=\"success\"} 0");
    shows(&page, "martlet_configuration_reloads_total{result=\"success\"} 1");
    shows(&page, "martlet_records_dropped_total{cause=\"output_busy\"} 1");
    shows(&page, "martlet_records_dropped_total{cause=\"queue\"} 1");
    shows(&page, "martlet_spans_exported_total 6");
    for (cause, count) in [("queue", 5), ("undelivered", 4), ("refused", 3)] {
        shows(&page, &format!("martlet_spans_dropped_total{{cause=\"{cause}\"}} {count}"));
    }
}

#[test]
fn no_label_ever_holds_an_address() {
    let metrics = busy();
    for closed in Closed::ALL {
        for protection in [Protection::Plaintext, Protection::Internal, Protection::None] {
            let mut stranger = AccessRecord { closed: *closed, protection, ..record() };
            stranger.source.identity = None;
            stranger.source.workload = None;
            metrics.connection_closed(&stranger);
        }
    }
    let page = scrape(&metrics);
    for address in ["10.1.0.2", "fd00:1::3", "10.96.0.10"] {
        assert!(!page.contains(address), "{address} is in:\n{page}");
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, rest)) = line.split_once('{') else { continue };
        for (label, value) in page::labels(rest).filter(|(label, _)| label != "le") {
            assert!(value.parse::<IpAddr>().is_err(), "{label}={value}");
            assert!(value.parse::<SocketAddr>().is_err(), "{label}={value}");
        }
    }
}

#[test]
fn hostile_values_of_labels_stay_inside_their_quotes() {
    const HOSTILE: &str = "a\"} 1\nmartlet_ready 7\\";
    let metrics = Metrics::new(HOSTILE);
    let mut hostile = status();
    hostile.hooks[0].name = HOSTILE.to_owned();
    hostile.counters.push(counter(HOSTILE, HOSTILE, 1));
    let page = metrics.scrape(&hostile, &certificates(), &totals()).unwrap();
    assert!(!page.lines().any(|line| line == "martlet_ready 7\\"), "{page}");
    shows(&page, "martlet_ready 1");
    let line = page.lines().find(|line| line.starts_with("martlet_hook_attached{")).unwrap();
    let found: Vec<_> = page::labels(line.split_once('{').unwrap().1).collect();
    assert_eq!(found, [("hook".to_owned(), HOSTILE.to_owned())]);
    assert!(line.ends_with("\"} 1"), "{line}");
}

#[test]
fn a_certificate_without_a_chain_has_no_expiry() {
    let mut none = certificates();
    none.leaves[0].chain.clear();
    none.leaves[0].workload = workload("new-0");
    let page = Metrics::default().scrape(&status(), &none, &totals()).unwrap();
    assert!(!page.contains("new-0"), "{page}");
}
