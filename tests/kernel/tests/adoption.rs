//! What an agent finds when it starts: another agent, older programs, links that lead elsewhere,
//! namespaces that can't be enrolled, kernels that lack something.

use std::{io::ErrorKind, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use martlet_kernel::{Feature, KernelError, Netns, Node, Settings, Terms, missing_features};
use martlet_lab::wait_for;
use martlet_tests_kernel::{Lab, Place, leave_outside, members, relay, tamper};

const PATIENCE: Duration = Duration::from_secs(10);

async fn is_refused(from: &Place, to: SocketAddr) -> Result<bool> {
    match from.connect(to).await {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_one_pin_directory_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let first = Node::start(&lab.settings)?;
    let error = Node::start(&lab.settings).err().context("two agents at once")?;
    assert!(matches!(error, KernelError::PinInUse { .. }), "{error:?}");
    assert!(error.to_string().contains("in use by another agent"), "{error}");
    drop(first);
    Node::start(&lab.settings)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_with_another_layout_refuse_until_they_are_retired() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let to = SocketAddr::new(b.v4, 8080);
    let _listener = b.listen(to)?;
    let older = Node::start(&lab.settings)?;
    members(&older, &[&a, &b])?;
    for place in [&a, &b] {
        place.enroll(&older, true)?;
    }
    drop(older);
    // As an agent with another version of the layout would have left it.
    let version = |name: &str| lab.settings.pin.join(name);
    let entries = std::fs::read_dir(&lab.settings.pin)?;
    let ours = entries.flatten().map(|entry| entry.path()).next().context("a version is pinned")?;
    std::fs::rename(&ours, version("v4000000000"))?;

    let node = Node::start(&lab.settings)?;
    assert!(node.hooks().iter().all(|hook| hook.attached && !hook.adopted));
    members(&node, &[&a, &b])?;
    let mut pods = Vec::new();
    for place in [&a, &b] {
        let (pod, listeners) = place.enroll(&node, true)?;
        relay(pod.dialer(), listeners);
        pods.push(pod);
    }
    assert!(is_refused(&a, to).await?, "both generations are attached");
    node.retain(&pods.iter().collect::<Vec<_>>())?;
    assert!(!version("v4000000000").exists() && ours.exists());
    assert!(!is_refused(&a, to).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_to_another_cgroup_is_replaced() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let to = SocketAddr::new(b.v4, 8080);
    let _listener = b.listen(to)?;
    let above = lab.node.cgroup().parent().context("the lab's own cgroup")?;
    let elsewhere = Settings { cgroup: above.to_owned(), ..lab.settings.clone() };
    drop(Node::start(&elsewhere)?);
    let node = Node::start(&lab.settings)?;
    assert!(node.hooks().iter().all(|hook| hook.attached && !hook.adopted));
    members(&node, &[&a, &b])?;
    let _pod = a.enroll(&node, true)?;
    a.connect(to).await?;
    let counters = node.counters()?;
    let steered = counters.iter().find(|c| c.verdict == "steered").context("the counter exists")?;
    assert_eq!(steered.count, 1, "the process is in the cgroup of the new links");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_outside_the_cgroup_of_its_hooks_does_not_start() -> Result<()> {
    let lab = Lab::new()?;
    let settings = Settings { cgroup: lab.other_cgroup("apart")?, ..lab.settings.clone() };
    let error = Node::start(&settings).err().context("the agent is elsewhere")?;
    assert!(matches!(error, KernelError::AgentOutside { .. }), "{error:?}");
    assert!(error.to_string().contains("apart"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_is_attached_only_while_the_kernel_says_so() -> Result<()> {
    let lab = Lab::new()?;
    let node = Node::start(&lab.settings)?;
    assert!(node.hooks().iter().all(|hook| hook.attached));
    // The pins stay, the links lead nowhere.
    for link in tamper::links(&lab.settings.pin, "")? {
        tamper::detach(&link)?;
    }
    assert!(node.hooks().iter().all(|hook| !hook.attached));
    assert!(!tamper::links(&lab.settings.pin, "")?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_attached_until_its_link_is_gone() -> Result<()> {
    let lab = Lab::new()?;
    let b = lab.place("web-0")?;
    let node = Node::start(&lab.settings)?;
    let (pod, _listeners) = b.enroll(&node, false)?;
    assert!(pod.is_attached()?);
    pod.set_terms(Terms { strict: true, ..b.terms() })?;
    assert!(pod.is_attached()?);
    node.retain(&[])?;
    assert!(!pod.is_attached()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_could_not_be_enrolled_again_stays_closed() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let to = SocketAddr::new(b.v4, 8080);
    let _listener = b.listen(to)?;
    let first = Node::start(&lab.settings)?;
    members(&first, &[&a, &b])?;
    for place in [&a, &b] {
        place.enroll(&first, true)?;
    }
    drop(first);
    let second = Node::start(&lab.settings)?;
    second.retain_declared(a.addresses(), &[])?;
    assert!(is_refused(&a, to).await?, "still steered, and nobody serves it");
    second.retain_declared([], &[])?;
    leave_outside(&second, &[&a])?;
    assert!(!is_refused(&a, to).await?, "no longer declared");
    Ok(())
}

fn sysctl(place: &Place) -> Result<String> {
    place.pod.netns().sysctl("ipv4/tcp_tw_reuse")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sysctl_of_a_forgotten_pod_is_restored_by_the_next_agent() -> Result<()> {
    let lab = Lab::new()?;
    let b = lab.place("web-0")?;
    let before = sysctl(&b)?;
    let first = Node::start(&lab.settings)?;
    b.enroll(&first, true)?;
    assert_eq!(sysctl(&b)?, "1");
    drop(first);
    Node::start(&lab.settings)?.retain(&[])?;
    assert_eq!(sysctl(&b)?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cgroup_leads_to_the_one_namespace_of_its_processes() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let mut sleeping = Vec::new();
    for place in [&a, &b] {
        sleeping.push(place.pod.command("/bin/sleep").arg("1000").spawn()?);
        wait_for("the program to be in its cgroup", PATIENCE, || {
            let procs = std::fs::read_to_string(place.pod.cgroup().join("cgroup.procs"))?;
            Ok((!procs.is_empty()).then_some(()))
        })?;
    }
    assert_eq!(Netns::of_cgroup(a.pod.cgroup())?.cookie(), a.netns.cookie());
    let error = Netns::of_cgroup(lab.node.cgroup()).err().context("two pods and this process")?;
    assert!(matches!(error, KernelError::CgroupMixed { .. }), "{error}");

    let empty = lab.other_cgroup("empty")?;
    let error = Netns::of_cgroup(&empty).err().context("no process")?;
    assert!(matches!(error, KernelError::CgroupEmpty { .. }), "{error:?}");
    assert!(error.to_string().contains(&empty.display().to_string()), "{error}");

    let missing = Netns::of_cgroup(Path::new("/nonexistent")).err().context("no cgroup")?;
    assert!(missing.to_string().contains("/nonexistent"), "{missing}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_own_namespace_is_never_enrolled() -> Result<()> {
    let lab = Lab::new()?;
    let node = Node::start(&lab.settings)?;
    let own = std::process::id();
    for netns in [Netns::of_pid(own)?, Netns::open(Path::new("/proc/self/ns/net"))?] {
        let refused = node.enroll(&netns, &["127.0.0.1".parse()?], Terms::default());
        let error = refused.err().context("the host is no pod")?;
        assert!(matches!(error, KernelError::OwnNetns { .. }), "{error}");
    }
    let error = Netns::of_cgroup(&lab.node.cgroup().join("host")).err().context("ours")?;
    assert!(matches!(error, KernelError::OwnNetns { .. }), "{error}");
    Ok(())
}

#[test]
fn each_missing_feature_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let mut settings = lab.settings.clone();
    ensure!(missing_features(&settings).is_empty(), "this kernel has all of them");
    let needed: Vec<_> = Feature::ALL.iter().filter(|feature| feature.is_needed()).collect();
    for feature in &needed {
        settings.without = vec![**feature];
        let missing = missing_features(&settings);
        assert_eq!(missing.iter().map(|m| m.feature).collect::<Vec<_>>(), [**feature]);
        assert!(missing[0].to_string().contains(feature.as_str()), "{}", missing[0]);
        assert_eq!(feature.as_str().parse(), Ok(**feature));
    }
    settings.without = Feature::ALL.to_vec();
    assert_eq!(missing_features(&settings).len(), needed.len());
    Ok(())
}
