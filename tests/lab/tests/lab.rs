//! The lab itself: what its verdicts rest on.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use martlet_lab::{Canaries, Lab, Pod, Server, Sniffer};
use serde_json::Value;

fn serve(pod: &Pod, arguments: &[&str]) -> Server {
    pod.serve(arguments).unwrap()
}

fn connect(pod: &Pod, to: IpAddr, arguments: &[&str]) -> Value {
    pod.connect(SocketAddr::new(to, 8080), arguments).unwrap()
}

fn ended(server: &Server) -> Value {
    server.saw_nth(0).unwrap()
}

#[test]
fn pods_reach_each_other_with_their_own_addresses() {
    let lab = Lab::new().unwrap();
    let [one, two] = ["one", "two"].map(|name| lab.node(name).unwrap());
    let client = one.pod("client").unwrap();
    for server_pod in [one.pod("near").unwrap(), two.pod("far").unwrap()] {
        for family in [0, 1] {
            let server = serve(&server_pod, &["--then", "echo"]);
            let facts = connect(
                &client,
                server_pod.addresses()[family],
                &["--then", "send", "--bytes", "1000000"],
            );
            assert_eq!(facts["connected"], true, "{facts}");
            assert_eq!(facts["received"], 1_000_000);
            assert_eq!(facts["received_checksum"], facts["sent_checksum"]);
            assert_eq!(
                facts["peer"],
                SocketAddr::new(server_pod.addresses()[family], 8080).to_string()
            );
            let seen = ended(&server);
            assert_eq!(seen["accepted"], facts["local"]);
            assert_eq!(seen["peer"], facts["local"]);
            assert!(
                facts["local"].as_str().unwrap().contains(&client.addresses()[family].to_string())
            );
        }
    }
}

#[test]
fn a_port_on_which_nobody_listens_is_refused() {
    let lab = Lab::new().unwrap();
    let node = lab.node("one").unwrap();
    let [a, b] = ["a", "b"].map(|name| node.pod(name).unwrap());
    for address in b.addresses() {
        for how in ["blocking", "nonblocking", "io-uring", "mapped"] {
            assert_eq!(connect(&a, address, &["--how", how])["error"], "ECONNREFUSED", "{how}");
        }
    }
}

#[test]
fn every_way_to_connect_and_to_end_works_without_a_mesh() {
    let lab = Lab::new().unwrap();
    let [one, two] = ["one", "two"].map(|name| lab.node(name).unwrap());
    let [client, server_pod] = [one.pod("client").unwrap(), two.pod("server").unwrap()];
    for how in
        ["blocking", "nonblocking", "fastopen", "fastopen-connect", "io-uring", "mapped", "mptcp"]
    {
        let server = serve(&server_pod, &["--then", "echo", "--fastopen"]);
        let facts = connect(
            &client,
            server_pod.v4(),
            &["--how", how, "--then", "duplex", "--bytes", "300000"],
        );
        assert_eq!(
            (&facts["received"], &facts["finished"]),
            (&300_000.into(), &true.into()),
            "{how}: {facts}"
        );
        assert_eq!(facts["received_checksum"], facts["sent_checksum"], "{how}");
        drop(server);
    }
    for (there, here) in
        [("late", "send"), ("send", "late"), ("duplex", "duplex"), ("receive", "send")]
    {
        let server = serve(&server_pod, &["--then", there, "--bytes", "50000", "--seed", "2"]);
        let facts = connect(&client, server_pod.v6(), &["--then", here, "--bytes", "70000"]);
        let seen = ended(&server);
        assert_eq!(
            facts["received_checksum"], seen["sent_checksum"],
            "{there} {here}: {facts} {seen}"
        );
        assert_eq!(seen["received_checksum"], facts["sent_checksum"], "{there} {here}");
        assert_eq!(
            (&facts["finished"], &seen["finished"]),
            (&true.into(), &true.into()),
            "{there} {here}"
        );
    }
    let server = serve(&server_pod, &["--then", "receive"]);
    connect(&client, server_pod.v4(), &["--then", "reset", "--bytes", "100"]);
    assert_eq!(ended(&server)["read_error"], "ECONNRESET");
}

#[test]
fn crowds_and_rows_are_counted() {
    let lab = Lab::new().unwrap();
    let node = lab.node("one").unwrap();
    let [client, server_pod] = ["client", "server"].map(|name| node.pod(name).unwrap());
    let to = SocketAddr::new(server_pod.v4(), 8080).to_string();
    let _server = serve(&server_pod, &["--then", "echo", "--quiet"]);
    let crowd = client
        .probe(&["crowd", "--to", &to, "--connections", "500"])
        .unwrap()
        .run()
        .unwrap()
        .json()
        .unwrap();
    assert_eq!((&crowd["opened"], &crowd["echoed"]), (&500.into(), &500.into()), "{crowd}");
    let row = client
        .probe(&["row", "--to", &to, "--connections", "500"])
        .unwrap()
        .run()
        .unwrap()
        .json()
        .unwrap();
    assert_eq!(row["done"], 500, "{row}");
}

#[test]
fn the_sniffer_finds_every_canary_in_clear_and_none_that_was_not_sent() {
    let lab = Lab::new().unwrap();
    let [one, two] = ["one", "two"].map(|name| lab.node(name).unwrap());
    let [client, server_pod] = [one.pod("client").unwrap(), two.pod("server").unwrap()];
    let [asked, answered, unsent] = [(); 3].map(|()| Canaries::random(2000));
    let sniffer =
        Sniffer::start([lab.wire(), one.netns(), two.netns()], &asked.and(&answered).and(&unsent))
            .unwrap();
    let [ask, answer] = ["ask", "answer"].map(|name| lab.directory().join(name));
    asked.write_to(&ask).unwrap();
    answered.write_to(&answer).unwrap();
    let [ask, answer] = [ask, answer].map(|path| path.to_str().unwrap().to_owned());
    let _server = serve(&server_pod, &["--then", "answer", "--canaries", &answer, "--chunk", "5"]);
    let facts = connect(
        &client,
        server_pod.v4(),
        &["--then", "ask", "--canaries", &ask, "--replies", &answer, "--chunk", "7"],
    );
    assert_eq!((&facts["mismatches"], &facts["received"]), (&0.into(), &64_000.into()), "{facts}");
    let capture = sniffer.stop().unwrap();
    assert!(capture.found().iter().copied().eq(0..4000), "found {}", capture.found().len());
    let flow = capture
        .flow(facts["local"].as_str().unwrap().parse().unwrap(), (server_pod.v4(), 8080).into());
    let flow = flow.unwrap();
    assert_eq!((flow.payload, flow.not_tls, flow.missing), (64_000, 64_000, 0));
    assert!(flow.has_syn && flow.has_fin && !flow.has_reset);
}

#[test]
fn programs_are_in_their_pods_cgroup_and_namespace() {
    let lab = Lab::new().unwrap();
    let pod = lab.node("one").unwrap().pod("web-0").unwrap();
    let own = pod.command("cat").arg("/proc/self/cgroup").run().unwrap().success().unwrap();
    let expected = format!("/{}/one/web-0", lab.cgroup().file_name().unwrap().to_str().unwrap());
    assert!(own.lines().any(|line| line.starts_with("0::") && line.ends_with(&expected)), "{own}");
    let links = pod.command("ip").args(["-o", "link"]).run().unwrap().success().unwrap();
    assert_eq!(links.lines().count(), 2, "lo and eth0 only: {links}");
}

#[test]
fn three_nodes_and_six_pods_are_up_at_once() {
    let lab = Lab::new().unwrap();
    for name in ["one", "two", "three"] {
        let node = lab.node(name).unwrap();
        let [a, b] = ["a", "b"].map(|name| node.pod(name).unwrap());
        let _server = serve(&b, &["--then", "echo"]);
        let facts = connect(&a, b.v6(), &["--then", "send", "--bytes", "10"]);
        assert_eq!((&facts["received"], &facts["finished"]), (&10.into(), &true.into()), "{facts}");
    }
}

#[test]
fn nothing_is_left_when_a_lab_is_dropped_or_panics() {
    let (directory, cgroup, netns, pid) = std::thread::spawn(|| {
        let lab = Lab::new().unwrap();
        let pod = lab.node("one").unwrap().pod("web-0").unwrap();
        let sleeper = pod.command("sleep").arg("1000").spawn().unwrap();
        let facts = (
            lab.directory().to_owned(),
            lab.cgroup().to_owned(),
            pod.netns().path(),
            sleeper.pid(),
        );
        assert!(facts.0.exists() && facts.1.exists() && facts.2.exists());
        // The lab must end its programs by itself.
        std::mem::forget(sleeper);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _lab = lab;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        facts
    })
    .join()
    .unwrap();
    assert!(!directory.exists() && !cgroup.exists() && !netns.exists());
    // Only a zombie, whose parent has forgotten it, may be left.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or("State:\tZ".into());
    assert!(status.contains("State:\tZ"), "{status}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(directory.to_str().unwrap()), "{mounts}");
}

#[test]
fn a_removed_pod_is_gone_and_its_node_says_so() {
    let lab = Lab::new().unwrap();
    let node = lab.node("one").unwrap();
    let [a, b] = ["a", "b"].map(|name| node.pod(name).unwrap());
    let _server = serve(&b, &["--then", "echo"]);
    b.remove().unwrap();
    assert!(!b.netns().path().exists() && !b.cgroup().exists());
    for address in b.addresses() {
        let facts = connect(&a, address, &["--connect-timeout-ms", "5000"]);
        assert_eq!(facts["connected"], false, "{facts}");
    }
}

#[test]
fn what_a_killed_lab_leaves_is_swept_and_a_living_lab_is_not() {
    let living = Lab::new().unwrap();
    let pod = living.node("one").unwrap().pod("web-0").unwrap();
    // As a killed process leaves it: everything there, the lock free.
    let dead = Path::new("/run/martlet-lab/mdead-0");
    fs::create_dir_all(dead.join("logs")).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    let netns =
        std::process::Command::new("ip").args(["netns", "add", "mdead-0-one"]).status().unwrap();
    assert!(netns.success());
    let next = Lab::new().unwrap();
    assert!(!dead.exists() && !Path::new("/run/netns/mdead-0-one").exists());
    assert!(
        living.directory().exists() && pod.netns().path().exists() && next.directory().exists()
    );
}
