//! What the controller says about a cluster's objects, and what becomes of its replicas, on a real
//! cluster.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::wait_for;
use martlet_tests_kubernetes::{Kubectl, Mesh, PATIENCE, pods};
use serde_json::{Value, json};

/// One cluster for all of it: to make one takes longer than all that is shown on it.
#[test]
fn the_controller_says_what_it_does_and_does_it_while_one_replica_lives() -> Result<()> {
    let mesh = Mesh::up()?;
    mesh.install()?;
    mesh.label("=strict")?;
    mesh.until_steered()?;
    mesh.until_answered("client")?;

    a_pods_status_says_whether_it_is_enrolled(&mesh)?;
    a_policy_says_where_it_is_in_effect(&mesh)?;
    what_is_wrong_is_said_once_beside_its_object(&mesh)?;
    a_trust_bundle_is_taken_and_a_bad_one_changes_nothing(&mesh)?;
    what_is_set_for_the_mesh_is_in_effect_until_it_is_set_otherwise(&mesh)?;
    one_replica_is_the_controller_and_the_other_says_so(&mesh)?;
    a_holder_that_is_killed_is_followed(&mesh)?;
    a_rolling_restart_loses_no_connection(&mesh)
}

fn a_pods_status_says_whether_it_is_enrolled(mesh: &Mesh) -> Result<()> {
    let shop = mesh.kubectl.within("shop");
    let until = |pod: &str, reason: &str| {
        let what = format!("the condition of {pod} to be {reason:?}");
        wait_for(&what, PATIENCE, || {
            let said = enrolled(&shop.get(&["pod", pod])?);
            Ok((said["reason"].as_str().unwrap_or_default() == reason).then_some(said))
        })
    };
    until("client", "Strict")?;
    shop.run(&["wait", "pod", "server", "--for=condition=martlet.dev/enrolled", "--timeout=60s"])?;
    shop.apply(&pods::on_host("host", "node1"))?;
    let outside = until("host", "Outside")?;
    assert_eq!(outside["status"], "False", "{outside}");
    // What somebody writes over it is shown for a moment, and changes nothing.
    wait_for("a lie to be written", PATIENCE, || {
        let mut lie = shop.get(&["pod", "client"])?;
        let conditions = lie["status"]["conditions"].as_array_mut().context("it has some")?;
        let said = conditions.iter_mut().find(|one| one["type"] == ENROLLED);
        said.context("it is said")?["reason"] = json!("Lie");
        // Somebody else may have written meanwhile.
        Ok(shop.put("/api/v1/namespaces/shop/pods/client/status", &lie).ok())
    })?;
    until("client", "Strict")?;
    assert!(mesh.is_answered("client"));
    mesh.label("=permissive")?;
    until("client", "Permissive")?;
    shop.run(&["label", "pod", "client", "martlet.dev/mode=off"])?;
    until("client", "Outside")?;
    shop.run(&["label", "pod", "client", "martlet.dev/mode-"])?;
    let before = until("client", "Permissive")?;
    // Another life of the name says nothing of the former.
    shop.run(&["delete", "pod", "client", "--grace-period=0", "--force"])?;
    shop.apply(&pods::idle("client", "node1"))?;
    shop.ready_pod("client")?;
    let after = until("client", "Permissive")?;
    assert_ne!(before["lastTransitionTime"], after["lastTransitionTime"]);
    mesh.label("-")?;
    until("client", "")?;
    until("host", "")?;
    assert_eq!(mesh.restarts()?, 0);
    let outsider = mesh.kubectl.get(&["pod", "outsider"])?;
    assert!(enrolled(&outsider).is_null(), "nobody has labelled it");
    shop.run(&["delete", "pod", "host", "--grace-period=0", "--force"])?;
    mesh.label("=strict")?;
    mesh.until_steered()?;
    mesh.until_answered("client")
}

const ENROLLED: &str = "martlet.dev/enrolled";

fn enrolled(pod: &Value) -> Value {
    condition(pod, ENROLLED).clone()
}

fn a_policy_says_where_it_is_in_effect(mesh: &Mesh) -> Result<()> {
    let shop = mesh.kubectl.within("shop");
    let programmed = |generation: i64| -> Result<Value> {
        wait_for("the policy to be programmed", PATIENCE, || {
            let policy = shop.get(&["authorizationpolicy", "callers"])?;
            let condition = condition(&policy, "Programmed");
            let is_of = condition["observedGeneration"] == generation;
            Ok((is_of && condition["status"] == "True").then_some(policy))
        })
    };
    shop.apply(&policy("{name: shop, from: [{namespaces: [shop]}]}"))?;
    let first = programmed(1)?;
    assert_eq!(first["status"]["agents"], "1/1", "{first:#}");
    assert_eq!(condition(&first, "Accepted")["status"], "True");
    shop.apply(&policy("{name: till, from: [{namespaces: [till]}]}"))?;
    programmed(2)?;
    assert!(!mesh.is_answered("client"), "what is said to be in effect is not");
    // The refusal that stands for it is in effect, too.
    shop.apply(&policy("{name: get, to: [{ports: ['80'], methods: [GET]}]}"))?;
    let refused = programmed(3)?;
    assert_eq!(condition(&refused, "Accepted")["status"], "False");
    assert_eq!(condition(&refused, "Programmed")["reason"], "RefusesEverything");
    let shown = shop.run(&["get", "authorizationpolicies"])?;
    assert!(shown.contains("PROGRAMMED") && shown.contains("1/1"), "{shown}");
    Ok(())
}

fn what_is_wrong_is_said_once_beside_its_object(mesh: &Mesh) -> Result<()> {
    let shop = mesh.kubectl.within("shop");
    // The policy of before cannot be enforced.
    until_said(&shop, "callers", "Invalid")?;
    shop.run(&["label", "pod", "client", "martlet.dev/mode=stirct"])?;
    let said = until_said(&shop, "client", "UnknownMode")?;
    assert!(said.contains("stirct"), "{said}");
    let described = shop.run(&["describe", "pod", "client"])?;
    assert!(described.contains("UnknownMode"), "{described}");
    shop.run(&["label", "pod", "client", "martlet.dev/mode-"])?;
    shop.run(&["delete", "authorizationpolicy", "callers"])?;
    let events = shop.get(&["events"])?;
    let events = items(&events)?;
    let of_client = events.iter().filter(|event| event["reason"] == "UnknownMode");
    assert_eq!(of_client.count(), 1);
    mesh.until_answered("client")
}

fn a_trust_bundle_is_taken_and_a_bad_one_changes_nothing(mesh: &Mesh) -> Result<()> {
    let (kubectl, place) = (&mesh.kubectl, mesh.own.directory().join("partner"));
    let to = place.to_str().context("the path is text")?;
    let made = mesh.own.martlet(&["authority", "init", "--trust-domain", "partner.example", to])?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let root = std::fs::read_to_string(place.join("root.crt")).context("reading the root")?;
    let bundle = |pem: &str, more: &str| {
        json!({
            "apiVersion": "martlet.dev/v1alpha1", "kind": "TrustBundle",
            "metadata": {"name": "partner"},
            "spec": {"trustDomain": "partner.example", "pem": pem, "quarantined": more == "cut off"},
        })
        .to_string()
    };
    let until = |kind: &str, status: &str, generation: i64| -> Result<Value> {
        wait_for(&format!("the bundle's {kind} to be {status}"), PATIENCE, || {
            let object = kubectl.get(&["trustbundle", "partner"])?;
            let said = condition(&object, kind);
            let is_of = said["observedGeneration"] == generation;
            Ok((is_of && said["status"] == status).then_some(object))
        })
    };
    let trusted = || -> Result<String> {
        mesh.system().exec(&holder(mesh)?, &["/usr/bin/martlet", "trust", "list", "-o", "json"])
    };
    kubectl.apply(&bundle(&root, ""))?;
    let object = until("Programmed", "True", 1)?;
    assert_eq!(object["status"]["agents"], "2/2", "{object:#}");
    assert_eq!(object["status"]["roots"], 1, "{object:#}");
    let before = trusted()?;
    assert!(before.contains("partner.example"), "{before}");
    kubectl.apply(&bundle("no certificate", ""))?;
    let refused = until("Accepted", "False", 2)?;
    assert_eq!(condition(&refused, "Accepted")["reason"], "Invalid");
    assert_eq!(condition(&refused, "Programmed")["reason"], "NotAccepted");
    assert_eq!(refused["status"]["roots"], 1, "the roots of before stay");
    assert_eq!(trusted()?, before);
    until_said(&kubectl.within("kube-system"), "partner", "Invalid")?;
    kubectl.apply(&bundle(&root, "cut off"))?;
    until("Programmed", "True", 3)?;
    let cut_off = || -> Result<String> {
        mesh.system().exec(&holder(mesh)?, &["/usr/bin/martlet", "trust", "status", "-o", "json"])
    };
    assert!(cut_off()?.contains("cluster/partner.example"));
    kubectl.apply(&bundle(&root, ""))?;
    until("Programmed", "True", 4)?;
    assert!(!cut_off()?.contains("cluster/partner.example"));
    let shown = kubectl.run(&["get", "trustbundles"])?;
    assert!(shown.contains("partner.example") && shown.contains("2/2"), "{shown}");
    kubectl.run(&["delete", "trustbundle", "partner"])?;
    wait_for("the domain to be trusted no more", PATIENCE, || {
        Ok((!trusted()?.contains("partner.example")).then_some(()))
    })?;
    mesh.until_answered("client")
}

/// No label is about the shop; that of the outsider's namespace keeps it outside.
fn what_is_set_for_the_mesh_is_in_effect_until_it_is_set_otherwise(mesh: &Mesh) -> Result<()> {
    let (kubectl, shop) = (&mesh.kubectl, mesh.kubectl.within("shop"));
    let set = |spec: Value| {
        let object = json!({
            "apiVersion": "martlet.dev/v1alpha1", "kind": "MeshConfig",
            "metadata": {"name": "default"}, "spec": spec,
        });
        kubectl.apply(&object.to_string())
    };
    let until = |kind: &str, status: &str, generation: i64| -> Result<Value> {
        wait_for(&format!("the mesh config's {kind} to be {status}"), PATIENCE, || {
            let object = kubectl.get(&["meshconfig", "default"])?;
            let said = condition(&object, kind);
            let is_of = said["observedGeneration"] == generation;
            Ok((is_of && said["status"] == status).then_some(object))
        })
    };
    let until_enrolled = |pod: &str, reason: &str| {
        wait_for(&format!("{pod} to be {reason:?}"), PATIENCE, || {
            let said = enrolled(&shop.get(&["pod", pod])?);
            Ok((said["reason"].as_str().unwrap_or_default() == reason).then_some(()))
        })
    };
    let fails_open =
        || Ok::<_, anyhow::Error>(mesh.agents_say(&["status"])?.contains("failure: open"));
    kubectl.run(&["label", "namespace", "default", "martlet.dev/mode=off"])?;
    mesh.label("-")?;
    until_enrolled("client", "")?;
    mesh.until_answered("outsider")?;
    assert!(!fails_open()?);

    set(json!({"defaultMode": "strict", "failure": "open"}))?;
    let object = until("Programmed", "True", 1)?;
    assert_eq!(object["status"]["agents"], "2/2", "{object:#}");
    assert_eq!(object["status"]["inEffect"]["defaultMode"], "strict", "{object:#}");
    until_enrolled("client", "Strict")?;
    until_enrolled("server", "Strict")?;
    mesh.until_answered("client")?;
    mesh.until_refused("outsider")?;
    assert!(fails_open()?);
    let exempt = mesh.system().get(&["pod", &mesh.agents()?[0]])?;
    assert!(enrolled(&exempt).is_null(), "Martlet's own namespace is enrolled");
    let shown = kubectl.run(&["get", "meshconfigs"])?;
    assert!(shown.contains("strict") && shown.contains("2/2"), "{shown}");

    // It cannot be used, and closes nothing and opens nothing, whoever is the controller.
    set(json!({"failure": "closed", "trustDomain": "other.example"}))?;
    let refused = until("Accepted", "False", 2)?;
    assert_eq!(condition(&refused, "Accepted")["reason"], "Immutable");
    assert_eq!(condition(&refused, "Programmed")["reason"], "NotAccepted");
    until_said(&kubectl.within("kube-system"), "default", "Immutable")?;
    let before = controllers(mesh)?;
    mesh.system().run(&["rollout", "restart", "deployment/martlet-controller"])?;
    mesh.wait_for_rollout("deployment/martlet-controller")?;
    wait_for("a new pod to be the controller, and the old ones to be gone", PATIENCE, || {
        let (now, all) = (holder(mesh)?, controllers(mesh)?);
        Ok((all.contains(&now) && all.is_disjoint(&before)).then_some(()))
    })?;
    shop.apply(&pods::idle("newcomer", "node1"))?;
    shop.ready_pod("newcomer")?;
    until_enrolled("newcomer", "Strict")?;
    mesh.until_answered("newcomer")?;
    mesh.until_refused("outsider")?;
    assert!(fails_open()?);
    let object = kubectl.get(&["meshconfig", "default"])?;
    assert_eq!(object["status"]["inEffect"]["failure"], "open", "{object:#}");

    set(json!({"defaultMode": "permissive", "failure": "closed", "trustDomain": null}))?;
    until("Programmed", "True", 3)?;
    until_enrolled("client", "Permissive")?;
    mesh.until_answered("outsider")?;
    assert!(!fails_open()?);

    kubectl.run(&["delete", "meshconfig", "default"])?;
    until_enrolled("client", "")?;
    until_said(&kubectl.within("kube-system"), "default", "Defaults")?;
    let kept = mesh.system().get(&["configmap", "martlet-settings"])?;
    assert!(!kept["data"]["settings.json"].as_str().unwrap_or("uid").contains("uid"), "{kept:#}");
    shop.run(&["delete", "pod", "newcomer", "--grace-period=0", "--force"])?;
    kubectl.run(&["label", "namespace", "default", "martlet.dev/mode-"])?;
    mesh.label("=strict")?;
    mesh.until_steered()?;
    mesh.until_answered("client")
}

fn one_replica_is_the_controller_and_the_other_says_so(mesh: &Mesh) -> Result<()> {
    let (holder, all) = (holder(mesh)?, controllers(mesh)?);
    assert!(all.len() == 2 && all.contains(&holder), "{holder} of {all:?}");
    let standby = all.iter().find(|pod| **pod != holder).context("there are two")?;
    let nodes = |pod: &str| mesh.system().exec(pod, &["/usr/bin/martlet", "nodes"]);
    let refused = nodes(standby).err().context("both answer as the controller")?;
    assert!(format!("{refused:#}").contains(&holder), "{refused:#}");
    nodes(&holder)?;
    leads_to(mesh, &holder)
}

/// Nothing that it could still do is needed: its process dies, and its pod is deleted.
fn a_holder_that_is_killed_is_followed(mesh: &Mesh) -> Result<()> {
    let (before, roots) = (holder(mesh)?, mesh.roots()?);
    let pod = mesh.system().get(&["pod", &before])?;
    let node = pod["spec"]["nodeName"].as_str().context("a pod that runs is on a node")?;
    let killing = Instant::now();
    let traffic = Traffic::start(mesh, 60);
    mesh.system().run(&[
        "delete",
        "pod",
        &before,
        "--force",
        "--grace-period=0",
        "--wait=false",
    ])?;
    // The name of a process has 15 characters at most.
    let kill = "for p in /proc/[0-9]*; do read name < $p/comm; [ $name != martlet-control ] || \
                kill -9 ${p#/proc/}; done";
    mesh.own.task(&["exec", node, "bash", "-c", kill])?;
    let shop = mesh.kubectl.within("shop");
    shop.apply(&pods::idle("late", "node1"))?;
    let after = wait_for("another replica to be the controller", PATIENCE, || {
        let now = holder(mesh)?;
        Ok((now != before && !now.is_empty()).then_some(now))
    })?;
    let taken_over = killing.elapsed();
    leads_to(mesh, &after)?;
    shop.ready_pod("late")?;
    mesh.until_answered("late").context("the new controller certifies")?;
    eprintln!("taken over after {taken_over:?}; a new pod is served after {:?}", killing.elapsed());
    assert_eq!(mesh.roots()?, roots);
    traffic.undisturbed()?;
    agents_have_not_begun_anew(mesh)?;
    mesh.wait_for_rollout("deployment/martlet-controller")
}

fn a_rolling_restart_loses_no_connection(mesh: &Mesh) -> Result<()> {
    let (before, roots) = (controllers(mesh)?, mesh.roots()?);
    let traffic = Traffic::start(mesh, 45);
    mesh.system().run(&["rollout", "restart", "deployment/martlet-controller"])?;
    mesh.wait_for_rollout("deployment/martlet-controller")?;
    let began = Instant::now();
    let after = wait_for("a new pod to be the controller", PATIENCE, || {
        let now = holder(mesh)?;
        Ok((!now.is_empty() && !before.contains(&now)).then_some(now))
    })?;
    eprintln!("after the restart {after} is the controller, {:?} later", began.elapsed());
    let shop = mesh.kubectl.within("shop");
    shop.apply(&pods::idle("later", "node1"))?;
    shop.ready_pod("later")?;
    mesh.until_answered("later")?;
    assert_eq!(mesh.roots()?, roots);
    traffic.undisturbed()?;
    agents_have_not_begun_anew(mesh)
}

/// New connections, one after the other.
struct Traffic(thread::JoinHandle<Result<String>>);

impl Traffic {
    fn start(mesh: &Mesh, seconds: u64) -> Self {
        let shop = mesh.kubectl.within("shop");
        let script = format!(
            "n=0; bad=0; end=$(($(date +%s) + {seconds})); while [ $(date +%s) -lt $end ]; do \
             n=$((n + 1)); timeout 5 wget -q -O /dev/null http://server.shop/ || bad=$((bad + 1)); \
             done; echo $n connections, $bad failed"
        );
        Self(thread::spawn(move || shop.exec("client", &["sh", "-c", &script])))
    }

    fn undisturbed(self) -> Result<()> {
        let said = self.0.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))??;
        eprintln!("{}", said.trim());
        ensure!(said.contains(", 0 failed") && !said.starts_with("0 "), "{said}");
        Ok(())
    }
}

fn policy(rule: &str) -> String {
    format!(
        "---\napiVersion: martlet.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: callers}}\n\
         spec: {{selector: {{matchLabels: {{app: server}}}}, action: Allow, rules: [{rule}]}}\n"
    )
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|one| one["type"] == kind));
    found.unwrap_or(&Value::Null)
}

fn items(list: &Value) -> Result<&Vec<Value>> {
    list["items"].as_array().context("a list has items")
}

/// What an Event of this reason says about the object.
fn until_said(kubectl: &Kubectl, of: &str, reason: &str) -> Result<String> {
    wait_for(&format!("an Event {reason} of {of}"), Duration::from_secs(30), || {
        let events = kubectl.get(&["events"])?;
        let found = items(&events)?
            .iter()
            .find(|event| event["reason"] == reason && event["involvedObject"]["name"] == of);
        Ok(found.map(|event| event["message"].as_str().unwrap_or_default().to_owned()))
    })
}

fn holder(mesh: &Mesh) -> Result<String> {
    let lease = mesh.system().get(&["lease", "martlet-controller"])?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

fn controllers(mesh: &Mesh) -> Result<BTreeSet<String>> {
    let selector = "app.kubernetes.io/name=martlet-controller";
    let pods = mesh.system().get(&["pods", "--selector", selector])?;
    let name = |pod: &Value| Some(pod["metadata"]["name"].as_str()?.to_owned());
    Ok(items(&pods)?.iter().filter_map(name).collect())
}

/// The Service leads to this pod, and to no other.
fn leads_to(mesh: &Mesh, pod: &str) -> Result<()> {
    let pod = mesh.system().get(&["pod", pod])?;
    wait_for("the Service to lead to the holder", PATIENCE, || {
        let slice = mesh.system().get(&["endpointslice", "martlet-controller"])?;
        let endpoints = &slice["endpoints"];
        let is_one = endpoints.as_array().is_some_and(|all| all.len() == 1);
        Ok((is_one && endpoints[0]["addresses"][0] == pod["status"]["podIP"]).then_some(()))
    })
}

fn agents_have_not_begun_anew(mesh: &Mesh) -> Result<()> {
    for agent in mesh.agents()? {
        let pod = mesh.system().get(&["pod", &agent])?;
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{agent}");
    }
    Ok(())
}
