//! Keys are in memory: it is kept out of core dumps, of debuggers without privileges, and of swap.

use std::io;

use nix::sys::{
    prctl,
    resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
};

/// No core file, whatever core_pattern(5) says, and /proc/PID/mem only for who has
/// `CAP_SYS_PTRACE`.
pub fn keep_from_dumps() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(prctl::set_dumpable(false)?)
}

/// Locks every page when it is first touched: what is not used is not made resident. `None` if it
/// worked.
///
/// Only without a limit: at a limit, allocations would fail instead of being swapped out.
#[allow(unsafe_code)]
pub fn keep_from_swap() -> Option<String> {
    let limit = Resource::RLIMIT_MEMLOCK;
    // Only with CAP_SYS_RESOURCE, which the agent does not need otherwise.
    let _ = setrlimit(limit, RLIM_INFINITY, RLIM_INFINITY);
    match getrlimit(limit) {
        Ok((soft, _)) if soft == RLIM_INFINITY => {}
        Ok((soft, _)) => {
            return Some(format!("the limit of locked memory is {soft} bytes; make it infinite"));
        }
        Err(error) => return Some(error.to_string()),
    }
    // SAFETY: mlockall(2) takes flags only, and changes no content of memory. nix does not know
    // MCL_ONFAULT.
    let failed =
        unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    (failed != 0).then(|| io::Error::last_os_error().to_string())
}
