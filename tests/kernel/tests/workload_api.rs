//! A workload that asks for it gets its identity for itself, over a socket that answers nobody else.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use martlet_lab::{Agent, Clock, Cluster, Lab, Pod, Stage, find_binary, patience, wait_for};
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Context};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

const WAIT: Duration = Duration::from_secs(30);
const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;

type Said = Result<X509Context, WorkloadApiError>;

fn directory(agent: &Agent) -> PathBuf {
    agent.socket().with_file_name("workloads")
}

fn socket(agent: &Agent, pod: &Pod) -> PathBuf {
    directory(agent).join("shop").join(format!("{}.sock", pod.name()))
}

/// Waits for the socket that an agent makes of its own accord.
fn wait_for_socket(path: &Path) -> Result<()> {
    wait_for(&format!("{}", path.display()), WAIT, || Ok(path.exists().then_some(())))
}

/// Everything that a caller of a socket is told, until it has no use for more. To be run where the
/// caller is: on a thread in its network namespace.
fn listen(path: &Path, mut hear: impl FnMut(Said) -> bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = WorkloadApiClient::connect_to(format!("unix:{}", path.display())).await?;
        let mut said = match client.stream_x509_contexts().await {
            Ok(said) => Box::pin(said),
            Err(error) => {
                hear(Err(error));
                return Ok(());
            }
        };
        loop {
            let next = timeout(patience(WAIT), said.next()).await.context("nothing is said")?;
            let goes_on = next.is_some_and(&mut hear);
            if !goes_on {
                return Ok(());
            }
        }
    })
}

fn ask(path: &Path) -> Result<Said> {
    let mut heard = None;
    listen(path, |said| {
        heard = Some(said);
        false
    })?;
    heard.context("nothing was said")
}

/// Follows a stream from inside a pod.
fn follow(pod: &Pod, path: &Path) -> mpsc::Receiver<Said> {
    let (tell, told) = mpsc::channel();
    let (pod, path) = (pod.clone(), path.to_owned());
    thread::spawn(move || pod.run(|| listen(&path, |said| tell.send(said).is_ok())));
    told
}

fn next(told: &mpsc::Receiver<Said>) -> Result<Said> {
    told.recv_timeout(patience(WAIT)).map_err(|_| anyhow!("nothing is said"))
}

fn identity(said: &X509Context) -> Result<String> {
    assert_eq!(said.svids().len(), 1);
    Ok(said.default_svid().context("an SVID")?.spiffe_id().to_string())
}

fn key(said: &X509Context) -> Result<Vec<u8>> {
    Ok(said.default_svid().context("an SVID")?.private_key().as_bytes().to_vec())
}

fn leaf(said: &X509Context) -> Result<Vec<u8>> {
    let svid = said.default_svid().context("an SVID")?;
    Ok(svid.cert_chain().first().context("a leaf")?.as_bytes().to_vec())
}

fn roots(said: &X509Context) -> Vec<Vec<u8>> {
    let roots = said.bundle_set().iter().flat_map(|(_, bundle)| bundle.authorities().to_vec());
    roots.map(|root| root.as_bytes().to_vec()).collect()
}

fn is_refusal(said: &Said) -> bool {
    matches!(said, Err(WorkloadApiError::NoIdentityIssued))
}

fn wait_for_leaves(cluster: &Cluster, count: u64) -> Result<()> {
    wait_for(&format!("{count} certificates to be counted"), WAIT, || {
        let trust = cluster.controller.martlet(&["trust", "status", "--output", "json"])?;
        Ok((trust["roots"][0]["leaves"] == count).then_some(()))
    })
}

/// The caller and its neighbor ask for the API.
fn stage() -> Result<Stage> {
    let mut stage = Stage::prepare("strict", |_| {})?;
    for pod in [&stage.caller, &stage.near] {
        stage.mesh.workload_api(pod, true);
    }
    stage.one = Agent::prepare(&stage.mesh, stage.caller.node())?;
    Ok(stage)
}

#[test]
fn a_workload_gets_its_identity_and_nobody_else_gets_it() -> Result<()> {
    let mut stage = stage()?;
    stage.launch()?;
    let (mine, nears) = (socket(&stage.one, &stage.caller), socket(&stage.one, &stage.near));
    let said = stage.caller.run(|| ask(&mine))???;
    assert_eq!(identity(&said)?, stage.mesh.identity("shop", "cart"));
    assert_eq!(roots(&said).len(), 1);
    let near = stage.near.run(|| ask(&nears))???;
    assert_eq!(identity(&near)?, stage.mesh.identity("shop", "web"));
    assert_ne!(key(&said)?, key(&near)?);
    // The lanes' certificates are others.
    let serial = |said: &X509Context| -> Result<String> {
        Ok(martlet_identity::describe(&leaf(said)?)?.serial)
    };
    let lanes = stage.one.get("/certificates")?.to_string();
    assert!(!lanes.contains(&serial(&said)?) && !lanes.contains(&serial(&near)?), "{lanes}");

    let node = stage.one.node();
    let others = [
        ("an enrolled pod with a socket of its own", stage.near.run(|| ask(&mine))??),
        ("the same the other way round", stage.caller.run(|| ask(&nears))??),
        ("a pod outside the mesh", stage.stranger.run(|| ask(&mine))??),
        ("the node", node.run(|| ask(&mine))??),
        ("the host of the lab", ask(&mine)?),
    ];
    for (who, said) in &others {
        assert!(is_refusal(said), "{who} was told {said:?}");
    }
    // Who does not ask has none.
    assert!(!socket(&stage.two, &stage.far).exists());
    let name = "martlet_workload_api_calls_total";
    let refused = stage.one.metric(name, &["result=\"failure\""])?;
    let answered = stage.one.metric(name, &["result=\"success\""])?;
    assert!(refused >= 5.0 && answered >= 2.0, "{refused} refused, {answered} answered");
    Ok(())
}

#[test]
fn a_renewal_reaches_an_open_stream_with_another_key() -> Result<()> {
    let mut stage = stage()?;
    stage.one.set_env("MARTLET_LEAF_SECONDS", "8");
    stage.launch()?;
    let told = follow(&stage.caller, &socket(&stage.one, &stage.caller));
    let first = next(&told)??;
    let second = next(&told)??;
    assert_eq!(identity(&first)?, identity(&second)?);
    assert_ne!(leaf(&first)?, leaf(&second)?);
    assert_ne!(key(&first)?, key(&second)?);
    assert_eq!(roots(&first), roots(&second));
    Ok(())
}

#[test]
fn who_is_withdrawn_or_asks_no_more_is_told_so_and_has_no_socket() -> Result<()> {
    let mut stage = stage()?;
    stage.launch()?;
    let (callers, nears) = (socket(&stage.one, &stage.caller), socket(&stage.one, &stage.near));
    let (caller, near) = (follow(&stage.caller, &callers), follow(&stage.near, &nears));
    assert!(next(&caller)?.is_ok() && next(&near)?.is_ok());
    stage.mesh.withdraw(&stage.caller);
    stage.reload()?;
    let said = next(&caller)?;
    assert!(is_refusal(&said), "{said:?}");
    assert!(!callers.exists() && nears.exists());
    stage.mesh.workload_api(&stage.near, false);
    stage.reload()?;
    let said = next(&near)?;
    assert!(is_refusal(&said), "{said:?}");
    assert!(!nears.exists());
    // Back again, with another key.
    stage.mesh.workload_api(&stage.near, true);
    stage.reload()?;
    wait_for_socket(&nears)?;
    assert!(stage.near.run(|| ask(&nears))??.is_ok());
    Ok(())
}

#[test]
fn sockets_outlive_no_agent_and_nothing_is_left_by_uninstall() -> Result<()> {
    let mut stage = stage()?;
    stage.launch()?;
    let (callers, nears) = (socket(&stage.one, &stage.caller), socket(&stage.one, &stage.near));
    let before = stage.caller.run(|| ask(&callers))???;
    stage.one.kill()?;
    assert!(callers.exists() && nears.exists());
    stage.mesh.workload_api(&stage.near, false);
    let node = stage.caller.node().clone();
    stage.one = Agent::start(&stage.mesh, &node)?;
    wait_for_socket(&callers)?;
    let after = stage.caller.run(|| ask(&callers))???;
    assert_ne!(key(&before)?, key(&after)?);
    assert!(!nears.exists());
    // Whoever removes the socket has it made anew.
    std::fs::remove_file(&callers)?;
    wait_for_socket(&callers)?;
    assert!(stage.caller.run(|| ask(&callers))??.is_ok());
    stage.one.stop()?;
    assert!(!callers.exists());
    assert!(directory(&stage.one).exists());
    let program = node.command(find_binary("martlet-agent")?).arg("uninstall");
    program.arg("--config").arg(stage.one.file()).run()?.success()?;
    assert!(!directory(&stage.one).exists());
    Ok(())
}

#[test]
fn who_is_cut_off_is_handed_nothing_until_it_is_released() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 2)?;
    // Each node's own certificate, and that of its pod's lanes.
    wait_for_leaves(&cluster, 4)?;
    let (pod, other) = (cluster.pod("a1")?.clone(), cluster.pod("a2")?.clone());
    for pod in [&pod, &other] {
        cluster.mesh.workload_api(pod, true);
    }
    cluster.declare()?;
    let (path, others) = (socket(cluster.agent("a1")?, &pod), socket(cluster.agent("a2")?, &other));
    wait_for_socket(&path)?;
    wait_for_socket(&others)?;
    let (told, others) = (follow(&pod, &path), follow(&other, &others));
    let first = next(&told)??;
    assert_eq!(identity(&first)?, cluster.mesh.identity("shop", "a1"));
    next(&others)??;
    // A rotation knows that these rest on the root too.
    wait_for_leaves(&cluster, 6)?;
    let id = cluster.mesh.identity("shop", "a1");
    cluster.controller.martlet_text(&["trust", "quarantine", "identity", &id])?;
    let said = next(&told)?;
    assert!(is_refusal(&said), "{said:?}");
    assert!(others.try_recv().is_err(), "nobody else hears of it");
    let again = follow(&pod, &path);
    cluster.controller.martlet_text(&["trust", "release", "identity", &id])?;
    assert!(next(&again)?.is_ok());
    Ok(())
}

#[test]
fn a_socket_that_cannot_be_made_is_said_by_readiness_until_it_is_there() -> Result<()> {
    let mut stage = stage()?;
    stage.launch()?;
    let path = socket(&stage.one, &stage.caller);
    let of_namespace = path.parent().context("it is in a directory")?.to_owned();
    // Somebody puts a file where the directory was.
    std::fs::remove_dir_all(&of_namespace)?;
    std::fs::write(&of_namespace, "in the way")?;
    let why = wait_for("readiness to say so", WAIT, || {
        let ready = stage.one.admin("/readyz")?;
        Ok((ready.status == 503).then_some(ready.body))
    })?;
    assert!(why.contains("shop/caller is not offered the Workload API"), "{why}");
    assert!(why.contains(&path.display().to_string()), "{why}");
    // Its lanes have nothing to do with it.
    let server = stage.far.serve(&["--then", "echo"])?;
    let client =
        stage.caller.connect(stage.far.application(), &["--then", "send", "--bytes", "9"])?;
    assert_eq!(client["received"], 9, "{client}");
    drop(server);
    std::fs::remove_file(&of_namespace)?;
    wait_for("the agent to be ready again", WAIT, || {
        Ok((stage.one.admin("/readyz")?.status == 200).then_some(()))
    })?;
    assert!(stage.caller.run(|| ask(&path))??.is_ok());
    Ok(())
}

#[test]
fn a_controllers_workload_whose_socket_would_have_too_long_a_path_is_refused_alone() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 1)?;
    let (pod, long) = (cluster.pod("a1")?.clone(), cluster.agents[0].node().pod("long")?);
    cluster.mesh.enroll(&long, &"n".repeat(63), "long", "strict");
    for pod in [&pod, &long] {
        cluster.mesh.workload_api(pod, true);
    }
    cluster.declare()?;
    let agent = cluster.agent("a1")?;
    let why = wait_for("the agent to say why", WAIT, || {
        let ready = agent.admin("/readyz")?;
        Ok((ready.status == 503 && ready.body.contains("/long")).then_some(ready.body))
    })?;
    assert!(why.contains("bytes") && why.contains("long.sock"), "{why}");
    let path = socket(agent, &pod);
    wait_for_socket(&path)?;
    let said = pod.run(|| ask(&path))???;
    assert_eq!(identity(&said)?, cluster.mesh.identity("shop", "a1"));
    // Nothing is there for who was refused, and nothing was asked for.
    let leaves = agent.get("/certificates")?["leaves"].clone();
    assert_eq!(leaves.as_array().map(Vec::len), Some(1), "{leaves:#}");
    cluster.mesh.withdraw(&long);
    cluster.declare()?;
    wait_for("the agent to be ready again", WAIT, || {
        Ok((cluster.agent("a1")?.admin("/readyz")?.status == 200).then_some(()))
    })
}

#[test]
fn a_stream_that_is_open_while_the_root_is_replaced_gets_both_roots_and_then_the_new_one()
-> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 1)?;
    let pod = cluster.pod("a1")?.clone();
    cluster.mesh.workload_api(&pod, true);
    cluster.declare()?;
    let path = socket(cluster.agent("a1")?, &pod);
    wait_for_socket(&path)?;
    let told = follow(&pod, &path);
    let first = next(&told)??;
    cluster.controller.martlet_text(&["trust", "rotate"])?;
    // Every answer can be used as it is: its leaf rests on a root of its bundle.
    let (mut both, mut last) = (0, first.clone());
    while roots(&last) == roots(&first) || roots(&last).len() > 1 {
        last = next(&told)??;
        assert_eq!(identity(&last)?, identity(&first)?);
        both += usize::from(roots(&last).len() == 2);
        verify(&last)?;
    }
    assert!(both >= 2, "at first with the old leaf, then with the new one");
    assert_ne!(key(&first)?, key(&last)?);
    assert!(roots(&last).len() == 1 && roots(&last) != roots(&first));
    Ok(())
}

/// Whether its own bundle vouches for its leaf.
fn verify(said: &X509Context) -> Result<()> {
    let svid = said.default_svid().context("an SVID")?;
    let chain = svid.cert_chain().iter().map(|certificate| certificate.as_bytes().to_vec());
    let domain = svid.spiffe_id().trust_domain().to_string().parse()?;
    let bundle = martlet_identity::TrustBundle::new([(domain, roots(said))])?;
    let (chain, now) = (martlet_identity::Chain(chain.collect()), std::time::SystemTime::now());
    martlet_identity::verify_chain(&chain, std::sync::Arc::new(bundle), now)?;
    Ok(())
}

#[test]
fn what_could_not_be_renewed_is_handed_out_to_nobody_when_it_has_expired() -> Result<()> {
    let lab = Lab::new()?;
    let clock = Clock::in_file(&lab.directory().join("clock"))?;
    clock.set(0)?;
    let mut cluster = Cluster::prepare(&lab, "a", 1)?;
    let pod = cluster.pod("a1")?.clone();
    cluster.mesh.workload_api(&pod, true);
    cluster.declare()?;
    cluster.controller.set_clock(&clock);
    let agent = &mut cluster.agents[0];
    agent.set_clock(&clock);
    agent.restart()?;
    let path = socket(agent, &pod);
    wait_for_socket(&path)?;
    let told = follow(&pod, &path);
    let first = next(&told)??;
    cluster.controller.kill()?;
    clock.set(DAY - 10 * MINUTE)?;
    assert_eq!(key(&pod.run(|| ask(&path))???)?, key(&first)?, "it lasts still");
    assert!(told.try_recv().is_err(), "nothing is new");
    clock.set(DAY + MINUTE)?;
    let said = next(&told)?;
    assert!(is_refusal(&said), "{said:?}");
    // Whoever asks now waits, and gets another one when there is somebody who issues it.
    let again = follow(&pod, &path);
    cluster.controller.launch()?;
    assert_ne!(key(&next(&again)??)?, key(&first)?);
    Ok(())
}
