//! `martlet bugreport`: one archive with what somebody else needs to find out what is wrong.
//!
//! No Secret is asked for, and every text goes through [`redact`] all the same: a log line or an
//! annotation may hold what it should not.

mod redact;

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use martlet_kubernetes::remote::{Beside, OwnPod};

use super::{Cluster, ask_all, chain, check};
use crate::{agent::Told, write};

pub use redact::redact;

/// What agents are asked for.
const PAGES: [&str; 7] =
    ["/status", "/workloads", "/connections", "/certificates", "/coverage", "/check", "/records"];
const LOG_LINES: i64 = 2000;

/// Texts by their names in the archive.
#[derive(Default)]
struct Contents {
    files: Vec<(String, String)>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

pub async fn bugreport(cluster: &Cluster, output: Option<&Path>) -> Result<ExitCode> {
    let mut contents = Contents::default();
    let name = format!("martlet-bugreport-{}", seconds());
    let ours = env!("CARGO_PKG_VERSION");
    let server = cluster.remote.version().await;
    let server = server.unwrap_or_else(|error| chain(&error));
    contents.add("versions.txt", format!("martlet {ours}\nAPI server {server}\n"));
    let report = check::find(cluster).await;
    contents.add("check.json", serde_json::to_string_pretty(&report)?);
    objects(cluster, &mut contents).await?;
    agents(cluster, &mut contents).await;
    controllers(cluster, &mut contents).await;
    let missing: String = contents.missing.iter().map(|line| format!("{line}\n")).collect();
    contents.add("missing.txt", missing.clone());
    let default = format!("{name}.tar.gz");
    let path = output.unwrap_or(Path::new(&default));
    pack(path, &name, &contents.files)?;
    let size = fs::metadata(path).map_or(0, |metadata| metadata.len());
    let count = contents.files.len();
    write(&format!("{} has {count} files ({})\n", path.display(), crate::human::bytes(size)))?;
    if !missing.is_empty() {
        write(&format!("\nwhat could not be had:\n{missing}"))?;
    }
    write(
        "\nit holds names, addresses and identities of your pods, and no keys or tokens; look \
         through it before you give it to anybody\n",
    )?;
    Ok(ExitCode::SUCCESS)
}

async fn objects(cluster: &Cluster, contents: &mut Contents) -> Result<()> {
    for (kind, found) in cluster.remote.objects().await {
        match found {
            Ok(found) => {
                let text = serde_json::to_string_pretty(&found)?;
                contents.add(format!("objects/{kind}.json"), text);
            }
            Err(error) => contents.missing.push(format!("{kind}: {}", chain(&error))),
        }
    }
    Ok(())
}

async fn agents(cluster: &Cluster, contents: &mut Contents) {
    match cluster.members().await {
        Err(error) => contents.missing.push(format!("agents: {error:#}")),
        Ok(mut members) => {
            for page in PAGES {
                let heard = ask_all(&mut members, page).await;
                for heard in heard {
                    let name = format!("nodes/{}{page}.json", heard.node);
                    match heard.told {
                        Ok(Told { answer, .. }) => {
                            contents.add(name, String::from_utf8_lossy(&answer));
                        }
                        Err(error) => contents.missing.push(format!("{name}: {}", chain(&error))),
                    }
                }
            }
        }
    }
    match cluster.remote.agents().await {
        Err(error) => contents.missing.push(format!("logs of agents: {}", chain(&error))),
        Ok(found) => {
            for pod in found.pods {
                let directory = format!("nodes/{}", pod.node);
                logs(cluster, &pod, &directory, contents).await;
            }
        }
    }
}

async fn controllers(cluster: &Cluster, contents: &mut Contents) {
    match cluster.controller().await {
        Err(error) => contents.missing.push(format!("controller: {error:#}")),
        Ok(controller) => {
            for page in ["/nodes", "/trust"] {
                match controller.ask(page).await {
                    Ok(answer) => {
                        let text = String::from_utf8_lossy(&answer).into_owned();
                        contents.add(format!("controller{page}.json"), text);
                    }
                    Err(error) => {
                        contents.missing.push(format!("controller{page}: {}", chain(&error)));
                    }
                }
            }
        }
    }
    match cluster.remote.controllers().await {
        Err(error) => contents.missing.push(format!("logs of controllers: {}", chain(&error))),
        Ok(pods) => {
            for pod in pods {
                let directory = format!("controller/{}", pod.name);
                logs(cluster, &pod, &directory, contents).await;
            }
        }
    }
}

/// Of all containers of a pod.
async fn logs(cluster: &Cluster, pod: &OwnPod, directory: &str, contents: &mut Contents) {
    log(cluster, pod, (&pod.container, pod.restarts), &format!("{directory}/log"), contents).await;
    for Beside { container, restarts } in &pod.beside {
        let name = format!("{directory}/log-of-{container}");
        log(cluster, pod, (container, *restarts), &name, contents).await;
    }
}

/// Of the program that runs, and of the one before it if it was restarted.
async fn log(
    cluster: &Cluster,
    pod: &OwnPod,
    (container, restarts): (&str, i32),
    name: &str,
    contents: &mut Contents,
) {
    for previous in [false, true] {
        if previous && restarts == 0 {
            continue;
        }
        let name = format!("{name}{}.txt", if previous { "-before-restart" } else { "" });
        match cluster.remote.log(pod, container, LOG_LINES, previous).await {
            Ok(text) => contents.add(name, text),
            Err(error) => contents.missing.push(format!("{name}: {}", chain(&error))),
        }
    }
}

impl Contents {
    fn add(&mut self, name: impl Into<String>, text: impl AsRef<str>) {
        self.files.push((name.into(), redact(text.as_ref())));
    }
}

/// For its owner alone.
fn pack(path: &Path, name: &str, files: &[(String, String)]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let named = || path.display().to_string();
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(path).with_context(named)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (file, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(seconds());
        archive
            .append_data(&mut header, format!("{name}/{file}"), text.as_bytes())
            .with_context(named)?;
    }
    let packed = archive.into_inner().and_then(GzEncoder::finish).with_context(named)?;
    (&packed).flush().with_context(named)
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
