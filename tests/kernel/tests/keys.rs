//! Private keys exist only in the agent's memory, and not there longer than they are needed.
//!
//! Keys are found in the running agent by nothing but its public keys, as whoever can read its
//! memory would; then everything else is searched for them.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use martlet_identity::SigningKey;
use martlet_lab::{Agent, PORT, Pod, Stage, evidence, find_binary, wait_for};
use martlet_tests_kernel::{
    children,
    secrets::{Memory, Scalar, Secrets, forms},
    tamper,
};
use nix::sys::signal::Signal;

/// The end of what stands before a public key of P-256.
const SPKI_END: &[u8] = b"\x03\x42\x00";
const SEND: [&str; 4] = ["--then", "send", "--bytes", "1000"];
const PATIENCE: Duration = Duration::from_secs(60);
/// A map with more room than a key needs.
const ROOMY: &str = "LEDGER";
const ANSWERS: [&str; 6] =
    ["/status", "/workloads", "/connections", "/certificates", "/check", "/records"];
/// Of a process, what says something about its memory or its start.
const PROC: [&str; 8] =
    ["environ", "cmdline", "maps", "status", "auxv", "stat", "mountinfo", "comm"];

fn memory(agent: &Agent) -> Result<Memory> {
    Memory::of(agent.pid().context("the agent runs")?)
}

fn flows(from: &Pod, to: &Pod) -> Result<()> {
    for ip in to.addresses() {
        let client = from.connect(SocketAddr::new(ip, PORT), &SEND)?;
        assert_eq!(client["finished"], true, "{client}");
    }
    Ok(())
}

fn keys(agent: &Agent) -> Result<BTreeSet<Scalar>> {
    Ok(memory(agent)?.keys()?.into_values().flatten().collect())
}

/// Every file below a directory; sockets and directories that are mounted there have no bytes.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => found.extend(files(&entry.path())?),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    Ok(found)
}

/// Everything that an agent's keys could have got into, each with its name.
fn artefacts(stage: &Stage) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    let authority = stage.mesh.authority();
    // Its keys are in files by design; those of workloads were never there.
    for path in files(stage.lab.directory())?.into_iter().filter(|p| !p.starts_with(authority)) {
        // What is pinned on the bpffs can't be read as a file.
        if let Ok(bytes) = fs::read(&path) {
            all.push((path.display().to_string(), bytes));
        }
    }
    for agent in [&stage.one, &stage.two] {
        for target in ANSWERS {
            all.push((target.to_owned(), agent.get(target)?.to_string().into_bytes()));
        }
        all.push(("/metrics".to_owned(), agent.admin("/metrics")?.body.into_bytes()));
        all.extend(tamper::contents(&agent.node().pin(), Scalar::default().len())?);
        let pid = agent.pid().context("the agent runs")?;
        for name in PROC {
            let path = format!("/proc/{pid}/{name}");
            all.push((path.clone(), fs::read(&path).context(path)?));
        }
    }
    Ok(all)
}

fn hits(secrets: &Secrets, artefacts: &[(String, Vec<u8>)]) -> Vec<String> {
    let hit = artefacts.iter().filter(|(_, bytes)| secrets.found_in(bytes) > 0);
    hit.map(|(name, _)| name.clone()).collect()
}

#[test]
fn no_private_key_is_in_any_artefact_and_a_planted_one_is_found() -> Result<()> {
    let mut stage = Stage::prepare("strict", |_| {})?;
    for agent in [&mut stage.one, &mut stage.two] {
        agent.set_env("MARTLET_LEAF_SECONDS", "8");
        agent.set_env("RUST_LOG", "trace");
    }
    stage.launch()?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    let mut known = BTreeSet::new();
    // Until both have renewed at least twice.
    wait_for("renewals", PATIENCE, || {
        flows(&stage.caller, &stage.far)?;
        known.extend(keys(&stage.one)?);
        known.extend(keys(&stage.two)?);
        Ok((known.len() >= 9).then_some(()))
    })?;
    let stranger = stage.stranger.clone();
    stage.mesh.enroll(&stranger, "shop", "cart", "strict");
    stage.reload()?;
    flows(&stranger, &stage.far)?;
    known.extend(keys(&stage.one)?);
    let secrets = Secrets::new(&known)?;
    let searched = artefacts(&stage)?;
    assert_eq!(hits(&secrets, &searched), Vec::<String>::new());
    for agent in [&stage.one, &stage.two] {
        for opener in children(agent.pid().context("it runs")?)? {
            assert_eq!(Memory::of(opener)?.finds(&secrets), 0, "in the opener's memory");
        }
    }
    // The search finds what is there, in a file of the lab and in the log.
    for form in forms(known.first().context("keys were found")?) {
        let planted = stage.one.file().with_file_name("planted");
        fs::write(&planted, [b"before ".as_slice(), &form, b" behind"].concat())?;
        let found = hits(&secrets, &artefacts(&stage)?);
        assert_eq!(found, [planted.display().to_string()]);
        fs::remove_file(planted)?;
    }
    let key = known.first().context("keys were found")?;
    let map = tamper::version(&stage.one.node().pin())?.join("maps").join(ROOMY);
    let entries = tamper::Entries::open(&map)?;
    let first = entries.keys()?.pop().context("something is counted")?;
    let counted = entries.get(&first)?;
    entries.set(&first, &[key.as_slice(), &counted[key.len()..]].concat())?;
    assert_eq!(hits(&secrets, &artefacts(&stage)?), [ROOMY]);
    evidence(
        "no_private_key_is_in_any_artefact_and_a_planted_one_is_found",
        &[("keys", &known.len()), ("artefacts searched", &searched.len()), ("found", &0)],
    )
}

/// Made, asked for a certificate with, on a stack that nothing has overwritten since.
#[test]
fn a_key_is_in_memory_once_and_after_its_last_user_not_at_all() -> Result<()> {
    let key = SigningKey::generate()?;
    let made = Memory::of(std::process::id())?;
    let request = key.csr()?.0;
    let alive = Memory::of(std::process::id())?;
    drop(key);
    let dropped = Memory::of(std::process::id())?;
    let at = request.windows(SPKI_END.len()).position(|bytes| bytes == SPKI_END);
    let at = at.context("the request has a key")? + SPKI_END.len();
    let public = request[at..at + 65].to_vec();
    let found = alive.keys_of(&[(public, String::new())].into())?.remove("");
    let secrets = Secrets::new(&found.context("the key is found while it lives")?)?;
    // Each picture is in the later ones.
    let copies = [&made, &alive, &dropped].map(|picture| picture.finds(&secrets));
    assert_eq!(copies, [1, 1 + 1, 1 + 2]);
    Ok(())
}

#[test]
fn the_key_of_a_withdrawn_workload_is_gone_from_memory() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    flows(&stage.caller, &stage.far)?;
    let (cart, web) = (stage.mesh.identity("shop", "cart"), stage.mesh.identity("shop", "web"));
    let keys = memory(&stage.one)?.keys()?;
    let cart = keys.get(&cart).context("the caller's key is in memory while it is enrolled")?;
    let web = keys.get(&web).context("its neighbor's too")?;
    let caller = stage.caller.clone();
    stage.mesh.withdraw(&caller);
    stage.reload()?;
    let gone = Secrets::new(cart)?;
    wait_for("the key to be gone", PATIENCE, || {
        Ok((memory(&stage.one)?.finds(&gone) == 0).then_some(()))
    })?;
    assert!(memory(&stage.one)?.finds(&Secrets::new(web)?) > 0, "the neighbor's stays");
    evidence("the_key_of_a_withdrawn_workload_is_gone_from_memory", &[("copies left", &0)])
}

/// Also while a connection is open that was opened with it.
#[test]
fn the_key_of_a_renewed_certificate_is_gone_from_memory() -> Result<()> {
    let mut stage = Stage::prepare("strict", |_| {})?;
    stage.one.set_env("MARTLET_LEAF_SECONDS", "10");
    stage.launch()?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    let to = SocketAddr::new(stage.far.v4(), PORT).to_string();
    let arguments = ["crowd", "--to", &to, "--connections", "1", "--until-input-ends"];
    let mut live = stage.caller.probe(&arguments)?.with_input().spawn()?;
    live.wait_until_listening()?;
    let cart = stage.mesh.identity("shop", "cart");
    let current = || -> Result<BTreeSet<Scalar>> {
        Ok(memory(&stage.one)?.keys()?.remove(&cart).into_iter().flatten().collect())
    };
    let first = current()?;
    assert!(!first.is_empty());
    let old = Secrets::new(&first)?;
    wait_for("the first key to be gone", PATIENCE, || {
        Ok((memory(&stage.one)?.finds(&old) == 0).then_some(()))
    })?;
    assert!(!current()?.is_empty(), "there is another one");
    live.close_input();
    assert_eq!(live.wait(PATIENCE)?.json()?["echoed"], 1, "the connection lived on");
    Ok(())
}

#[test]
fn an_aborting_agent_leaves_no_core_where_another_program_leaves_one() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let sleeping = stage.one.node().command(find_binary("lab-probe")?);
    // Of the same limits, but not confined.
    let mut sleeping = sleeping
        .with_capabilities(&martlet_lab::AGENT_CAPABILITIES)
        .current_dir(stage.caller.directory()?)
        .args(["serve", "--listen", "127.0.0.1:7777"])
        .spawn()?;
    sleeping.wait_until_listening()?;
    sleeping.signal(Signal::SIGABRT)?;
    let status = sleeping.wait(PATIENCE)?.status;
    let dumps = status.core_dumped();
    stage.one.signal(Signal::SIGABRT)?;
    let status = stage.one.wait_for_end()?.status;
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    assert!(dumps && !status.core_dumped(), "{dumps} {status:?}");
    let cores = files(stage.lab.directory())?;
    let of_agent = |path: &PathBuf| {
        path.starts_with(stage.one.file().parent().unwrap_or(path))
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core"))
    };
    assert_eq!(cores.iter().filter(|path| of_agent(path)).count(), 0);
    evidence("an_aborting_agent_leaves_no_core_where_another_program_leaves_one", &[("cores", &0)])
}
