//! What the story has shown: for the page, and as JSON.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::wire::{Piece, Seen};

pub struct Facts {
    pub control: Control,
    pub protected: Protected,
    pub denied: Denied,
    pub outage: Outage,
    pub latency: [Latency; 2],
    /// As the agents of the callers and of the called pod tell them.
    pub records: Vec<Value>,
    pub connections: usize,
}

/// Without agents.
pub struct Control {
    pub seen: Seen,
    /// How many secrets were told.
    pub told: usize,
    pub request: Piece,
}

/// With agents.
pub struct Protected {
    pub seen: Seen,
    pub told: usize,
    pub records: [Piece; 3],
    pub client: String,
    pub server: String,
    pub tls: String,
    pub cipher: String,
    pub key_exchange: String,
}

pub struct Denied {
    pub seen: Seen,
    pub told: usize,
    pub identity: String,
    /// The policy and its rule, from the record.
    pub policy: String,
    /// What curl said.
    pub said: String,
}

/// The called side's agent was killed, and started again.
pub struct Outage {
    pub seen: Seen,
    pub told: usize,
    pub said: String,
    pub refused_after: Duration,
    pub serves_after: Duration,
}

#[derive(Clone, Copy)]
pub struct Latency {
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Facts {
    /// Everything that went over the wire while agents were there.
    pub fn seen(&self) -> Seen {
        self.protected.seen.and(self.denied.seen).and(self.outage.seen)
    }

    pub fn told(&self) -> usize {
        self.protected.told + self.denied.told + self.outage.told
    }

    pub fn added(&self) -> Latency {
        let [direct, through] = self.latency;
        Latency { p50_us: through.p50_us - direct.p50_us, p99_us: through.p99_us - direct.p99_us }
    }

    pub fn to_json(&self) -> Value {
        let [direct, through] = self.latency;
        let round = |us: f64| (us * 10.0).round() / 10.0;
        json!({
            "plaintext_on_wire": self.seen().plaintext(),
            "control_saw_plaintext": self.control.seen.secrets == self.control.told,
            "control_secrets": self.control.told,
            "control_secrets_found": self.control.seen.secrets,
            "secrets": self.told(),
            "secrets_found": self.seen().secrets,
            "bytes_on_wire": self.seen().bytes,
            "client": self.protected.client,
            "server": self.protected.server,
            "tls": self.protected.tls,
            "cipher": self.protected.cipher,
            "key_exchange": self.protected.key_exchange,
            "connections": self.connections,
            "denied": self.denied.identity,
            "denied_by": self.denied.policy,
            "refused_without_agent_ms": millis(self.outage.refused_after),
            "serves_again_ms": millis(self.outage.serves_after),
            "direct_p50_us": round(direct.p50_us),
            "direct_p99_us": round(direct.p99_us),
            "through_p50_us": round(through.p50_us),
            "through_p99_us": round(through.p99_us),
            "added_p50_us": round(self.added().p50_us),
            "added_p99_us": round(self.added().p99_us),
        })
    }
}

impl Protected {
    pub fn new(seen: Seen, told: usize, records: [Piece; 3], record: &Value) -> Result<Protected> {
        let text = |pointer: &str| {
            let value = record.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            value.with_context(|| format!("{pointer} is not in the record {record}"))
        };
        Ok(Protected {
            seen,
            told,
            records,
            client: text("/source/identity")?,
            server: text("/destination/identity")?,
            tls: text("/tls/version")?,
            cipher: text("/tls/cipher")?,
            key_exchange: text("/tls/key_exchange")?,
        })
    }
}

impl Latency {
    /// A line of the lab's probe.
    pub fn of(line: &Value) -> Result<Latency> {
        let field = |name: &str| {
            line[name].as_f64().with_context(|| format!("{name} is not in the probe's {line}"))
        };
        Ok(Latency { p50_us: field("p50_us")?, p99_us: field("p99_us")? })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
