//! Who may talk to whom. Pure: no IO, no clock.
//!
//! Within the mesh everything is allowed until a policy selects the called workload. A deny that
//! matches wins; if any allow policy selects the workload, what none of them allows is refused.

#![forbid(unsafe_code)]

mod evaluate;
mod permit;
mod rule;

pub use evaluate::{Denied, PolicySet, Request};
pub use permit::Permit;
pub use rule::{Action, IdentityMatch, Policy, PolicyError, PortRange, Rule, Selector, Source};
