//! The user half of the kernel programs.
//!
//! [`Node`] loads, attaches, pins and adopts what belongs to the node; [`Pod`] what belongs to one
//! pod: its listeners, its `sk_lookup` program, its guard, its sysctl, and sockets that dial from
//! inside it.
//! Nothing here knows an identity.

mod bpf;
mod changes;
mod closing;
mod confine;
mod deserted;
mod error;
mod estate;
mod failure;
mod feature;
mod guard;
mod hooks;
mod interfaces;
mod kept;
mod keyring;
mod ledger;
mod link;
mod listening;
mod log;
mod maps;
mod netlink;
mod netns;
mod node;
mod object;
mod outside;
mod passed;
mod passing;
mod pins;
mod pod;
mod pods;
mod prober;
mod process;
mod qdisc;
mod quotas;
mod repair;
mod sockets;
mod sysctl;
mod uninstall;

pub use closing::{Closing, Ended};
pub use confine::{Confinement, NEEDED, Places, confine};
pub use deserted::{Desertion, Desertions};
pub use error::KernelError;
pub use estate::Estate;
pub use failure::FailedOpen;
pub use feature::{Feature, Missing, missing_features};
pub use keyring::Keyring;
pub use log::KernelLog;
pub use martlet_ebpf_shared::{
    Membership, Used,
    ledger::{Amount, Class, Column, Pair, Party, Tally},
    limits,
};
pub use netns::Netns;
pub use node::{Look, Node, Prepared, Settings};
pub use passed::receive_passed;
pub use passing::{MOST_PASSED, pass, receive};
pub use pins::{Hold, layout};
pub use pod::{Dialer, Listeners, Pod, Repaired, Terms};
pub use pods::cgroup_of_process;
pub use prober::Prober;
pub use process::{
    cgroup_root, give_back_code, is_of_own_user, peer_of, raise_open_files, terminate,
};
pub use repair::Finding;
pub use uninstall::{Idle, Installed};
