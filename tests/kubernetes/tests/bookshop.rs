//! A demo application that knows nothing of Martlet works under strict as it did before: nginx, HAProxy,
//! PostgreSQL, MariaDB, Redis, memcached, gRPC, WebSockets, and programs in Python, PHP, JavaScript,
//! Ruby and Perl, on a real cluster.

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Canaries, Sniffer, wait_for};
use martlet_tests_kubernetes::{Kubectl, Own, PATIENCE, pods};
use serde_json::Value;

/// How often every function is used in each mode.
const ROUNDS: usize = 5;

struct Bookshop {
    own: Own,
    kubectl: Kubectl,
    /// The title of the book that everything is about.
    title: String,
    canaries: Canaries,
}

impl Bookshop {
    fn open() -> Result<Self> {
        let own = Own::up(&["--nodes", "2"])?;
        own.load_martlet()?;
        own.task(&["load-bookshop"])?;
        let kubectl = own.kubectl();
        let canaries = Canaries::printable(1);
        let title = String::from_utf8(canaries.iter().next().context("a canary")?.to_vec())?;
        let files = concat!(env!("CARGO_MANIFEST_DIR"), "/bookshop");
        kubectl.run(&["apply", "--kustomize", files])?;
        kubectl.apply(&pods::idle("outsider", "node2"))?;
        let bookshop = Self { own, kubectl: kubectl.within("bookshop"), title, canaries };
        kubectl.ready_pod("outsider")?;
        for kind in ["deployment", "statefulset"] {
            bookshop.until_rolled_out(kind)?;
        }
        Ok(bookshop)
    }

    fn until_rolled_out(&self, kind: &str) -> Result<()> {
        let all = self.kubectl.run(&["get", kind, "--output", "name"])?;
        let patience = format!("--timeout={}s", 2 * PATIENCE.as_secs());
        for one in all.lines() {
            self.kubectl.run(&["rollout", "status", one, &patience])?;
        }
        Ok(())
    }

    fn label(&self, mode: &str) -> Result<()> {
        let label = format!("martlet.dev/mode{mode}");
        self.kubectl.run(&["label", "--overwrite", "namespace", "bookshop", &label]).map(drop)
    }

    /// Every function, once.
    fn use_all(&self) -> Result<String> {
        let buy = ["python3", "/app/buyer.py", self.title.as_str()];
        self.kubectl.run(&[&["exec", "deployment/buyer", "--"], &buy[..]].concat())
    }

    /// What becomes of connections that are open when a mode changes is the applications' to get
    /// over; from then on nothing fails.
    fn is_seen_in_use(&self) -> Result<bool> {
        let mut last = String::new();
        let used = wait_for("all functions to answer", PATIENCE, || {
            let used = self.use_all();
            last = used.as_ref().map_or_else(|error| format!("{error:#}"), String::clone);
            Ok(used.ok())
        });
        used.with_context(|| last)?;
        let sniffer = Sniffer::start([&self.own.wire()?], &self.canaries)?;
        for _ in 0..ROUNDS {
            let said = self.use_all()?;
            ensure!(said.contains("7 of 7 functions answered"), "{said}");
        }
        Ok(!sniffer.stop()?.found().is_empty())
    }

    /// Of each pod its name, how often its containers were restarted, and when it was made.
    fn lives(&self) -> Result<Vec<(String, i64, String)>> {
        let pods = self.kubectl.get(&["pods"])?;
        let pods = pods["items"].as_array().context("a list has items")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let life = |pod: &Value| {
            let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
            let metadata = &pod["metadata"];
            (text(&metadata["name"]), restarts.unwrap_or(-1), text(&metadata["uid"]))
        };
        Ok(pods.iter().map(life).collect())
    }

    fn outsider_reaches_the_front(&self) -> bool {
        let get = ["timeout", "3", "wget", "-q", "-O", "-", "http://front.bookshop:8080/alive"];
        let outside = self.kubectl.within("default");
        outside.exec("outsider", &get).is_ok_and(|said| said.contains("alive"))
    }

    fn until_outsider(&self, is_in: bool) -> Result<()> {
        wait_for(&format!("the outsider to be let in: {is_in}"), PATIENCE, || {
            Ok((self.outsider_reaches_the_front() == is_in).then_some(()))
        })
    }

    fn martlet(&self, arguments: &[&str]) -> Result<String> {
        // Named, so that an agent of this machine is not asked.
        let cluster = ["--namespace-system", "martlet-system"];
        let output = self.own.martlet(&[&cluster[..], arguments].concat())?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "martlet {}: {complaint}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn until_steered(&self, count: usize) -> Result<()> {
        wait_for(&format!("{count} pods to be steered"), PATIENCE, || {
            let said = self.martlet(&["workloads"])?;
            let steered = said.lines().filter(|line| line.contains(" steered "));
            Ok((steered.count() == count).then_some(()))
        })
    }
}

#[test]
fn a_shop_of_many_languages_and_protocols_works_under_strict_with_nothing_changed() -> Result<()> {
    let shop = Bookshop::open()?;
    let before = shop.lives()?;
    assert_eq!(before.len(), 16, "{before:?}");
    assert!(before.iter().all(|(_, restarts, _)| *restarts == 0), "{before:?}");

    // Without Martlet every book crosses the wire for all to see.
    assert!(shop.is_seen_in_use()?, "the wire shows what is plain");
    shop.martlet(&["install"])?;
    assert!(shop.outsider_reaches_the_front());

    // The label is all that changes.
    shop.label("=strict")?;
    shop.until_steered(before.len())?;
    shop.until_outsider(false)?;
    assert!(!shop.is_seen_in_use()?, "a book was on the wire");
    let records = shop.martlet(&["records"])?;
    assert!(records.contains("mutual_tls"), "{records}");

    // The control is as good at the end as it was at the beginning.
    shop.label("-")?;
    shop.until_outsider(true)?;
    assert!(shop.is_seen_in_use()?);
    assert_eq!(shop.lives()?, before);
    Ok(())
}
