//! Finds the network namespaces of other users' processes: a process of its own, with one
//! capability, that knows one request.
//!
//! Opening `/proc/PID/ns/net` takes the right to trace that process. A landlocked process has it
//! for none outside of its domain, whatever its capabilities:
//! `hook_ptrace_access_check` in
//! <https://github.com/torvalds/linux/blob/v6.12/security/landlock/ptrace.c>.
//! And whoever has it can write into any process of the node, which is not for the one that listens
//! to the network.
//!
//! A request is the process's number, an answer an errno, or 0 and the descriptor.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
};

use nix::{
    sys::{
        prctl,
        signal::{SigHandler, Signal, signal},
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair,
            sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
    unistd::{ForkResult, Pid, fork, getppid},
};

use super::{calls, capabilities};
use crate::passing;

/// Opening takes microseconds; an opener that does not answer is as good as none.
const ANSWER_SECONDS: i64 = 5;

static OPENER: OnceLock<Mutex<OwnedFd>> = OnceLock::new();

/// Starts the opener. This process must have one thread.
#[allow(unsafe_code)]
pub fn start() -> io::Result<()> {
    let kind = SockType::SeqPacket;
    let (ours, its) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    let parent = nix::unistd::getpid();
    // SAFETY: fork(2) of a process with one thread, as `confine` has checked: no lock is held by a
    // thread that the child does not have.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            setsockopt(&ours, ReceiveTimeout, &TimeVal::new(ANSWER_SECONDS, 0))?;
            let _ = OPENER.set(Mutex::new(ours));
            Ok(())
        }
        ForkResult::Child => {
            drop(ours);
            let ended = prepare(parent).and_then(|()| serve(&its));
            std::process::exit(i32::from(ended.is_err()));
        }
    }
}

/// The network namespace of a process, if `path` is one's below /proc and there is an opener.
pub fn open(path: &Path) -> Option<io::Result<File>> {
    let opener = OPENER.get()?;
    let pid = path.to_str()?.strip_prefix("/proc/")?.strip_suffix("/ns/net")?.parse().ok()?;
    Some(ask(&opener.lock().unwrap_or_else(PoisonError::into_inner), pid))
}

fn ask(opener: &OwnedFd, pid: u32) -> io::Result<File> {
    send(opener.as_raw_fd(), &pid.to_ne_bytes(), MsgFlags::MSG_NOSIGNAL)?;
    let mut errno = [0; 4];
    let (received, fds) = passing::receive(opener, &mut errno)?;
    match (received, i32::from_ne_bytes(errno), fds.into_iter().next()) {
        (4, 0, Some(file)) => Ok(file.into()),
        (4, errno, None) if errno != 0 => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::Error::other("the opener of network namespaces has ended")),
    }
}

/// It ends with the agent and not before: a terminal's Ctrl-C is for the agent, which drains.
#[allow(unsafe_code)]
fn prepare(agent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != agent {
        return Err(io::Error::other("the agent has ended before that could be noticed"));
    }
    prctl::set_name(c"martlet-opener")?;
    for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: ignoring a signal installs no handler that could run.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    capabilities::keep(capabilities::OPENER)?;
    prctl::set_no_new_privs()?;
    // The agent reports the same shortfall for itself.
    calls::restrict(&calls::opener());
    Ok(())
}

/// Until the agent has closed its end.
fn serve(agent: &OwnedFd) -> io::Result<()> {
    let mut request = [0; 4];
    while recv(agent.as_raw_fd(), &mut request, MsgFlags::empty())? == request.len() {
        let opened = File::open(format!("/proc/{}/ns/net", u32::from_ne_bytes(request)));
        let errno = |error: &io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        let answer = opened.as_ref().err().map_or(0, errno).to_ne_bytes();
        let fds: Vec<_> = opened.iter().map(|file| file.as_fd()).collect();
        passing::pass(agent, &answer, &fds)?;
    }
    Ok(())
}
