//! The system calls that are let through, by seccomp; all others answer `ENOSYS`.
//!
//! As if the kernel did not have them: then the C library takes its older ways, such as clone(2)
//! for clone3(2), whose flags a filter can't see. A filter that kills would turn a new version of
//! that library into an outage.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

type Call = (i64, Vec<SeccompRule>);

/// Puts the filter in place for this thread and all that it starts; `None` if that worked.
pub fn restrict(filter: &BpfProgram) -> Option<String> {
    seccompiler::apply_filter(filter).err().map(|error| error.to_string())
}

/// For the agent.
pub fn agent() -> BpfProgram {
    let every = [MEMORY, THREADS, TIME, SELF, FILES, NETWORK, KERNEL, OLD].concat();
    compile(every.into_iter().map(|call| (call, vec![])).chain(restricted()).collect())
}

/// For the opener.
pub fn opener() -> BpfProgram {
    let few = [OPENING, MEMORY, THREADS].concat();
    compile(few.into_iter().map(|call| (call, vec![])).chain(no_code()).collect())
}

fn compile(calls: BTreeMap<i64, Vec<SeccompRule>>) -> BpfProgram {
    let architecture = std::env::consts::ARCH.try_into().expect("Martlet is built for 64 bits");
    let refused = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(calls, refused, SeccompAction::Allow, architecture);
    let filter = filter.expect("the two actions differ");
    filter.try_into().expect("the lists below fit into a filter")
}

const MEMORY: &[i64] =
    &[libc::SYS_brk, libc::SYS_madvise, libc::SYS_membarrier, libc::SYS_mremap, libc::SYS_munmap];

const THREADS: &[i64] = &[
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
];

const TIME: &[i64] = &[
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
];

/// Asking about oneself and the machine.
const SELF: &[i64] = &[
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_prlimit64,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

const FILES: &[i64] = &[
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

const NETWORK: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    // The C library asks name servers for both families at once.
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
];

const KERNEL: &[i64] = &[libc::SYS_add_key, libc::SYS_bpf];

/// What the C library still calls where the architecture is old enough to have it.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

const OPENING: &[i64] = &[libc::SYS_close, libc::SYS_openat, libc::SYS_recvfrom, libc::SYS_sendmsg];

/// What depends on the arguments.
fn restricted() -> impl Iterator<Item = Call> {
    let any = |index, values: &[i32]| values.iter().map(|value| equal(index, *value)).collect();
    let domains = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let requests = [FIONBIO, FIONREAD, SIOCGIFINDEX, TCGETS, TIOCGWINSZ];
    let network = libc::CLONE_NEWNET;
    let keys = [
        KEYCTL_GET_KEYRING_ID,
        KEYCTL_SETPERM,
        KEYCTL_DESCRIBE,
        KEYCTL_LINK,
        KEYCTL_SEARCH,
        KEYCTL_READ,
        KEYCTL_SET_TIMEOUT,
        KEYCTL_INVALIDATE,
    ];
    let options = [libc::PR_SET_NAME, libc::PR_GET_NAME, PR_SET_VMA];
    let calls: [Call; 6] = [
        (libc::SYS_socket, any(0, &domains)),
        (libc::SYS_ioctl, any(1, &requests)),
        // A thread, never a process or a namespace.
        (libc::SYS_clone, vec![masked(0, !THREAD_FLAGS, 0)]),
        (libc::SYS_setns, any(1, &[network])),
        (libc::SYS_prctl, any(0, &options)),
        (libc::SYS_keyctl, any(0, &keys)),
    ];
    calls.into_iter().chain(no_code())
}

/// No memory becomes executable.
fn no_code() -> impl Iterator<Item = Call> {
    let no_execution = || vec![masked(2, libc::PROT_EXEC as u64, 0)];
    [(libc::SYS_mmap, no_execution()), (libc::SYS_mprotect, no_execution())].into_iter()
}

const KEYCTL_GET_KEYRING_ID: i32 = 0;
const KEYCTL_SETPERM: i32 = 5;
const KEYCTL_DESCRIBE: i32 = 6;
const KEYCTL_LINK: i32 = 8;
const KEYCTL_SEARCH: i32 = 10;
const KEYCTL_READ: i32 = 11;
const KEYCTL_SET_TIMEOUT: i32 = 15;
const KEYCTL_INVALIDATE: i32 = 21;
const FIONBIO: i32 = 0x5421;
const FIONREAD: i32 = 0x541b;
const SIOCGIFINDEX: i32 = 0x8933;
const TCGETS: i32 = 0x5401;
const TIOCGWINSZ: i32 = 0x5413;
/// Naming an anonymous mapping.
const PR_SET_VMA: i32 = 0x5356_4d41;

/// What threads are made with: `create_thread` in
/// <https://sourceware.org/git/?p=glibc.git;a=blob;f=nptl/pthread_create.c;hb=glibc-2.41>, and the
/// flag that the kernel has ignored since 2.6.2.
const THREAD_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_DETACHED) as u64;

fn equal(index: u8, value: i32) -> SeccompRule {
    rule(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value as u32 as u64)
}

fn masked(index: u8, mask: u64, value: u64) -> SeccompRule {
    rule(index, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
}

fn rule(index: u8, length: SeccompCmpArgLen, operator: SeccompCmpOp, value: u64) -> SeccompRule {
    let condition = SeccompCondition::new(index, length, operator, value);
    SeccompRule::new(vec![condition.expect("calls have six arguments")])
        .expect("there is a condition")
}
