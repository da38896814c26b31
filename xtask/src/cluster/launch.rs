//! Programs that go on after this one has ended.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::place::Place;

/// Keeps nothing that the caller has open: not its terminal, not its pipes, not its locks.
const LAUNCH: &str = r#"
for file in /proc/$$/fd/*; do
    number=${file##*/}
    [ "$number" -le 2 ] || eval "exec $number>&-"
done
echo $$ > "$1/cgroup.procs"
exec setsid nsenter "--net=/run/netns/$2" "${@:3}"
"#;

/// A program that was started; its log is known.
pub struct Launched {
    name: String,
    log: std::path::PathBuf,
    child: Child,
}

/// In the control plane's group, and in this network namespace.
pub fn launch(
    place: &Place,
    group: &Path,
    netns: &str,
    name: &str,
    stdin: Stdio,
    command: &Command,
) -> Result<Launched> {
    let path = place.log(name);
    let log = File::create(&path).with_context(|| path.display().to_string())?;
    let child = Command::new("bash")
        .args(["-c", LAUNCH, "launch"])
        .arg(group)
        .arg(netns)
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir("/")
        .stdin(stdin)
        .stdout(log.try_clone().context("the log for output")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    Ok(Launched { name: name.to_owned(), log: path, child })
}

impl Launched {
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Fails if it has ended, which none of them does by itself.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("asking for a program")? {
            bail!("{} ended ({status}); see {}", self.name, self.log.display());
        }
        Ok(())
    }
}
