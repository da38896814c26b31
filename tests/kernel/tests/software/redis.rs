//! Redis: its benchmark with pipelines, a subscription, a blocking pop, and a large value.

use martlet_lab::{Running, wait_for};

use crate::stage::{PATIENCE, Pair, Stage, Wire, wait_until_listening};

fn serve(pair: &Pair) -> Running {
    let redis = pair.server.command("redis-server").args(["--bind", "*", "-::*"]);
    let redis = redis.args(["--protected-mode", "no", "--save", "", "--appendonly", "no"]);
    let mut redis = redis.arg("--dir").arg(pair.server.directory().unwrap()).spawn().unwrap();
    wait_until_listening(&mut redis, &pair.server, 6379);
    redis
}

fn cli(pair: &Pair, arguments: &[&str]) -> String {
    let server = pair.servers()[0].to_string();
    pair.ask("redis-cli", &[&["-h", &server], arguments].concat())
}

/// One that goes on, to be told something by others.
fn waiting(pair: &Pair, arguments: &[&str]) -> Running {
    let server = pair.servers()[1].to_string();
    let waiting = pair.client.command("redis-cli").args(["-h", &server]).args(arguments);
    waiting.spawn().unwrap()
}

#[test]
fn its_benchmark_runs_with_and_without_pipelines() {
    let stage = Stage::set();
    stage.compare(Wire::Watched, |pair| {
        let _redis = serve(pair);
        let server = pair.servers()[0].to_string();
        ["1", "16"].map(|pipeline| {
            let tests = "ping,set,get,incr,lpush,lrange_100,mset";
            let table = pair.ask(
                "redis-benchmark",
                &["-h", &server, "-n", "2000", "-c", "20", "-P", pipeline, "-t", tests, "--csv"],
            );
            // The other columns are speeds.
            let names = table.lines().filter_map(|line| Some(line.split_once(',')?.0.to_owned()));
            let names: Vec<_> = names.collect();
            assert!(names.len() > 7, "{table}");
            names
        })
    });
}

#[test]
fn a_subscriber_hears_what_is_published() {
    let stage = Stage::set();
    stage.compare(Wire::Watched, |pair| {
        let _redis = serve(pair);
        let mut subscriber = waiting(pair, &["SUBSCRIBE", "news"]);
        let subscribed = |text: &str| text.contains("subscribe").then_some(());
        subscriber.wait_for_stdout("the subscription", PATIENCE, subscribed).unwrap();
        let heard_by = cli(pair, &["PUBLISH", "news", "the war is over"]);
        let heard = |text: &str| text.contains("the war is over").then(|| text.to_owned());
        let heard = subscriber.wait_for_stdout("the news", PATIENCE, heard).unwrap();
        (heard_by, heard)
    });
}

#[test]
fn a_blocking_pop_gets_what_comes_later() {
    let stage = Stage::set();
    stage.compare(Wire::Watched, |pair| {
        let _redis = serve(pair);
        let popping = waiting(pair, &["BLPOP", "queue", "60"]);
        // Asked from inside, so that the number of questions is not compared.
        wait_for("the pop to block", PATIENCE, || {
            let clients = pair.server.command("redis-cli").args(["INFO", "clients"]).run()?;
            Ok(clients.success()?.contains("blocked_clients:1").then_some(()))
        })
        .unwrap();
        let pushed = cli(pair, &["LPUSH", "queue", "late"]);
        (pushed, popping.wait(PATIENCE).unwrap().success().unwrap())
    });
}

#[test]
fn a_value_of_twenty_megabytes_is_read_at_once() {
    let stage = Stage::set();
    stage.compare(Wire::Watched, |pair| {
        let _redis = serve(pair);
        let length = cli(pair, &["SETRANGE", "large", "20000000", "the end"]);
        let value = cli(pair, &["GET", "large"]);
        assert!(value.len() > 20_000_000 && value.contains("the end"));
        (length, value.len())
    });
}
