//! What a machine needs: checked, named, and with `--yes` installed.
//!
//! `needs` is the list, `machine` asks this machine, `install` changes it.

mod install;
pub mod machine;
mod needs;

use anyhow::{Result, bail, ensure};

pub use self::install::is_debian;
use self::needs::NEEDS;

/// What a need is for. Who builds does not need what is only tested with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    Build,
    Demo,
    Test,
    Bench,
    Vm,
    Cluster,
    Image,
}

impl Group {
    pub const ALL: &[Group] = &[
        Group::Build,
        Group::Demo,
        Group::Test,
        Group::Bench,
        Group::Vm,
        Group::Cluster,
        Group::Image,
    ];
}

pub struct Need {
    what: &'static str,
    why: &'static str,
    groups: &'static [Group],
    present: fn() -> bool,
    remedy: Remedy,
}

pub enum Remedy {
    /// Debian packages.
    Packages(&'static [&'static str]),
    /// bpf-linker, from source, against the LLVM that rustc for eBPF has.
    Linker,
    /// Cannot be installed.
    Machine(&'static str),
}

/// Fails if something is missing and is not, or cannot be, installed. No group means all.
pub fn run(groups: &[Group], install: bool) -> Result<()> {
    let needs = needed(if groups.is_empty() { Group::ALL } else { groups });
    let missing = report(&needs);
    if missing.is_empty() {
        return Ok(());
    }
    if !install {
        bail!("{} missing; `cargo xtask doctor --yes` installs what it can", missing.len());
    }
    install::all(&missing)?;
    for need in &missing {
        ensure!((need.present)(), "{} is still missing after its installation", need.what);
    }
    Ok(())
}

fn needed(groups: &[Group]) -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| need.groups.iter().any(|group| groups.contains(group))).collect()
}

fn report(needs: &[&'static Need]) -> Vec<&'static Need> {
    let mut missing = Vec::new();
    for &need in needs {
        if (need.present)() {
            println!("  ✓ {}", need.what);
        } else {
            println!("  ✗ {}: {}\n      {}", need.what, need.why, need.remedy.command());
            missing.push(need);
        }
    }
    missing
}

impl Remedy {
    fn command(&self) -> String {
        match self {
            Remedy::Packages(names) if install::is_debian() => {
                format!("apt-get install {}", names.join(" "))
            }
            Remedy::Packages(names) => {
                format!("install what Debian has as {}", names.join(", "))
            }
            Remedy::Linker => install::linker_command(),
            Remedy::Machine(advice) => (*advice).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_builds_needs_no_server() {
        let names = |groups| needed(groups).iter().map(|need| need.what).collect::<Vec<_>>();
        assert!(names(&[Group::Test]).contains(&"redis"));
        assert!(!names(&[Group::Build]).contains(&"redis"));
        assert!(names(&[Group::Build]).contains(&"bpf-linker"));
        assert_eq!(names(Group::ALL).len(), NEEDS.len());
    }

    #[test]
    fn every_need_says_why_and_for_what() {
        for need in NEEDS {
            assert!(!need.why.is_empty() && !need.groups.is_empty(), "{}", need.what);
            assert!(!need.remedy.command().is_empty(), "{}", need.what);
        }
    }

    #[test]
    fn what_cannot_be_installed_is_said_before_anything_is_changed() {
        let need = Need {
            what: "a kernel",
            why: "a test",
            groups: &[Group::Build],
            present: || false,
            remedy: Remedy::Machine("get another one"),
        };
        let refused = install::all(&[&need]).unwrap_err().to_string();
        assert!(refused.contains("get another one"), "{refused}");
    }
}
