//! The agent has the capabilities that it needs and no others, and can't get more.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use caps::{CapSet, Capability};
use martlet_kernel::{Confinement, Feature, Keyring, NEEDED, Netns, Node, Places, Terms, confine};
use martlet_lab::{AGENT_CAPABILITIES, PORT, Pod, Response, Stage, evidence, wait_for};
use martlet_tests_kernel::{Lab, children};
use nix::{
    sys::{
        resource::{RLIM_INFINITY, Resource, getrlimit},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork},
};

const SEND: [&str; 4] = ["--then", "send", "--bytes", "1000"];
const PATIENCE: Duration = Duration::from_secs(30);
const NAMES: [(&str, Capability); 3] = [
    ("CAP_NET_ADMIN", Capability::CAP_NET_ADMIN),
    ("CAP_SYS_PTRACE", Capability::CAP_SYS_PTRACE),
    ("CAP_SYS_ADMIN", Capability::CAP_SYS_ADMIN),
];

fn flows(from: &Pod, to: &Pod) -> Result<()> {
    for ip in to.addresses() {
        let client = from.connect(SocketAddr::new(ip, PORT), &SEND)?;
        assert_eq!(client["finished"], true, "{client}");
    }
    Ok(())
}

fn mask(names: &[Capability]) -> u64 {
    names.iter().map(|capability| capability.bitmask()).sum()
}

/// What can't be had here; on a machine whose limit of locked memory can't be raised, that.
fn expected_shortfalls() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let may_raise = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE)?;
    Ok(usize::from(hard != RLIM_INFINITY && !may_raise))
}

fn is_about_memory(shortfall: &str) -> bool {
    shortfall.starts_with("locking its memory: the limit of locked memory is ")
}

/// What the kernel says about every thread of a process.
fn claims(pid: u32, effective: u64) -> Result<usize> {
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim_start_matches(':').trim().to_owned()).unwrap_or_default()
        };
        let set = |name: &str| u64::from_str_radix(&field(name), 16).unwrap_or(u64::MAX);
        let all = mask(&NAMES.map(|(_, capability)| capability));
        assert_eq!(set("CapEff"), effective, "{status}");
        assert_eq!(set("CapPrm"), effective, "{status}");
        assert_eq!(set("CapBnd"), all, "{status}");
        assert_eq!((set("CapInh"), set("CapAmb")), (0, 0), "{status}");
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
        threads += 1;
    }
    Ok(threads)
}

fn kibibytes(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.trim().strip_suffix(" kB")).context("a size")?;
    Ok(value.trim().parse()?)
}

#[test]
fn an_agent_with_exactly_its_capabilities_serves_and_can_do_no_more() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    flows(&stage.caller, &stage.far)?;
    stage.two.kill()?;
    stage.two.restart().context("it adopts what it finds")?;
    flows(&stage.caller, &stage.far)?;
    let stranger = stage.stranger.clone();
    stage.mesh.enroll(&stranger, "shop", "cart", "strict");
    stage.reload()?;
    flows(&stranger, &stage.far).context("from a pod that was enrolled by a reload")?;
    let log = stage.one.file().with_file_name("access.log");
    fs::rename(&log, log.with_extension("old"))?;
    stage.one.signal(nix::sys::signal::Signal::SIGHUP)?;
    wait_for("the access log to be opened again", PATIENCE, || Ok(log.exists().then_some(())))?;
    let mut threads = 0;
    for agent in [&stage.one, &stage.two] {
        let status = agent.get("/status")?;
        let short = status["unconfined"].as_array().context("what is not in place")?;
        assert_eq!(short.len(), expected_shortfalls()?, "{status}");
        assert!(short.iter().all(|why| why.as_str().is_some_and(is_about_memory)), "{status}");
        let pid = agent.pid().context("it runs")?;
        threads += claims(pid, mask(&[Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN]))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let [locked, resident] = ["VmLck:", "VmRSS:"].map(|name| kibibytes(&status, name));
        assert!(!short.is_empty() || locked? >= resident?, "memory that may be swapped: {status}");
        let openers = children(pid)?;
        assert_eq!(openers.len(), 1, "{openers:?}");
        claims(openers[0], mask(&[Capability::CAP_SYS_PTRACE]))?;
        let report = agent.get("/check")?;
        let checks = &report["categories"][0]["checks"];
        let checks = checks.as_array().context("the first category is the agent's")?;
        let good = checks.iter().filter(|check| check["result"] == "success").count();
        assert_eq!((checks.len(), checks.len() - good), (5, short.len()), "{report}");
        assert!(checks.iter().all(|check| check["result"] != "error"), "{report}");
    }
    evidence(
        "an_agent_with_exactly_its_capabilities_serves_and_can_do_no_more",
        &[("capabilities", &NAMES.len()), ("threads looked at", &threads)],
    )
}

#[test]
fn without_a_capability_the_agent_is_not_ready_and_names_it() -> Result<()> {
    assert_eq!(NAMES.map(|(name, _)| name).len(), NEEDED.len());
    for (name, capability) in NAMES {
        assert!(NEEDED.iter().any(|(needed, _)| *needed == name), "{name}");
        let mut stage = Stage::prepare("strict", |_| {})?;
        let others = AGENT_CAPABILITIES.into_iter().filter(|one| *one != capability.index());
        stage.one.set_capabilities(&others.collect::<Vec<_>>());
        stage.one.launch()?;
        let ready: Response = wait_for("the agent to answer", PATIENCE, || {
            ensure!(stage.one.is_running(), "it has ended: {}", stage.one.log());
            Ok(stage.one.admin("/readyz").ok())
        })?;
        assert_eq!(ready.status, 503, "{name}: {ready:?}");
        assert!(ready.body.contains(name), "{name}: {ready:?}");
        assert!(stage.one.log().contains(name), "{}", stage.one.log());
    }
    evidence(
        "without_a_capability_the_agent_is_not_ready_and_names_it",
        &[("capabilities", &NAMES.len())],
    )
}

/// Does something on a thread with the agent's capabilities, less one.
fn without<T: Send>(lost: Option<Capability>, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let kept = NAMES.map(|(_, capability)| capability).into_iter();
            let kept = kept.filter(|capability| Some(*capability) != lost).collect();
            caps::set(None, CapSet::Effective, &kept).expect("a thread can give up capabilities");
            act()
        });
        acting.join().expect("the thread does not panic")
    })
}

/// What the agent does, without its own look at its capabilities.
#[tokio::test(flavor = "multi_thread")]
async fn each_capability_is_needed_for_what_its_line_says() -> Result<()> {
    let mut lab = Lab::new()?;
    // There the guard's programs are attached by netlink.
    lab.settings.without = vec![Feature::Tcx];
    let place = lab.place("web")?;
    let runtime = tokio::runtime::Handle::current();
    let mut sleeping = place.pod.command("setpriv");
    sleeping = sleeping.args(["--reuid", "65534", "--clear-groups", "sleep", "1000"]);
    let sleeping = sleeping.spawn()?;
    let pid = sleeping.pid();
    wait_for("another user's process", PATIENCE, || {
        Ok((fs::read_to_string(format!("/proc/{pid}/comm"))?.trim() == "sleep").then_some(()))
    })?;
    let file = format!("/proc/{pid}/ns/net");
    let denied = |done: io::Result<()>| done.err().map(|error| error.kind());
    let steps: [(Capability, &(dyn Fn() -> io::Result<()> + Sync)); 3] = [
        (Capability::CAP_SYS_ADMIN, &|| place.netns.run(|| Ok(()))),
        (Capability::CAP_SYS_PTRACE, &|| File::open(&file).map(|_| ())),
        (Capability::CAP_NET_ADMIN, &|| {
            let _runtime = runtime.enter();
            let node = Node::start(&lab.settings).map_err(io::Error::other)?;
            let enrolled = node.enroll(
                &place.netns,
                &place.addresses(),
                Terms { strict: true, ..Terms::default() },
            );
            let denied = |error| match format!("{:#}", anyhow::Error::new(error)) {
                said if said.contains("not permitted") => io::ErrorKind::PermissionDenied.into(),
                said => io::Error::other(said),
            };
            enrolled.map_err(denied)?.withdraw().map_err(io::Error::other)
        }),
    ];
    for (capability, step) in steps {
        let without_it = denied(without(Some(capability), step));
        assert_eq!(without_it, Some(io::ErrorKind::PermissionDenied), "without {capability}");
        without(None, step).with_context(|| format!("with {capability}"))?;
    }
    Ok(())
}

/// Runs `act` in a child that has confined itself, and gives what it writes to `answer`.
#[allow(unsafe_code)]
fn confined(directory: &Path, act: impl FnOnce(Confinement) -> String) -> Result<String> {
    let answer = directory.join("answer");
    let places = Places {
        pin: directory.join("pin"),
        directories: vec![directory.to_owned()],
        log: Some(directory.join("log/access.log")),
    };
    // SAFETY: the child is alone with this thread; the C library's allocator can be used after
    // fork(2), and nothing here takes another lock of the parent's threads.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let said = confine(&places).map_or_else(|error| format!("{error:?}"), act);
            let written = fs::write(&answer, said);
            // SAFETY: ends the child at once, without the parent's exit handlers.
            unsafe { libc::_exit(i32::from(written.is_err())) }
        }
        ForkResult::Parent { child } => {
            let ended = waitpid(child, None)?;
            ensure!(matches!(ended, WaitStatus::Exited(_, 0)), "the child ended with {ended:?}");
            Ok(fs::read_to_string(answer)?)
        }
    }
}

fn errno(result: i64) -> i32 {
    match result {
        -1 => io::Error::last_os_error().raw_os_error().unwrap_or(0),
        _ => 0,
    }
}

/// `KEYCTL_UPDATE` of <linux/keyctl.h>.
const KEYCTL_UPDATE: i64 = 2;

/// Number and arguments that would succeed, or fail otherwise, without the filter.
const CALLS: [(&str, i64, [i64; 4]); 22] = [
    ("execve", libc::SYS_execve, [0; 4]),
    ("execveat", libc::SYS_execveat, [-1, 0, 0, 0]),
    ("clone of a process", libc::SYS_clone, [libc::SIGCHLD as i64, 0, 0, 0]),
    ("clone3", libc::SYS_clone3, [0; 4]),
    ("ptrace", libc::SYS_ptrace, [libc::PTRACE_TRACEME as i64, 0, 0, 0]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0, 0]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [-1, 0, 0, 0]),
    ("kill", libc::SYS_kill, [1, 0, 0, 0]),
    ("mount", libc::SYS_mount, [0; 4]),
    ("umount2", libc::SYS_umount2, [0; 4]),
    ("move_mount", libc::SYS_move_mount, [0; 4]),
    ("unshare", libc::SYS_unshare, [0; 4]),
    ("chroot", libc::SYS_chroot, [0; 4]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0, 0]),
    ("init_module", libc::SYS_init_module, [0; 4]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0; 4]),
    ("perf_event_open", libc::SYS_perf_event_open, [0; 4]),
    ("changing a key that others hold", libc::SYS_keyctl, [KEYCTL_UPDATE, 0, 0, 0]),
    ("setuid", libc::SYS_setuid, [0; 4]),
    ("a socket for packets", libc::SYS_socket, [libc::AF_PACKET as i64, 3, 0, 0]),
    ("setns to mounts", libc::SYS_setns, [-1, libc::CLONE_NEWNS as i64, 0, 0]),
    ("executable memory", libc::SYS_mprotect, [0, 0, libc::PROT_EXEC as i64, 0]),
];

#[test]
#[allow(unsafe_code)]
fn system_calls_outside_of_the_filter_fail_and_the_agents_own_work() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let said = confined(directory.path(), |_| {
        let mut wrong = String::new();
        for (name, number, [a, b, c, d]) in CALLS {
            // SAFETY: the filter answers before the kernel looks at the arguments; if it did not,
            // none of them is a valid address.
            let refused = errno(unsafe { libc::syscall(number, a, b, c, d) });
            if refused != libc::ENOSYS {
                wrong += &format!("{name}: {refused}; ");
            }
        }
        if Command::new("/bin/true").spawn().is_ok() {
            wrong += "a program was started; ";
        }
        if std::thread::spawn(|| 7).join().ok() != Some(7) {
            wrong += "no thread; ";
        }
        if let Err(error) = std::net::TcpListener::bind("127.0.0.1:0") {
            wrong += &format!("no socket: {error}; ");
        }
        let keyring = Keyring::of_all(directory.path());
        let kept = keyring.keep("a", b"secret", Duration::from_secs(60));
        let found = kept.and_then(|()| keyring.find("a"));
        if !found.is_ok_and(|found| found.is_some_and(|found| found.as_slice() == b"secret")) {
            wrong += "no keyring; ";
        }
        let forgotten = keyring.forget_all_but(|_| false);
        if let Err(error) = forgotten {
            wrong += &format!("the keyring stays: {error}; ");
        }
        let own = Netns::open(Path::new("/proc/self/ns/net"));
        if let Err(error) = own.map(|netns| netns.run(|| Ok(()))) {
            wrong += &format!("no setns: {error:?}; ");
        }
        wrong
    })?;
    assert_eq!(said, "");
    evidence(
        "system_calls_outside_of_the_filter_fail_and_the_agents_own_work",
        &[("refused", &CALLS.len())],
    )
}

#[test]
fn only_the_agents_own_directories_and_the_networks_sysctls_can_be_written() -> Result<()> {
    let (own, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    fs::create_dir(own.path().join("log"))?;
    let foreign = other.path().join("there");
    fs::write(&foreign, "before")?;
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o666))?;
    let said = confined(own.path(), |confinement| {
        let short = confinement.shortfalls();
        let mut wrong = String::new();
        if !short.iter().all(|why| is_about_memory(why)) {
            wrong += &format!("{short:?}; ");
        }
        let denied: [(&str, io::Result<()>); 6] = [
            ("writing", fs::write(&foreign, "after")),
            ("making", fs::write(other.path().join("new"), "")),
            ("removing", fs::remove_file(&foreign)),
            ("renaming", fs::rename(&foreign, own.path().join("taken"))),
            ("making a directory", fs::create_dir(other.path().join("directory"))),
            (
                "a kernel sysctl",
                fs::OpenOptions::new()
                    .write(true)
                    .open("/proc/sys/kernel/core_pattern")
                    .map(|_| ()),
            ),
        ];
        for (what, done) in denied {
            if done.is_ok() {
                wrong += &format!("{what} elsewhere; ");
            }
        }
        let open = |path: &str| fs::OpenOptions::new().write(true).open(path).map(|_| ());
        let allowed: [(&str, io::Result<()>); 5] = [
            ("reading", fs::read(&foreign).map(|_| ())),
            ("writing", fs::write(own.path().join("file"), "")),
            ("renaming", fs::rename(own.path().join("file"), own.path().join("other"))),
            ("the log", fs::write(own.path().join("log/access.log"), "")),
            ("a sysctl", open("/proc/sys/net/ipv4/tcp_tw_reuse")),
        ];
        for (what, done) in allowed {
            if let Err(error) = done {
                wrong += &format!("not {what}: {error}; ");
            }
        }
        wrong
    })?;
    assert_eq!(said, "");
    assert_eq!(fs::read_to_string(&foreign)?, "before");
    Ok(())
}

/// Landlock takes the right to look at other processes; another process has kept it.
#[test]
fn another_users_namespace_is_found_only_by_the_opener() -> Result<()> {
    let lab = martlet_lab::Lab::new()?;
    let pod = lab.node("one")?.pod("web")?;
    let sleeping = pod.command("setpriv");
    let sleeping =
        sleeping.args(["--reuid", "65534", "--clear-groups", "sleep", "1000"]).spawn()?;
    let pid = sleeping.pid();
    wait_for("another user's process", PATIENCE, || {
        Ok((fs::read_to_string(format!("/proc/{pid}/comm"))?.trim() == "sleep").then_some(()))
    })?;
    let wanted = Netns::of_pid(pid)?.cookie();
    let directory = tempfile::tempdir()?;
    let said = confined(directory.path(), |_| {
        let direct = File::open(format!("/proc/{pid}/ns/net")).is_ok();
        let found = Netns::of_pid(pid).map(|netns| netns.cookie()).ok();
        let gone = Netns::of_pid(u32::MAX >> 2).is_err();
        format!("{direct} {found:?} {gone}")
    })?;
    assert_eq!(said, format!("false {:?} true", Some(wanted)));
    Ok(())
}

#[test]
fn the_unit_gives_what_the_agent_needs_and_no_more() -> Result<()> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/martlet-agent.service");
    let unit = fs::read_to_string(unit)?;
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let mut given: Vec<_> = line.context("the unit bounds the capabilities")?.split(' ').collect();
    let mut needed: Vec<_> = NEEDED.iter().map(|(name, _)| *name).collect();
    given.sort_unstable();
    needed.sort_unstable();
    assert_eq!(given, needed);
    for setting in ["NoNewPrivileges=yes", "LimitCORE=0", "LimitMEMLOCK=infinity"] {
        assert!(unit.lines().any(|line| line == setting), "{setting}");
    }
    Ok(())
}
