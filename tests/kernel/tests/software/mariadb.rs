//! MariaDB, whose server speaks first: login, queries, and the greeting to a silent client.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use martlet_lab::Running;

use crate::stage::{Pair, Stage, Wire, prepare, wait_until_listening};

/// Who looks at a connection's first bytes to guess the protocol waits for a client that waits for
/// the server, for seconds. Without that the greeting takes milliseconds, also on a busy machine.
const GREETING: Duration = Duration::from_secs(2);

/// Done once: it takes seconds.
fn initialize(stage: &Stage) -> PathBuf {
    let data = stage.directory().join("data");
    let directory = format!("--datadir={}", data.display());
    let normal = "--auth-root-authentication-method=normal";
    let arguments = ["--no-defaults", "--user=root", &directory, normal];
    prepare(stage.server_node(), "mariadb-install-db", &arguments);
    data
}

fn serve(pair: &Pair, data: &Path) -> Running {
    let directory = pair.server.directory().unwrap();
    let [data, own] = [data, &directory].map(|path| path.to_str().unwrap());
    prepare(pair.server.node(), "cp", &["-r", data, own]);
    let accounts = directory.join("accounts.sql");
    let sql = "CREATE USER IF NOT EXISTS lab@'%' IDENTIFIED BY 'secret';\n\
               GRANT ALL ON *.* TO lab@'%';\n";
    fs::write(&accounts, sql).unwrap();
    let server = pair.server.command("mariadbd").args(["--no-defaults", "--user=root"]);
    let server = server.args(["--bind-address=*", "--skip-name-resolve"]);
    let server = server.arg(format!("--datadir={own}/data"));
    let server = server.arg(format!("--socket={own}/socket"));
    let server = server.arg(format!("--pid-file={own}/pid"));
    let mut server = server.arg(format!("--init-file={}", accounts.display())).spawn().unwrap();
    wait_until_listening(&mut server, &pair.server, 3306);
    server
}

fn query(pair: &Pair, family: usize, sql: &str) -> String {
    let host = format!("--host={}", pair.servers()[family]);
    let login = ["--no-defaults", "--user=lab", "--password=secret", "--batch", &host];
    pair.ask("mariadb", &[&login[..], &["--skip-column-names", "--execute", sql]].concat())
}

#[test]
fn a_client_logs_in_and_is_seen_as_itself() {
    let stage = Stage::set();
    let data = initialize(&stage);
    stage.compare(Wire::Watched, |pair| {
        let _mariadb = serve(pair, &data);
        for family in [0, 1] {
            let seen = query(
                pair,
                family,
                "SELECT substring_index(host, ':', 4) FROM \
                information_schema.processlist WHERE id = connection_id()",
            );
            let own = pair.client.addresses()[family].to_string();
            assert!(seen.starts_with(&own), "{seen} is not {own}");
        }
        let fill = "CREATE DATABASE shop; USE shop; \
                    CREATE TABLE items (id INT PRIMARY KEY, name TEXT); \
                    INSERT INTO items SELECT seq, md5(seq) FROM seq_1_to_100000";
        query(pair, 0, fill);
        query(pair, 1, "SELECT * FROM shop.items ORDER BY id")
    });
}

#[test]
fn a_silent_client_is_greeted() {
    let stage = Stage::set();
    let data = initialize(&stage);
    stage.compare(Wire::Watched, |pair| {
        let _mariadb = serve(pair, &data);
        pair.servers().map(|server| {
            let to = SocketAddr::new(server, 3306).to_string();
            // It never says a word, and leaves once it has heard something.
            let silent = ["connect", "--to", &to, "--then", "reset", "--after", "1"];
            let silent = pair.client.probe(&silent).unwrap();
            let facts = silent.run_within(GREETING).unwrap().json().unwrap();
            assert_eq!(facts["sent"], 0, "{facts}");
            let greeting = facts["beginning"].as_str().unwrap();
            assert!(greeting.contains("MariaDB"), "{facts}");
        })
    });
}
