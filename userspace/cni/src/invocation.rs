//! What a container runtime says to a plugin: by variables of the environment, and by JSON on standard
//! input (CNI specification 1.1.0, section 2).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    limits,
    message::{Arrival, PodName},
    plugin::Failure,
};

/// Versions of the specification in whose terms prevResult is read and handed on.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What a runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Check,
    Del,
    Version,
    Status,
    Collect,
}

/// The variables, as they are.
#[derive(Debug, Clone, Default)]
pub struct Variables(pub BTreeMap<String, String>);

/// The configuration of this plugin in its network.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    #[serde(default)]
    pub cni_version: String,
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// Where the agent is asked.
    #[serde(default)]
    pub socket: String,
    /// The namespaces whose pods have a network whatever the agent says.
    #[serde(default)]
    pub exempt: Vec<String>,
}

/// Of the results of the plugins before, what is looked at.
#[derive(Debug, Deserialize)]
struct Made {
    #[serde(default)]
    ips: Vec<Ip>,
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: String,
}

impl Variables {
    pub fn of_process() -> Self {
        let text = |name: &str| Some((name.to_owned(), std::env::var(name).ok()?));
        let names = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];
        Self(names.into_iter().filter_map(text).collect())
    }

    /// # Errors
    ///
    /// It is not there, or is nothing.
    pub fn needed(&self, name: &str) -> Result<&str, Failure> {
        match self.0.get(name).map(String::as_str) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(Failure::environment(format!("{name} is not there"))),
        }
    }

    pub fn command(&self) -> Result<Command, Failure> {
        match self.needed("CNI_COMMAND")? {
            "ADD" => Ok(Command::Add),
            "CHECK" => Ok(Command::Check),
            "DEL" => Ok(Command::Del),
            "VERSION" => Ok(Command::Version),
            "STATUS" => Ok(Command::Status),
            "GC" => Ok(Command::Collect),
            other => Err(Failure::environment(format!("CNI_COMMAND is {other:?}"))),
        }
    }

    /// Which pod it is, if the runtime says so: `K8S_POD_…=…` among `CNI_ARGS`.
    ///
    /// # Errors
    ///
    /// The arguments are not such pairs, or say half of it.
    pub fn pod(&self) -> Result<Option<PodName>, Failure> {
        let wrong = |what: &str| Failure::environment(format!("CNI_ARGS {what}"));
        let text = self.0.get("CNI_ARGS").map(String::as_str).unwrap_or_default();
        let mut pairs = BTreeMap::new();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| wrong("is not KEY=VALUE;…"))?;
            if pairs.insert(key, value).is_some_and(|before| before != value) {
                return Err(wrong(&format!("says two things of {key}")));
            }
        }
        let said = |key: &str| {
            pairs.get(key).filter(|value| !value.is_empty()).map(|value| (*value).to_owned())
        };
        match (said("K8S_POD_NAMESPACE"), said("K8S_POD_NAME")) {
            (Some(namespace), Some(name)) => {
                Ok(Some(PodName { namespace, name, uid: said("K8S_POD_UID") }))
            }
            (None, None) => Ok(None),
            _ => Err(wrong("names half a pod")),
        }
    }

    /// # Errors
    ///
    /// Something that has to be said is not, or cannot be read.
    pub fn arrival(&self, configuration: &Configuration) -> Result<Arrival, Failure> {
        let addresses = configuration.addresses()?;
        let sandbox = self.needed("CNI_CONTAINERID")?.to_owned();
        let netns = self.needed("CNI_NETNS")?.into();
        let pod = self.pod()?;
        let exempt = &configuration.exempt;
        let is_exempt = pod.as_ref().is_some_and(|pod| exempt.contains(&pod.namespace));
        Ok(Arrival { sandbox, netns, pod, addresses, is_exempt })
    }
}

impl Configuration {
    /// # Errors
    ///
    /// It is no JSON, or not of this shape.
    pub fn read(stdin: &str) -> Result<Self, Failure> {
        serde_json::from_str(stdin).map_err(|error| Failure::decoding(error.to_string()))
    }

    /// # Errors
    ///
    /// The version is none of ours.
    pub fn check_version(&self) -> Result<(), Failure> {
        match VERSIONS.contains(&self.cni_version.as_str()) {
            true => Ok(()),
            false => Err(Failure::version(&self.cni_version)),
        }
    }

    /// What the plugins before have made.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn previous(&self) -> Result<&Value, Failure> {
        let why =
            "there is no prevResult: martlet-cni comes after a plugin that makes the interface";
        self.prev_result.as_ref().ok_or_else(|| Failure::configuration(why.to_owned()))
    }

    /// The pod's addresses by that.
    ///
    /// # Errors
    ///
    /// One cannot be a pod's, or there are too many.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        let Made { ips } = Made::deserialize(self.previous()?)
            .map_err(|error| Failure::decoding(format!("prevResult: {error}")))?;
        if ips.len() > limits::ADDRESSES {
            let why = format!("prevResult has {} addresses", ips.len());
            return Err(Failure::configuration(why));
        }
        let mut addresses = Vec::new();
        for Ip { address } in ips {
            let text = address.split_once('/').map_or(address.as_str(), |(text, _)| text);
            let ip = text.parse().ok().map(|ip: IpAddr| ip.to_canonical());
            let ip = ip.filter(|ip| can_be_a_pods(*ip)).ok_or_else(|| {
                Failure::configuration(format!("{address:?} in prevResult is no pod's address"))
            })?;
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        Ok(addresses)
    }
}

fn can_be_a_pods(ip: IpAddr) -> bool {
    let is_broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_broadcast)
}
