//! `martlet completion` and `martlet man`, and the name by which it was called.

use std::{env, fs, io, path::Path};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};

use crate::args::{Args, Shell};

/// kubectl finds programs of this name, and calls them by what is after `kubectl-`.
const PLUGIN: &str = "kubectl-martlet";

/// The command line, under the name by which it was called.
pub fn command() -> Command {
    named(&env::args_os().next().unwrap_or_default().to_string_lossy())
}

fn named(program: &str) -> Command {
    let is_plugin = Path::new(program).file_stem().is_some_and(|name| name == PLUGIN);
    let command = Args::command();
    if is_plugin { command.bin_name("kubectl martlet") } else { command }
}

/// Of the program by its own name: kubectl asks a plugin for completions in another way.
pub fn completion(shell: Shell) -> Result<String> {
    let mut script = Vec::new();
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    clap_complete::generate(shell, &mut Args::command(), "martlet", &mut script);
    String::from_utf8(script).context("a script is text")
}

/// One page for each command.
pub fn manual(directory: &Path) -> Result<usize> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, "martlet", directory).context("writing the pages")
}

fn write_pages(command: &Command, name: &str, directory: &Path) -> io::Result<usize> {
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(directory.join(format!("{name}.1")), text)?;
    let mut count = 1;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        count += write_pages(below, &format!("{name}-{}", below.get_name()), directory)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_plugin_it_says_how_it_is_called() {
        let refused = |program: &str| {
            let line = ["martlet", "status", "--dance"];
            named(program).try_get_matches_from(line).unwrap_err().to_string()
        };
        assert!(
            refused("/usr/local/bin/kubectl-martlet").contains("Usage: kubectl martlet status")
        );
        assert!(refused("/usr/local/bin/martlet").contains("Usage: martlet status"));
    }

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completion(shell).unwrap();
            assert!(script.contains("coverage") && script.contains("uninstall"), "{shell:?}");
        }
    }

    #[test]
    fn there_is_a_page_for_every_command() {
        let directory = tempfile::tempdir().unwrap();
        let count = manual(&directory.path().join("man1")).unwrap();
        let page =
            fs::read_to_string(directory.path().join("man1/martlet-trust-rotate.1")).unwrap();
        assert!(page.contains("martlet-trust-rotate") && page.contains("\\-\\-root"), "{page}");
        assert_eq!(fs::read_dir(directory.path().join("man1")).unwrap().count(), count);
    }
}
