//! All maps, with writer, capacity, eviction, and what a missing entry means.

use core::ptr;

use aya_ebpf::{
    bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
    btf_maps::{HashMap, HashOfMaps, LruHashMap, PerCpuArray, RingBuf, SkStorage, SockHash},
    macros::btf_map,
};
use martlet_ebpf_shared::{
    Address, Begun, Connection, Dial, Endpoint, Enrollment, Event, Flow, Guarded, ListenerKey,
    ListeningKey, Membership, Published, Receiver, Used,
    ledger::{Pair, Tally},
    limits::{BUSY_PODS, IN_FLIGHT, PLAIN as PLAIN_OF_ONE, PODS, PORTS},
};

/// `BPF_F_NO_PREALLOC`: memory is used by entries, not by capacity.
const GROWING: usize = 1;

/// For pods that use all of their quota at the same time.
const ALL_PORTS: usize = BUSY_PODS * PORTS as usize;
const ALL_IN_FLIGHT: usize = BUSY_PODS * 2 * IN_FLIGHT as usize;

/// Workloads of this node, by network-namespace cookie. Written by the agent.
/// Missing: the process is in no enrolled workload; see `OUTSIDE`.
#[btf_map]
pub static WORKLOADS: HashMap<u64, Enrollment, PODS, GROWING> = HashMap::new();

/// What each workload uses of the maps below that all share, by network-namespace cookie. Made and
/// removed by the agent, before and after the entry in `WORKLOADS`; the numbers are `establish`'s:
/// each is changed exactly when an entry was added or removed.
/// Missing: the namespace is not an enrolled workload's, and gets no entries.
#[btf_map]
pub static USED: HashMap<u64, Used, PODS, GROWING> = HashMap::new();

/// Network namespaces that are outside the mesh by decision, by cookie: the node's own, and those
/// that the agent is told of. Written by the agent; it outlives the agent as all maps do.
/// Missing here and in `WORKLOADS`: undecided, and what it opens to the mesh is refused.
#[btf_map]
pub static OUTSIDE: HashMap<u64, u32, 65_536, GROWING> = HashMap::new();

/// Every address of the mesh, and whose it is. Written by the agent from the directory.
/// Missing: outside the mesh. To connect there is passed; to come from there is plaintext.
#[btf_map]
pub static MEMBERS: HashMap<Address, Membership, 262_144, GROWING> = HashMap::new();

/// Who of this node's workloads receives at an address, and how. Written by the agent.
/// Missing: the address is not an enrolled workload's.
#[btf_map]
pub static RECEIVERS: HashMap<Address, Receiver, 8192, GROWING> = HashMap::new();

/// The agent's listeners in the pods. Written by the agent; the kernel removes a socket when it is
/// closed, also when the agent is killed.
/// Missing: there is no agent, and what should go to it is refused.
#[btf_map]
pub static LISTENERS: SockHash<ListenerKey, 16_384> = SockHash::new();

/// Ports on which applications listen, with the number of sockets that `establish` has seen begin.
/// Written by `establish` alone, also while no agent runs; no more for each workload than its quota.
/// Missing here and in `FOUND`: nobody listens, and an enrolled caller is refused.
#[btf_map]
pub static LISTENING: HashMap<ListeningKey, u64, ALL_PORTS, GROWING> = HashMap::new();

/// Ports of `LISTENING` whose last socket has just ended. Written by `establish`, read by the agent
/// that has loaded it; not pinned, since an agent wants no old news. 1,638 fit.
/// Full: counted, and idle lanes stand at the port until their callers close them.
#[btf_map]
pub static DESERTED: RingBuf<ListeningKey, 65_536> = RingBuf::new();

/// Ports on which applications listened before `establish` watched them. Written by the agent
/// alone, from the kernel's table of sockets, as many for each workload as its quota. The end of such a socket is not seen: then the agent
/// finds nobody listening when it dials.
/// Missing here and in `LISTENING`: nobody listens, and an enrolled caller is refused.
#[btf_map]
pub static FOUND: HashMap<ListeningKey, u64, ALL_PORTS, GROWING> = HashMap::new();

/// Connections between SYN and accept, inside pods. Written and removed by `establish`, at the
/// latest when the socket that connects is closed; no more for each workload than its quota.
/// Missing: the pod's own connection to itself; on a port that steered ones go to, refused.
#[btf_map]
pub static PUBLISHED: HashMap<Flow, Published, ALL_IN_FLIGHT, GROWING> = HashMap::new();

/// The peer that an application believes it talks to. Written by `connect` on the caller's socket
/// and by `establish` on the callee's; freed with the socket.
/// Missing: the real peer is shown.
#[btf_map]
pub static PEERS: SkStorage<Endpoint> = SkStorage::new();

/// Where a connection that the agent accepted wanted to go. Written by `establish`.
/// Missing: it was not steered, and the agent refuses it.
#[btf_map]
pub static ORIGINS: SkStorage<Endpoint> = SkStorage::new();

/// The agent's own sockets. Written by the agent, on dialling ones before it connects, and on its
/// listeners, from which the kernel copies it to what they accept.
/// Missing: not the agent's.
#[btf_map]
pub static DIALS: InheritedSkStorage<Dial> = InheritedSkStorage::new();

/// The pods behind the interfaces that the guard is attached to, by the interface's number. Written
/// by the agent before it attaches, removed after it detaches.
/// Missing: somebody has removed it, and everything but ARP and ICMP is refused.
#[btf_map]
pub static GUARDED: HashMap<u32, Guarded, 8192, GROWING> = HashMap::new();

/// Connections that began as plaintext that was allowed: with somebody outside the mesh, or before
/// the pod was enrolled. Written by the guard at the SYN, and once for each new guard by the agent
/// from the kernel's table of sockets; removed by the guard when a connection of the mesh begins
/// with the same addresses and ports. Each guarded pod has a map of its own, by its namespace's
/// cookie, made and removed by the agent; the pod's least recently used are evicted. Asked when a
/// permissive pod's peer was enrolled meanwhile, and for what arrives at a strict pod from outside.
/// Missing: refused, but for what a strict pod's own socket gets from outside: it opened that, since
/// what it had accepted was ended when it became strict.
#[btf_map]
pub static PLAIN: HashOfMaps<u64, LruHashMap<Connection, Begun, PLAIN_OF_ONE>, PODS, GROWING> =
    HashOfMaps::new();

/// The node's own addresses, only to say in the ledger that a peer is the node. Written by the
/// agent, for the sake of nothing else.
/// Missing: the address is classed by its value alone.
#[btf_map]
pub static HOST: HashMap<Address, u32, 1024, GROWING> = HashMap::new();

/// Who sent how much to whom, and how it was protected. Written by the programs, which only ever
/// add. The agent makes the entry of those that find no room, reads, and removes entries of
/// workloads that are gone when the room gets short, after it has added them to another entry.
/// Missing: made by who counts; if there is no room, counted among the others.
#[btf_map]
pub static LEDGER: HashMap<Pair, Tally, { Pair::ROOM as usize }, GROWING> = HashMap::new();

/// Connections whose payload the guard has refused, so that the ledger counts each once. Written by
/// the guard; removed when a connection with the same addresses and ports begins; the least recently
/// used are evicted.
/// Missing: counted with the next payload.
#[btf_map]
pub static REFUSED: LruHashMap<Connection, u32, 16_384> = LruHashMap::new();

/// 1 while the guard asks for a socket: for that the kernel runs `sk_lookup`, which must neither
/// count nor hand over anything then. Written by the guard, which nothing on its CPU interrupts that
/// would look for a socket.
#[btf_map]
pub static ASKING: PerCpuArray<u32, 1> = PerCpuArray::new();
/// Addresses and ports of this node's workloads at which the prober may probe in plaintext, with the
/// number of the prober's cgroup; 0 while there is none, and nobody may. Written by the agent.
/// Missing: nobody may.
#[btf_map]
pub static PROBES: HashMap<Endpoint, u64, 65_536, GROWING> = HashMap::new();

/// What is said of the node's failing, by the keys in `Failure`. Written by the agent, whose last
/// word holds while there is none.
/// Missing: without an agent all that is the agent's is refused.
#[btf_map]
pub static FAILURE: HashMap<u32, u64, 3, GROWING> = HashMap::new();

/// At 0, a socket of the agent's that is made for nothing else. Written by the agent; the kernel
/// removes it when its process ends, however it ends.
/// Missing: no agent lives.
#[btf_map]
pub static ALIVE: SockHash<u32, 1> = SockHash::new();

/// One number for each `Event`, per CPU.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Event::COUNT as usize }> = PerCpuArray::new();

/// Socket storage that an accepted socket inherits from its listener; aya's has fixed flags. The
/// fields are never read: the loader reads their types.
#[repr(C)]
pub struct InheritedSkStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; INHERITED],
}

/// `BPF_F_NO_PREALLOC`, without which there is no socket storage, and `BPF_F_CLONE`.
const INHERITED: usize = 1 | 1 << 9;

// SAFETY: nothing is ever read or written through the pointers.
unsafe impl<T> Sync for InheritedSkStorage<T> {}

impl<T> InheritedSkStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }
}

/// The kernel's `BPF_NOEXIST`: fails where there is an entry.
pub const IF_MISSING: u64 = 1;

/// What a number in a map is now.
#[inline(always)]
pub fn number(of: *mut u64) -> u64 {
    // SAFETY: the pointer is that of a map's value, which the verifier checks; it is aligned and
    // freed only after a grace period.
    unsafe { of.read_volatile() }
}

/// Counts a verdict.
#[inline(always)]
pub fn count(event: Event) {
    if let Some(counter) = COUNTERS.get_ptr_mut(event as u32) {
        // SAFETY: the slot is this CPU's own and outlives the program; programs of one CPU that
        // interrupt each other can at worst lose a count.
        unsafe { *counter += 1 };
    }
}

/// Adds to a number in a map, atomically. Rust's target has no atomic addition; the machine does.
#[inline(always)]
pub fn add(number: *mut u64, amount: i64) {
    // SAFETY: the pointer is that of a map's value, which the verifier checks; it is aligned and
    // freed only after a grace period.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({number} + 0) += {amount}",
            number = in(reg) number,
            amount = in(reg) amount,
            options(nostack)
        )
    }
}
