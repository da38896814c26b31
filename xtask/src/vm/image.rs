//! What a machine boots into: busybox, the modules with which it reaches the host's files, and two
//! scripts. `init.sh` makes the host's file system its own, `run.sh` runs the programs there.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{COMPLAINT, DONE, ENDED, Program};
use crate::command::{find, run};

/// By the names of their files; what is built into a kernel is no module of it.
const MODULES: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_rng"];

pub fn make(
    directory: &Path,
    modules: &Path,
    programs: &[Program],
    variables: &[(String, PathBuf)],
) -> Result<PathBuf> {
    let root = directory.join("init");
    let _ = fs::remove_dir_all(&root);
    for name in ["bin", "modules", "proc", "sys", "dev", "host", "changes", "machine"] {
        fs::create_dir_all(root.join(name))
            .with_context(|| root.join(name).display().to_string())?;
    }
    let busybox = find("busybox").context("busybox is missing")?;
    fs::copy(busybox, root.join("bin/busybox")).context("copying busybox")?;
    let depends = fs::read_to_string(modules.join("modules.dep")).context("modules.dep")?;
    let mut order = String::new();
    for module in load_order(&depends, MODULES) {
        let name = copy_module(&modules.join(module), &root.join("modules"))?;
        let _ = writeln!(order, "{name}");
    }
    let tests = fs::canonicalize("tests/kernel")?;
    for (name, text) in [
        ("modules/order", order),
        ("init", include_str!("init.sh").to_owned()),
        ("run.sh", format!("{}{}", settings(modules, &tests, variables), include_str!("run.sh"))),
        ("programs", list(programs)),
    ] {
        let path = root.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let image = directory.join("image");
    let pack = "find . | busybox cpio -o -H newc > \"$0\" 2>/dev/null";
    run(Command::new("sh").args(["-c", pack]).arg(&image).current_dir(&root))?;
    Ok(image)
}

/// What `run.sh` is told.
fn settings(modules: &Path, tests: &Path, variables: &[(String, PathBuf)]) -> String {
    let export = |(name, path): &(String, PathBuf)| format!("export {name}='{}'\n", path.display());
    let exports: String = variables.iter().map(export).collect();
    exports
        + &format!(
            "MODULES='{}'\nTESTS='{}'\nENDED='{ENDED}'\nCOMPLAINT='{COMPLAINT}'\nDONE='{DONE}'\n",
            modules.parent().unwrap_or(modules).display(),
            tests.display()
        )
}

/// A program a line: its name and its path.
fn list(programs: &[Program]) -> String {
    let line = |Program { name, path }: &Program| format!("{name} {}\n", path.display());
    programs.iter().map(line).collect()
}

/// The files of these modules and of all that they depend on, in the order in which they load.
fn load_order<'a>(depends: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let (mut order, mut known) = (Vec::new(), BTreeSet::new());
    for name in wanted {
        let line = depends.lines().filter_map(|line| line.split_once(':')).find(|(file, _)| {
            let file = file.rsplit('/').next().unwrap_or(file);
            file.split_once(".ko").is_some_and(|(stem, _)| stem == *name)
        });
        let Some((file, needs)) = line else { continue };
        // modules.dep names last what must be loaded first.
        for file in needs.split_whitespace().rev().chain([file]) {
            if known.insert(file) {
                order.push(file);
            }
        }
    }
    order
}

/// Unpacked, since busybox does not know every packing.
fn copy_module(from: &Path, to: &Path) -> Result<String> {
    let name = from.file_name().context("a module has a name")?.to_string_lossy();
    let name = name.trim_end_matches(".xz");
    let to = to.join(name);
    match from.extension().is_some_and(|extension| extension == "xz") {
        true => {
            let unpack = "xz -dc \"$0\" > \"$1\"";
            run(Command::new("sh").args(["-c", unpack]).args([from, &to]))?;
        }
        false => drop(fs::copy(from, &to).with_context(|| from.display().to_string())?),
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_after_what_they_need_and_once() {
        let depends = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs.ko.xz\n\
            kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz\n\
            kernel/other.ko.xz:\n";
        let order = load_order(depends, &["virtio_pci", "9pnet_virtio", "9p"]);
        assert_eq!(
            order,
            [
                "kernel/net/9p/9pnet.ko.xz",
                "kernel/net/9p/9pnet_virtio.ko.xz",
                "kernel/fs/netfs.ko.xz",
                "kernel/fs/9p/9p.ko.xz",
            ]
        );
    }
}
