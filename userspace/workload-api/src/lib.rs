//! The SPIFFE Workload API over X.509: an application that wants its own mTLS gets the identity of
//! its workload, and hears of every renewal and every change of roots.
//!
//! One server for each workload that asks for it, on a Unix socket of its own. Who calls is what the
//! kernel says of the caller's socket, never what the caller says.

#![forbid(unsafe_code)]

mod caller;
pub mod limits;
mod material;
mod serve;
mod service;

#[allow(clippy::doc_markdown)]
mod proto {
    //! What `build.rs` has made.
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}

pub use caller::Admission;
pub use material::Material;
pub use serve::{Counts, WorkloadApi};
