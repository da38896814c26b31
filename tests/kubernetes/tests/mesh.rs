//! What a user of a cluster gets: from a label to mTLS, refusals and policies, on a real cluster.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use martlet_lab::wait_for;
use martlet_tests_kubernetes::{Mesh, PATIENCE, has_condition, pods};
use serde_json::Value;

fn policy(rule: &str) -> String {
    format!(
        "---\napiVersion: martlet.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: callers}}\n\
         spec: {{selector: {{matchLabels: {{app: server}}}}, action: Allow, rules: [{rule}]}}\n"
    )
}

/// One cluster for all of it: to make one takes longer than all that is shown on it.
#[test]
fn a_labelled_namespace_speaks_mtls_and_nobody_gets_around_it() -> Result<()> {
    let mesh = Mesh::up()?;

    // Without Martlet the secret crosses the wire for all to see.
    assert!(mesh.is_seen(|| mesh.until_answered("client"))?, "the wire shows what is plain");
    mesh.install()?;
    assert!(mesh.is_seen(|| mesh.until_answered("client"))?, "nobody asked for more yet");
    agents_may_do_nothing(&mesh)?;

    // The label is enough: pods that run speak mTLS from now on.
    mesh.label("=permissive")?;
    mesh.until_steered()?;
    assert!(!mesh.is_seen(|| mesh.until_answered("client"))?, "the secret was on the wire");
    let records = mesh.agents_say(&["records"])?;
    assert!(records.contains("mutual_tls"), "{records}");
    assert_eq!(mesh.restarts()?, 0);
    // Who is outside is still let in, and is as plain as before.
    assert!(mesh.is_seen(|| mesh.until_answered("outsider"))?);

    mesh.label("=strict")?;
    mesh.until_refused("outsider")?;
    assert!(!mesh.is_seen(|| mesh.until_answered("client"))?);
    probes_pass_and_what_looks_like_one_does_not(&mesh)?;
    policies_are_enforced(&mesh)?;
    nothing_is_plain_while_an_agent_is_away(&mesh)?;
    a_new_controller_is_the_same_authority(&mesh)?;

    // And back.
    mesh.label("-")?;
    mesh.until_answered("outsider")?;
    assert!(mesh.is_seen(|| mesh.until_answered("client"))?);
    assert_eq!(mesh.restarts()?, 0);
    Ok(())
}

/// An agent's token proves to the controller where it is, and opens nothing of the API.
fn agents_may_do_nothing(mesh: &Mesh) -> Result<()> {
    let rights = |account: &str| -> Result<BTreeSet<String>> {
        let of = format!("--as=system:serviceaccount:{account}");
        let groups = "--as-group=system:serviceaccounts";
        let listed = mesh.kubectl.run(&["auth", "can-i", "--list", &of, groups])?;
        Ok(listed.lines().map(|line| line.split_whitespace().collect()).collect())
    };
    let (agents, anybodys) = (rights("martlet-system:martlet-agent")?, rights("default:default")?);
    assert_eq!(agents, anybodys);
    assert_ne!(rights("martlet-system:martlet-controller")?, anybodys);
    Ok(())
}

/// Kubelet has no identity, and its probes of a strict pod pass all the same; what looks like one
/// does not.
fn probes_pass_and_what_looks_like_one_does_not(mesh: &Mesh) -> Result<()> {
    let passed = || -> Result<u64> {
        let said = mesh.agents_say(&["coverage", "--output", "json"])?;
        let mut passed = 0;
        // One document of each agent.
        for document in serde_json::Deserializer::from_str(&said).into_iter::<Value>() {
            let document = document?;
            let pairs = document["pairs"].as_array().context("coverage has pairs")?;
            let of_node = pairs.iter().filter(|pair| pair["from"] == "node");
            passed += of_node.filter_map(|p| p["plaintext"]["connections"].as_u64()).sum::<u64>();
        }
        Ok(passed)
    };
    let before = passed()?;
    wait_for("three probes to pass", PATIENCE, || Ok((passed()? >= before + 3).then_some(())))?;
    let server = mesh.kubectl.within("shop").get(&["pod", "server"])?;
    assert!(has_condition(&server, "Ready"), "{server:#}");
    let address = server["status"]["podIP"].as_str().context("a ready pod has an address")?;
    let look_alike = format!("exec 3<>/dev/tcp/{address}/8080");
    let tried = mesh.own.try_task(&["exec", "node2", "timeout", "5", "bash", "-c", &look_alike])?;
    assert!(!tried.status.success(), "the node's own shell was taken for kubelet");
    Ok(())
}

fn policies_are_enforced(mesh: &Mesh) -> Result<()> {
    let shop = mesh.kubectl.within("shop");
    shop.apply(&policy("{name: till, from: [{identities: ['spiffe://cluster.local/ns/till/']}]}"))?;
    mesh.until_refused("client")?;
    let records = mesh.agents_say(&["records"])?;
    assert!(records.contains("denied by shop/callers: no rule allows"), "{records}");
    shop.apply(&policy("{name: shop, from: [{namespaces: [shop]}], to: [{ports: ['8080']}]}"))?;
    mesh.until_answered("client")?;
    // What cannot be enforced is not left out.
    shop.apply(&policy("{name: get, to: [{ports: ['8080'], methods: [GET]}]}"))?;
    mesh.until_refused("client")?;
    let records = mesh.agents_say(&["records"])?;
    assert!(records.contains("shop/callers: cannot be enforced"), "{records}");
    shop.run(&["delete", "authorizationpolicy", "callers"])?;
    mesh.until_answered("client")
}

fn nothing_is_plain_while_an_agent_is_away(mesh: &Mesh) -> Result<()> {
    let is_seen = mesh.is_seen(|| {
        for pod in mesh.agents()? {
            mesh.system().run(&["delete", "pod", &pod, "--force", "--grace-period=0"])?;
            // Whatever becomes of it, plain it is not.
            for _ in 0..5 {
                mesh.is_answered("client");
            }
            mesh.wait_for_rollout("daemonset/martlet-agent")?;
        }
        mesh.until_answered("client")
    })?;
    assert!(!is_seen, "the secret was on the wire");
    assert!(!mesh.is_answered("outsider"), "strict stays strict");
    Ok(())
}

fn a_new_controller_is_the_same_authority(mesh: &Mesh) -> Result<()> {
    let before = mesh.roots()?;
    let selector = "app.kubernetes.io/name=martlet-controller";
    mesh.system().run(&["delete", "pod", "--selector", selector, "--wait=true"])?;
    mesh.until_answered("client").context("without a controller")?;
    mesh.wait_for_rollout("deployment/martlet-controller")?;
    assert_eq!(mesh.roots()?, before);
    // It certifies: a pod that comes now can call.
    let shop = mesh.kubectl.within("shop");
    shop.apply(&pods::idle("late", "node1"))?;
    shop.ready_pod("late")?;
    mesh.until_answered("late")
}
