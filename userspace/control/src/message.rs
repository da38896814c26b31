//! From messages to values and back. What another side has sent is parsed here, once: every length
//! is bounded, every text is read, and of a message in which anything is wrong nothing is taken.

mod arrival;
mod policy;
mod settings;
mod standing;
mod trust;
mod usage;
mod workload;

use std::{fmt::Display, str::FromStr};

use martlet_identity::{Chain, Csr};
use martlet_model::WorkloadName;
use thiserror::Error;

use crate::{limits, proto};

pub use arrival::{arrivals_from, arrivals_to};
pub use policy::{PolicyName, policy_from, policy_name_from, policy_name_to, policy_to};
pub use settings::{here_from, here_to, settings_from, settings_to};
pub use standing::{Standings, standings_from, standings_to};
pub use trust::{bundle_digest, trust_from, trust_to};
pub use usage::{acknowledgement_from, acknowledgement_to, usage_from, usage_to};
pub use workload::{
    Local, local_from, local_to, outside_from, outside_to, service_from, service_to, workload_from,
    workload_to,
};

/// What in a message is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{at}: {what}")]
pub struct Malformed {
    at: String,
    what: String,
}

/// Characters of a wrong text that are shown.
const SHOWN: usize = 64;

impl Malformed {
    pub fn new(at: impl Into<String>, what: impl Display) -> Self {
        Self { at: at.into(), what: what.to_string() }
    }

    /// The same, of which more of the way to it is known.
    pub fn within(self, place: impl Display) -> Self {
        Self { at: format!("{place}.{}", self.at), what: self.what }
    }
}

pub(crate) fn present<T>(at: &str, given: Option<T>) -> Result<T, Malformed> {
    given.ok_or_else(|| Malformed::new(at, "is missing"))
}

pub(crate) fn parsed<T>(at: &str, text: &str) -> Result<T, Malformed>
where
    T: FromStr,
    T::Err: Display,
{
    let shown = || text.chars().take(SHOWN).collect::<String>();
    text.parse().map_err(|error| Malformed::new(at, format_args!("{:?}: {error}", shown())))
}

pub(crate) fn bounded<T>(at: &str, list: &[T], most: usize) -> Result<(), Malformed> {
    match list.len() {
        length if length <= most => Ok(()),
        length => Err(Malformed::new(at, format_args!("has {length} entries, at most {most}"))),
    }
}

pub(crate) fn sized(at: &str, bytes: &[u8], most: usize) -> Result<(), Malformed> {
    match bytes.len() {
        0 => Err(Malformed::new(at, "is empty")),
        length if length <= most => Ok(()),
        length => Err(Malformed::new(at, format_args!("has {length} bytes, at most {most}"))),
    }
}

/// A list of which every entry is read; the first that cannot be says its number.
pub(crate) fn each<A, B>(
    at: &str,
    list: Vec<A>,
    most: usize,
    read: impl Fn(A) -> Result<B, Malformed>,
) -> Result<Vec<B>, Malformed> {
    bounded(at, &list, most)?;
    let numbered = list.into_iter().enumerate();
    numbered
        .map(|(number, entry)| read(entry).map_err(|bad| bad.within(format!("{at}[{number}]"))))
        .collect()
}

/// SHA-256, in hex.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Texts are for people and logs: without control characters, and of some length.
pub(crate) fn text(at: &str, text: String) -> Result<String, Malformed> {
    if text.len() > limits::TEXT_BYTES {
        return Err(Malformed::new(at, format_args!("has {} bytes", text.len())));
    }
    Ok(text.replace(char::is_control, " "))
}

/// Cut to what the other side takes.
pub(crate) fn cut(text: &str) -> String {
    let end =
        (0..=limits::TEXT_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

pub fn name_to(name: &WorkloadName) -> proto::Name {
    proto::Name { namespace: name.namespace.to_string(), name: name.name.to_string() }
}

pub fn name_from(name: Option<proto::Name>) -> Result<WorkloadName, Malformed> {
    let proto::Name { namespace, name } = present("name", name)?;
    Ok(WorkloadName { namespace: parsed("namespace", &namespace)?, name: parsed("name", &name)? })
}

pub fn chain_to(chain: Chain) -> proto::Chain {
    proto::Chain { certificates: chain.0 }
}

pub fn chain_from(chain: Option<proto::Chain>) -> Result<Chain, Malformed> {
    let proto::Chain { certificates } = present("chain", chain)?;
    if certificates.is_empty() {
        return Err(Malformed::new("chain", "is empty"));
    }
    let read = each("chain", certificates, limits::CHAIN_CERTIFICATES, |der| {
        sized("certificate", &der, limits::CERTIFICATE_BYTES).map(|()| der)
    });
    read.map(Chain)
}

pub fn csr_from(csr: Vec<u8>) -> Result<Csr, Malformed> {
    sized("csr", &csr, limits::CSR_BYTES).map(|()| Csr(csr))
}
