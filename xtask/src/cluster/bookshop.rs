//! The image of the demo application in tests/kubernetes/bookshop: servers and languages, as Debian has
//! them.
//!
//! This file is the recipe: what it makes is kept under the hash of its text.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::cache::{self, Workshop};
use crate::{
    command::find,
    debian::mirror,
    image::archive::{File, Image},
};

const NAME: &str = "localhost/bookshop:1";
const SUITE: &str = "trixie";

const PACKAGES: &[&str] = &[
    "haproxy",
    "mariadb-server",
    "memcached",
    "nginx-light",
    "nodejs",
    "perl",
    "php-cli",
    "php-mysql",
    "postgresql",
    "python3",
    "python3-grpcio",
    "python3-psycopg2",
    "python3-websockets",
    "redis-server",
    "ruby",
];

/// What no program of it reads, and what belongs to a machine.
const LEFT_OUT: &[&str] = &[
    "boot",
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/lib/mysql",
    "var/lib/postgresql",
    "var/log",
];

/// The archive, made from Debian's packages the first time.
pub fn archive() -> Result<PathBuf> {
    Ok(cache::once("bookshop", &[include_str!("bookshop.rs")], make)?.join("bookshop.tar"))
}

fn make(workshop: &Workshop<'_>) -> Result<()> {
    let debootstrap = find("debootstrap").context("debootstrap is missing")?;
    workshop.say(&format!("unpacking Debian {SUITE}"));
    let root = workshop.directory.join("root");
    // In a mount namespace of its own: what it mounts goes away with it.
    let mut command = Command::new("unshare");
    command.arg("--mount").arg(debootstrap).arg("--variant=minbase").arg(SUITE);
    command.arg(&root).arg(mirror()?);
    workshop.run(900, &command)?;
    workshop.say(&format!("installing {}", PACKAGES.join(", ")));
    // No server is to start there.
    let policy = root.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n").context("writing a policy for servers")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755)).context("marking it")?;
    // What apt starts ends with it.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "chroot"]).arg(&root);
    command.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes"]);
    command.arg("--no-install-recommends").args(PACKAGES);
    workshop.run(1800, &command)?;
    workshop.say("packing");
    let mut files: BTreeMap<_, _> =
        ["run", "tmp", "var/log", "var/tmp"].map(|path| (path.to_owned(), File::Shared)).into();
    collect(&root, "", &mut files)?;
    let image = Image { name: NAME.to_owned(), files, ..Image::default() };
    image.write(&workshop.directory.join("bookshop.tar"))?;
    fs::remove_dir_all(&root).context("removing what was packed")
}

/// Files and links below a directory, owned by root in the image; empty directories are left out.
fn collect(root: &Path, below: &str, files: &mut BTreeMap<String, File>) -> Result<()> {
    let directory = root.join(below);
    let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let entry = entry.with_context(|| directory.display().to_string())?;
        let name = entry.file_name();
        let name = name.to_str().context("Debian's names are text")?;
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        if LEFT_OUT.contains(&path.as_str()) {
            continue;
        }
        let there = entry.path();
        let read = || format!("reading {}", there.display());
        let metadata = entry.metadata().with_context(read)?;
        if metadata.is_dir() {
            collect(root, &path, files)?;
        } else if metadata.is_symlink() {
            let to = fs::read_link(&there).with_context(read)?;
            let to = to.to_str().context("Debian's links are text")?.to_owned();
            files.insert(path, File::Link(to));
        } else if metadata.is_file() {
            let bytes = fs::read(&there).with_context(read)?;
            let is_program = metadata.permissions().mode() & 0o111 != 0;
            files
                .insert(path, if is_program { File::Executable(bytes) } else { File::Text(bytes) });
        }
    }
    Ok(())
}
