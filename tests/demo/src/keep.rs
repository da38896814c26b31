//! How to play with what was left running, and the script that makes it short.

use std::{env, fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use martlet_lab::{Pod, find_binary};

use crate::{
    page::heading,
    stage::{SERVICE, Stage},
    terminal::Terminal,
};

pub fn print(stage: &Stage, terminal: &Terminal) -> Result<()> {
    let enter = write_script(stage)?;
    let martlet = find_binary("martlet")?;
    let (enter, martlet) = (shorten(&enter), shorten(&martlet));
    let web = stage.web_address();
    let socket = |number: usize| stage.agents[number].socket().display().to_string();
    let sections = [
        (
            "Run something in a pod: cart-0, cart-1, web-0, guest-0, or outside",
            vec![
                format!("{enter} cart-0 curl http://{web}/after"),
                format!("{enter} cart-1 curl http://{SERVICE}/after"),
                format!("{enter} guest-0 curl http://{web}/after     # denied"),
                format!("{enter} outside curl http://{web}/after     # not enrolled: refused"),
            ],
        ),
        (
            "Ask an agent",
            ["status", "workloads", "certificates", "check", "records"]
                .map(|command| format!("{martlet} --socket {} {command}", socket(1)))
                .to_vec(),
        ),
        (
            "Look at the wire (Debian: tcpdump), and at what is in the kernel (Debian: bpftool)",
            vec![
                format!(
                    "ip netns exec {} tcpdump -ni br0 -X port {}",
                    stage.lab.wire().name(),
                    web.port()
                ),
                format!("bpftool cgroup tree {}", stage.nodes[1].cgroup().display()),
            ],
        ),
        (
            "Change what an agent is told: it takes the file when it is written",
            vec![format!("$EDITOR {}", stage.agents[1].file().display())],
        ),
    ];
    for (title, commands) in sections {
        heading(title, terminal);
        for command in commands {
            terminal.line(format_args!("    {command}"));
        }
    }
    terminal.line("\n  Ctrl-C ends it all and removes everything.");
    Ok(())
}

/// A program is in a pod if it is in the pod's cgroup and in its network namespace.
fn write_script(stage: &Stage) -> Result<std::path::PathBuf> {
    let pods = stage.carts.iter().chain([&stage.web, &stage.guest, &stage.outside]);
    let script = format!(
        "#!/bin/sh\n# Runs a command in a pod: pod POD COMMAND...\ncase $1 in\n{}\
         *) echo \"no such pod: $1\" >&2; exit 2 ;;\nesac\nshift\n\
         echo $$ > \"$cgroup/cgroup.procs\" && exec ip netns exec \"$netns\" \"$@\"\n",
        pods.map(case).collect::<String>()
    );
    let path = stage.lab.directory().join("pod");
    fs::write(&path, script).context("writing a script")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("making it run")?;
    Ok(path)
}

fn case(pod: &Pod) -> String {
    let (name, cgroup, netns) = (pod.name(), pod.cgroup().display(), pod.netns().name());
    format!("{name}) cgroup={cgroup} netns={netns} ;;\n")
}

/// Relative to where the person is.
fn shorten(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
