//! The nouns of Martlet. Nothing here does IO or reads a clock.
//!
//! Read in this order: who somebody is ([`SpiffeId`]), what runs ([`Workload`]), where it can be
//! reached ([`Directory`]), whom to trust ([`Trust`]), why a connection ended ([`Closed`]), what is
//! said about it ([`AccessRecord`]), who is told of it ([`Collector`]), what the agent says about itself
//! ([`report`]), and what was encrypted ([`coverage`]).

mod closed;
pub mod coverage;
mod directory;
mod local;
mod part;
mod record;
pub mod report;
mod skew;
mod spiffe;
mod traces;
mod trust;
mod workload;
mod zone;

pub use closed::Closed;
pub use directory::{Choice, Directory, DirectoryError, Near, Place, Service};
pub use local::{LocalWorkload, NetnsSource, Outsider};
pub use part::Part;
pub use record::{AccessRecord, ConnectionId, Party, Protection, Reporter, TlsFacts};
pub use skew::Skew;
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
pub use traces::{Collector, CollectorError, Ratio, RatioError};
pub use trust::{Bearer, Quarantine, QuarantineError, Trust};
pub use workload::{Failure, Label, LabelError, Mode, Udp, Workload, WorkloadName};
pub use zone::{Zone, ZoneError};
