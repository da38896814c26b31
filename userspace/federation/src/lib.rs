//! Federation over bundle endpoints (the SPIFFE Federation standard): a [`Follower`] looks for new
//! roots of another trust domain, a [`BundleServer`] publishes ours.
//!
//! A document does not say whose roots it holds. The endpoint that it came from does: it was
//! declared for one trust domain, which is never our own, and proved itself.

#![forbid(unsafe_code)]

mod endpoint;
mod fetch;
mod follow;
pub mod limits;
mod serve;

pub use endpoint::{Endpoint, EndpointError, EndpointUrl, Profile};
pub use fetch::{FetchError, fetch};
pub use follow::{Failure, Followed, Follower, Following, next_look};
pub use serve::{BundleServer, ServedBy};
