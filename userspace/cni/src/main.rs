//! `martlet-cni`: started by a container runtime, it is the plugin; with a word behind it, it puts
//! itself on a node or takes itself away.

#![forbid(unsafe_code)]

use std::{env, fs, io::Read as _, path::PathBuf, process::ExitCode, thread};

use martlet_cni::{
    files::{FilesError, Places},
    invocation::Variables,
    limits,
    network::Settings,
    plugin,
};

const USAGE: &str = "\
martlet-cni is a plugin that a container runtime starts (docs/kubernetes.md), or
  martlet-cni keep   PROGRAMS NETWORKS SOCKET [NAMESPACE…]  puts it on a node, and keeps it there
  martlet-cni look   PROGRAMS NETWORKS SOCKET [NAMESPACE…]  says whether it is there
  martlet-cni remove PROGRAMS NETWORKS [--stay]             takes it away
  martlet-cni gone   PROGRAMS NETWORKS                      says whether it is away
PROGRAMS and NETWORKS are the directories of the node, such as /opt/cni/bin and /etc/cni/net.d.
NAMESPACE: whose pods have a network also without the agent.";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [] if env::var_os("CNI_COMMAND").is_some() => return answer(),
        ["keep", programs, networks, socket, exempt @ ..] => {
            keep(&places(programs, networks), &settings(socket, exempt))
        }
        ["look", programs, networks, socket, exempt @ ..] => {
            look(&places(programs, networks), &settings(socket, exempt))
        }
        ["remove", programs, networks] => remove(&places(programs, networks)),
        ["remove", programs, networks, "--stay"] => stay_away(&places(programs, networks)),
        ["gone", programs, networks] => gone(&places(programs, networks)),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// As a plugin.
fn answer() -> ExitCode {
    let mut stdin = String::new();
    let read = std::io::stdin().take(limits::STDIN_BYTES).read_to_string(&mut stdin);
    let stdin = match &read {
        Ok(_) => Ok(stdin.as_str()),
        Err(error) => Err(format!("reading standard input: {error}")),
    };
    let said = plugin::run(&Variables::of_process(), stdin);
    if !said.text.is_empty() {
        println!("{}", said.text);
    }
    if said.is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn places(programs: &str, networks: &str) -> Places {
    Places { programs: PathBuf::from(programs), networks: PathBuf::from(networks) }
}

fn settings(socket: &str, exempt: &[&str]) -> Settings {
    let exempt = exempt.iter().map(|name| (*name).to_owned()).collect();
    Settings { socket: socket.to_owned(), exempt }
}

/// Until it is told to end. What it has put there stays then: a node without its agent is what it is
/// for.
fn keep(places: &Places, settings: &Settings) -> Result<(), String> {
    let program = fs::read("/proc/self/exe").map_err(|error| format!("own program: {error}"))?;
    let mut last = None;
    loop {
        let said = match places.keep(&program, settings) {
            Ok(written) => {
                written.iter().for_each(|path| println!("written: {}", path.display()));
                "the plugin is in the node's network".to_owned()
            }
            Err(error) if error.is_others() => error.to_string(),
            Err(error) => return Err(error.to_string()),
        };
        if last.as_ref() != Some(&said) {
            println!("{said}");
            last = Some(said);
        }
        thread::sleep(limits::LOOK_INTERVAL);
    }
}

fn look(places: &Places, settings: &Settings) -> Result<(), String> {
    match places.is_kept(settings) {
        Ok(true) => Ok(()),
        Ok(false) => Err("the plugin is not in the node's network".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn remove(places: &Places) -> Result<(), String> {
    let removed = places.remove().map_err(|error: FilesError| error.to_string())?;
    removed.iter().for_each(|path| println!("removed: file {}", path.display()));
    Ok(())
}

fn gone(places: &Places) -> Result<(), String> {
    match places.is_gone() {
        true => Ok(()),
        false => Err("the plugin is still on the node".to_owned()),
    }
}

/// Until it is told to end: a container that ends would be started again, and the one before it may
/// still put there what is taken away.
fn stay_away(places: &Places) -> Result<(), String> {
    loop {
        remove(places)?;
        thread::sleep(limits::LOOK_INTERVAL);
    }
}
