//! PostgreSQL: pgbench with several clients, and a large result.

use std::{
    fs,
    path::{Path, PathBuf},
};

use martlet_lab::Running;

use crate::stage::{Pair, Stage, Wire, prepare, wait_until_listening};

/// Debian keeps every version's programs in a place of their own; the newest is taken.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = versions.map(|entry| entry.unwrap().path()).max_by_key(|path| {
        path.file_name().unwrap().to_string_lossy().parse::<u32>().unwrap_or_default()
    });
    newest.expect("PostgreSQL is installed").join("bin").join(name)
}

/// The server refuses to run as root.
const AS_POSTGRES: [&str; 3] = ["--reuid=postgres", "--regid=postgres", "--clear-groups"];

/// Done once: it takes seconds.
fn initialize(stage: &Stage) -> PathBuf {
    let data = stage.directory().join("data");
    fs::create_dir(&data).unwrap();
    let text = data.to_str().unwrap();
    prepare(stage.server_node(), "chown", &["postgres:postgres", text]);
    let initdb = program("initdb");
    let initdb = [initdb.to_str().unwrap(), "--no-sync", "--auth=trust", "-D", text];
    prepare(stage.server_node(), "setpriv", &[&AS_POSTGRES[..], &initdb].concat());
    fs::write(data.join("pg_hba.conf"), "host all all all trust\n").unwrap();
    data
}

fn serve(pair: &Pair, data: &Path) -> Running {
    let own = pair.server.directory().unwrap().join("data");
    let [from, to] = [data, &own].map(|path| path.to_str().unwrap());
    prepare(pair.server.node(), "cp", &["-a", from, to]);
    let server = pair.server.command("setpriv").args(AS_POSTGRES).arg(program("postgres"));
    let server = server.arg("-D").arg(&own);
    let server = server.args(["--listen_addresses=*", "--unix_socket_directories=", "--fsync=off"]);
    let mut server = server.spawn().unwrap();
    wait_until_listening(&mut server, &pair.server, 5432);
    server
}

fn ask(pair: &Pair, family: usize, name: &str, arguments: &[&str]) -> String {
    let server = pair.servers()[family].to_string();
    let common = ["--host", &server, "--username", "postgres"];
    pair.ask(program(name).to_str().unwrap(), &[&common, arguments, &["postgres"]].concat())
}

#[test]
fn pgbench_with_eight_clients_loses_no_transaction() {
    let stage = Stage::set();
    let data = initialize(&stage);
    stage.compare(Wire::Watched, |pair| {
        let _postgres = serve(pair, &data);
        ask(pair, 0, "pgbench", &["--initialize", "--quiet"]);
        let told = ask(pair, 1, "pgbench", &["--client=8", "--jobs=2", "--transactions=50"]);
        let totals = told.lines().filter(|line| line.starts_with("number of"));
        let totals: Vec<_> = totals.map(str::to_owned).collect();
        assert!(totals.iter().any(|line| line.ends_with("processed: 400/400")), "{told}");
        let rows = ask(pair, 0, "psql", &["-Atc", "SELECT count(*) FROM pgbench_history"]);
        assert_eq!(rows, "400\n");
        totals
    });
}

#[test]
fn a_large_result_is_complete() {
    let stage = Stage::set();
    let data = initialize(&stage);
    stage.compare(Wire::Watched, |pair| {
        let _postgres = serve(pair, &data);
        let query = "COPY (SELECT n, md5(n::text) FROM generate_series(1, 300000) n) TO STDOUT";
        let result = ask(pair, 0, "psql", &["-c", query]);
        assert_eq!(result.lines().count(), 300_000);
        result
    });
}
