//! What the plugin asks the agent, and what that answers: one line of JSON each.
//!
//! A plugin and an agent of two versions meet during every upgrade, so fields that are not known are
//! passed over, and a question that is not known is refused.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// In the directory of the agent's own socket. Readable and writable for root.
pub const SOCKET: &str = "cni.sock";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub enum Ask {
    /// Whether this pod may have a network. The descriptor of its network namespace comes along.
    Arrives(Arrival),
    /// Nothing is asked: its network has been taken away.
    Leaves { sandbox: String },
}

/// A pod whose network has just been made, and of which nothing runs yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrival {
    /// By which the runtime knows it.
    pub sandbox: String,
    /// Where the namespace was opened, for people and for whoever looks for it later.
    pub netns: PathBuf,
    /// Nobody, if the runtime does not say that it is a pod.
    pub pod: Option<PodName>,
    pub addresses: Vec<IpAddr>,
    /// Whether it has a network whatever the answer is.
    #[serde(default)]
    pub is_exempt: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodName {
    pub namespace: String,
    pub name: String,
    /// Older runtimes do not say it.
    pub uid: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub enum Answer {
    Go,
    /// Not now.
    No {
        why: String,
    },
}
