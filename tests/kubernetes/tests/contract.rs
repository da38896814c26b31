//! What tests of the controller take for granted of an API server, shown on a real one, and on the
//! played one with which they are made.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Child,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::wait_for;
use martlet_played::Played;
use martlet_tests_kubernetes::Cluster;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/contract/configmaps";
const JSON: &str = "application/json";
/// A watch is told to last ten seconds.
const WATCH: Duration = Duration::from_secs(30);
const FORGOTTEN: Duration = Duration::from_secs(240);

#[test]
fn a_real_server_lists_watches_and_writes_as_the_controllers_tests_take_for_granted() -> Result<()>
{
    let cluster = Cluster::obtain()?;
    let kubectl = cluster.kubectl();
    let (proxy, address) = kubectl.proxy()?;
    let _proxy = Ending(proxy);
    let server = Server(address);
    kubectl.run(&["create", "namespace", "contract"])?;
    let kept = contract(&server);
    kubectl.run(&["delete", "namespace", "contract", "--wait=false"])?;
    kept
}

#[test]
fn a_played_server_does_the_same() -> Result<()> {
    let played = Played::start();
    let namespace = json!({ "metadata": { "name": "contract" } });
    played.apply("v1", "namespaces", namespace);
    // A real one has forgotten its first versions when it has come up.
    played.expire();
    contract(&Server(played.address()))
}

fn contract(server: &Server) -> Result<()> {
    writes_are_answered_and_refused(server)?;
    lists_are_cut_into_pages_of_one_version(server)?;
    watches_tell_what_came_after_a_version(server)?;
    a_version_that_is_too_old_is_gone(server)
}

fn map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name }, "data": { "key": value },
    })
}

fn version(object: &Value) -> Result<u64> {
    let text = object["metadata"]["resourceVersion"].as_str();
    let text = text.with_context(|| format!("it has no version: {object}"))?;
    text.parse().context("versions are numbers")
}

fn writes_are_answered_and_refused(server: &Server) -> Result<()> {
    let one = &format!("{MAPS}/one");
    let (status, missing) = server.call("GET", one, JSON, None)?;
    assert_eq!((status, &missing["reason"]), (404, &json!("NotFound")));
    let (status, first) = server.call("POST", MAPS, JSON, Some(&map("one", "1")))?;
    assert_eq!(status, 201, "{first}");
    let (status, again) = server.call("POST", MAPS, JSON, Some(&map("one", "1")))?;
    assert_eq!((status, &again["reason"]), (409, &json!("AlreadyExists")));

    let mut next = first.clone();
    next["data"]["key"] = json!("2");
    let (status, second) = server.call("PUT", one, JSON, Some(&next))?;
    assert_eq!(status, 200);
    assert!(version(&second)? > version(&first)?);
    assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"]);
    next["data"]["key"] = json!("3");
    let (status, over) = server.call("PUT", one, JSON, Some(&next))?;
    assert_eq!((status, &over["reason"]), (409, &json!("Conflict")), "over an old version");

    let merge = json!({ "data": { "key": null, "other": "4" } });
    let (status, merged) =
        server.call("PATCH", one, "application/merge-patch+json", Some(&merge))?;
    assert_eq!((status, &merged["data"]), (200, &json!({ "other": "4" })));
    let (status, same) = server.call("PATCH", one, "application/merge-patch+json", Some(&merge))?;
    assert_eq!((status, version(&same)?), (200, version(&merged)?), "nothing is other by it");

    let two = &format!("{MAPS}/two?fieldManager=contract&force=true");
    let apply = "application/apply-patch+yaml";
    let (status, made) = server.call("PATCH", two, apply, Some(&map("two", "1")))?;
    assert_eq!(status, 201, "{made}");
    let (status, changed) = server.call("PATCH", two, apply, Some(&map("two", "2")))?;
    assert_eq!((status, &changed["data"]["key"]), (200, &json!("2")));
    assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);

    let (status, _) = server.call("DELETE", one, JSON, None)?;
    assert_eq!(status, 200);
    assert_eq!(server.call("GET", one, JSON, None)?.0, 404);
    assert_eq!(server.call("DELETE", one, JSON, None)?.0, 404);
    let (_, anew) = server.call("POST", MAPS, JSON, Some(&map("one", "1")))?;
    assert_ne!(anew["metadata"]["uid"], first["metadata"]["uid"], "another life");
    Ok(())
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

fn lists_are_cut_into_pages_of_one_version(server: &Server) -> Result<()> {
    let select = "fieldSelector=metadata.name%21%3Dkube-root-ca.crt";
    let (status, all) = server.call("GET", &format!("{MAPS}?{select}"), JSON, None)?;
    assert_eq!((status, &all["kind"]), (200, &json!("ConfigMapList")));
    assert_eq!(names(&all), ["one", "two"]);
    assert!(all["items"].as_array().is_some_and(|items| version(&items[0]).is_ok()));
    assert!(all["metadata"]["continue"].as_str().is_none_or(str::is_empty));

    let (_, first) = server.call("GET", &format!("{MAPS}?limit=1"), JSON, None)?;
    let token = first["metadata"]["continue"].as_str().context("there is more")?;
    server.call("POST", MAPS, JSON, Some(&map("zzz", "1")))?;
    let mut token = token.to_owned();
    let mut seen: Vec<_> = names(&first).into_iter().map(str::to_owned).collect();
    while !token.is_empty() {
        let more = format!("{MAPS}?limit=1&continue={}", escaped(&token));
        let (status, page) = server.call("GET", &more, JSON, None)?;
        assert_eq!(status, 200, "{page}");
        assert_eq!(version(&page)?, version(&first)?, "all pages are of one version");
        seen.extend(names(&page).into_iter().map(str::to_owned));
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    }
    seen.retain(|name| name != "kube-root-ca.crt");
    assert_eq!(seen, ["one", "two"], "what came between is not in it");
    server.call("DELETE", &format!("{MAPS}/zzz"), JSON, None)?;
    Ok(())
}

fn watches_tell_what_came_after_a_version(server: &Server) -> Result<()> {
    let (_, list) = server.call("GET", MAPS, JSON, None)?;
    let from = version(&list)?;
    let mut watch = server.watch(&format!(
        "{MAPS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=10&resourceVersion={from}"
    ))?;
    server.call("POST", MAPS, JSON, Some(&map("seen", "1")))?;
    let merge = json!({ "data": { "key": "2" } });
    let seen = &format!("{MAPS}/seen");
    server.call("PATCH", seen, "application/merge-patch+json", Some(&merge))?;
    server.call("DELETE", seen, JSON, None)?;
    let (mut last, mut kinds) = (from, Vec::new());
    while kinds.last().is_none_or(|kind| kind != "DELETED") {
        let event = watch.next()?.context("a watch lasts as long as it was told to")?;
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        if kind == "BOOKMARK" {
            continue;
        }
        assert_eq!(event["object"]["metadata"]["name"], "seen");
        let now = version(&event["object"])?;
        assert!(now > last, "versions grow, also with the end");
        (last, _) = (now, kinds.push(kind));
    }
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED"]);
    let mut mark = None;
    while let Some(event) = watch.next()? {
        assert_eq!(event["type"], "BOOKMARK", "{event}");
        mark = Some(version(&event["object"])?);
    }
    assert!(mark.context("before it ends there is a bookmark")? >= last);

    let mut again =
        server.watch(&format!("{MAPS}?watch=true&timeoutSeconds=3&resourceVersion={from}"))?;
    let first = again.next()?.context("it is told again from a version of before")?;
    assert_eq!(
        (&first["type"], &first["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("seen"))
    );
    Ok(())
}

/// A server keeps what became of a kind for some 75 s at least, and then as much as it has room for.
fn a_version_that_is_too_old_is_gone(server: &Server) -> Result<()> {
    let (one, merge) = (&format!("{MAPS}/one"), "application/merge-patch+json");
    let mut count = 0;
    let gone = wait_for("the first version to be forgotten", FORGOTTEN, || {
        let path = format!("{MAPS}?watch=true&timeoutSeconds=3&resourceVersion=1");
        let mut watch = server.watch(&path)?;
        let event = watch.next()?.context("something is said")?;
        if event["type"] == "ERROR" {
            assert!(watch.next()?.is_none(), "and nothing after it");
            return Ok(Some(event));
        }
        for _ in 0..20 {
            count += 1;
            let other = json!({ "data": { "count": count.to_string() } });
            server.call("PATCH", one, merge, Some(&other))?;
        }
        Ok(None)
    })?;
    assert_eq!(gone["object"]["code"], 410, "{gone}");
    assert_eq!(gone["object"]["kind"], "Status");
    Ok(())
}

fn escaped(token: &str) -> String {
    token.replace('%', "%25").replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An API server in plain HTTP.
struct Server(SocketAddr);

impl Server {
    /// As HTTP 1.0, so that nothing comes in pieces.
    fn ask(
        &self,
        method: &str,
        path: &str,
        content: &str,
        body: &str,
    ) -> Result<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect(self.0).context("connecting to the server")?;
        stream.set_read_timeout(Some(WATCH))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAccept: {JSON}\r\nContent-Type: {content}\r\n\
             Content-Length: {length}\r\n\r\n{body}",
            self.0
        )?;
        Ok(BufReader::new(stream))
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        content: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut answer = self.ask(method, path, content, &body)?;
        let status = head(&mut answer)?;
        let mut text = String::new();
        answer.read_to_string(&mut text).context("reading an answer")?;
        let answer = serde_json::from_str(&text).with_context(|| format!("reading {text:?}"))?;
        Ok((status, answer))
    }

    fn watch(&self, path: &str) -> Result<Watch> {
        let mut answer = self.ask("GET", path, JSON, "")?;
        let status = head(&mut answer)?;
        ensure!(status == 200, "a watch is answered {status}");
        Ok(Watch(answer))
    }
}

/// The status, and all until the body is read.
fn head(answer: &mut BufReader<TcpStream>) -> Result<u16> {
    let mut line = String::new();
    answer.read_line(&mut line).context("reading a status")?;
    let status = line.split(' ').nth(1).and_then(|text| text.parse().ok());
    let status = status.with_context(|| format!("an answer begins with {line:?}"))?;
    while line.trim() != "" {
        line.clear();
        answer.read_line(&mut line).context("reading a header")?;
    }
    Ok(status)
}

struct Watch(BufReader<TcpStream>);

impl Watch {
    /// `None`: it has ended.
    fn next(&mut self) -> Result<Option<Value>> {
        let mut line = String::new();
        match self.0.read_line(&mut line).context("reading an event")? {
            0 => Ok(None),
            _ => serde_json::from_str(&line).map(Some).with_context(|| format!("reading {line:?}")),
        }
    }
}
