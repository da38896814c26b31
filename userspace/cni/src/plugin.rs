//! What becomes of what a runtime wants: a result, or an error in CNI's form, and the exit code.

use std::{fs::File, path::Path};

use serde::Serialize;
use serde_json::json;

use crate::{
    agent,
    invocation::{Command, Configuration, VERSIONS, Variables},
    limits,
    message::{Answer, Ask},
};

/// What is printed, and whether all went well.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub text: String,
    pub is_well: bool,
}

/// Codes below 100 are the specification's (section "Error").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: u32,
    message: String,
    details: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

impl Failure {
    fn new(code: u32, message: &str, details: String) -> Self {
        Self { code, message: message.to_owned(), details }
    }

    pub fn version(version: &str) -> Self {
        let details = format!("cniVersion is {version:?}; known are {}", VERSIONS.join(", "));
        Self::new(1, "incompatible CNI version", details)
    }

    pub fn environment(details: String) -> Self {
        Self::new(4, "invalid environment variables", details)
    }

    pub fn input(details: String) -> Self {
        Self::new(5, "I/O failure", details)
    }

    pub fn decoding(details: String) -> Self {
        Self::new(6, "failed to decode content", details)
    }

    pub fn configuration(details: String) -> Self {
        Self::new(7, "invalid network configuration", details)
    }

    /// Kubelet tries again by itself, and shows the message and not the details.
    pub fn later(why: &str) -> Self {
        let why: String = why.chars().take(limits::REASON_CHARS).collect();
        Self::new(11, &format!("martlet: {why}"), String::new())
    }

    fn said(&self, version: &str) -> Said {
        let Self { code, message, details } = self;
        let told = Told { cni_version: version, code: *code, msg: message, details };
        let text = serde_json::to_string(&told).expect("numbers and texts can be written");
        Said { text, is_well: false }
    }
}

/// Does what the runtime wants. `stdin`: what it says there, if that could be read.
pub fn run(variables: &Variables, stdin: Result<&str, String>) -> Said {
    let newest = VERSIONS[VERSIONS.len() - 1];
    let read = stdin.map_err(Failure::input).and_then(Configuration::read);
    let version = match &read {
        Ok(configuration) if configuration.check_version().is_ok() => &configuration.cni_version,
        _ => newest,
    };
    match attempt(variables, read.as_ref().map_err(Clone::clone)) {
        Ok(text) => Said { text, is_well: true },
        Err(failure) => failure.said(version),
    }
}

fn attempt(
    variables: &Variables,
    read: Result<&Configuration, Failure>,
) -> Result<String, Failure> {
    let command = variables.command()?;
    if command == Command::Version {
        // Whoever asks may have said nothing, or a version that is not known.
        let asked = read.map(|read| read.cni_version.clone()).unwrap_or_default();
        let version = if asked.is_empty() { VERSIONS[VERSIONS.len() - 1] } else { &asked };
        return Ok(json!({ "cniVersion": version, "supportedVersions": VERSIONS }).to_string());
    }
    let configuration = read?;
    configuration.check_version()?;
    match command {
        Command::Add => add(variables, configuration),
        Command::Check => check(variables, configuration),
        Command::Del => leave(variables, configuration),
        // Kubelet starts no pod on a node whose network is not ready, the agent's neither.
        Command::Status | Command::Collect | Command::Version => Ok(String::new()),
    }
}

fn add(variables: &Variables, configuration: &Configuration) -> Result<String, Failure> {
    let previous = configuration.previous()?;
    let arrival = variables.arrival(configuration)?;
    variables.needed("CNI_IFNAME")?;
    let is_exempt = arrival.is_exempt;
    let answer = open(&arrival.netns).and_then(|netns| {
        let ask = Ask::Arrives(arrival);
        agent::ask(socket(configuration)?, &ask, Some(&netns), limits::ANSWER_TIMEOUT)
            .map_err(|error| Failure::later(&error.to_string()))
    });
    let refused = match answer {
        Ok(Answer::Go) => None,
        Ok(Answer::No { why }) => Some(Failure::later(&why)),
        Err(failure) => Some(failure),
    };
    match refused {
        Some(failure) if !is_exempt => Err(failure),
        _ => Ok(previous.to_string()),
    }
}

/// That a pod runs on is no question of whether its agent does.
fn check(variables: &Variables, configuration: &Configuration) -> Result<String, Failure> {
    configuration.previous()?;
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        variables.needed(name)?;
    }
    Ok(String::new())
}

/// What can be taken away must be, whatever else is missing; and here nothing is.
fn leave(variables: &Variables, configuration: &Configuration) -> Result<String, Failure> {
    let sandbox = variables.needed("CNI_CONTAINERID")?.to_owned();
    variables.needed("CNI_IFNAME")?;
    if let Ok(socket) = socket(configuration) {
        let _ = agent::ask(socket, &Ask::Leaves { sandbox }, None, limits::FAREWELL_TIMEOUT);
    }
    Ok(String::new())
}

fn socket(configuration: &Configuration) -> Result<&Path, Failure> {
    let path = Path::new(&configuration.socket);
    match path.is_absolute() {
        true => Ok(path),
        false => {
            Err(Failure::configuration("`socket` is not the agent's absolute path".to_owned()))
        }
    }
}

fn open(netns: &Path) -> Result<File, Failure> {
    let failed = |error| Failure::input(format!("opening {}: {error}", netns.display()));
    File::open(netns).map_err(failed)
}
