//! What is said about a connection when it ends.

use std::{borrow::Cow, fmt, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Closed, SpiffeId, WorkloadName};

/// Names one connection in the records of both agents. Random, not secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConnectionId(pub u64);

/// Which side wrote the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reporter {
    /// The caller's agent.
    Source,
    /// The called workload's agent.
    Destination,
}

/// How the bytes travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    MutualTls,
    /// To a service's endpoint outside the mesh.
    Plaintext,
    /// From a workload to itself: it never left the network namespace.
    Internal,
    /// Nothing was relayed.
    None,
}

/// One end of a connection, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    pub address: Option<SocketAddr>,
    /// From the certificate, or our own; never from an address alone.
    pub identity: Option<SpiffeId>,
    /// From the directory.
    pub workload: Option<WorkloadName>,
}

/// What TLS agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// `TLSv1.3`.
    pub version: Cow<'static, str>,
    /// IANA name, such as `TLS13_AES_128_GCM_SHA256`.
    pub cipher: Cow<'static, str>,
    /// IANA name, such as `X25519MLKEM768`.
    pub key_exchange: Cow<'static, str>,
}

/// One line for one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRecord {
    pub id: ConnectionId,
    pub reporter: Reporter,
    pub source: Party,
    pub destination: Party,
    /// What the application asked for: differs from the destination's address for a service.
    pub origin: Option<SocketAddr>,
    pub protection: Protection,
    pub tls: Option<TlsFacts>,
    /// Whether the lane had carried another connection before.
    pub warm: bool,
    /// Application bytes from caller to callee.
    pub bytes_sent: u64,
    /// Application bytes from callee to caller.
    pub bytes_received: u64,
    #[serde(rename = "duration_us", with = "micros")]
    pub duration: Duration,
    pub closed: Closed,
    /// The policy and rule that refused, for [`Closed::Denied`].
    pub policy: Option<String>,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<ConnectionId> for String {
    fn from(id: ConnectionId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for ConnectionId {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(Self)
    }
}

impl Protection {
    pub fn as_str(self) -> &'static str {
        match self {
            Protection::MutualTls => "mutual_tls",
            Protection::Plaintext => "plaintext",
            Protection::Internal => "internal",
            Protection::None => "none",
        }
    }
}

impl Reporter {
    pub fn as_str(self) -> &'static str {
        match self {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
        }
    }
}

mod micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_micros)
    }
}
