//! The two images without which no pod runs here: one that waits, and one with a shell.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::cache;
use crate::image::archive::{File, Image};

/// What holds a pod's namespaces.
pub const PAUSE: &str = "localhost/pause:1";

/// A shell and small programs, for pods of tests.
pub const BUSYBOX: &str = "localhost/busybox:1";

/// The directory with both archives, made from programs that are linked statically.
pub fn archives(programs: &Path) -> Result<PathBuf> {
    let made_from = programs.display().to_string();
    cache::once("images", &[include_str!("images.rs"), &made_from], |workshop| {
        pause(programs)?.write(&workshop.directory.join("pause.tar"))?;
        busybox(programs)?.write(&workshop.directory.join("busybox.tar"))?;
        Ok(())
    })
}

fn pause(programs: &Path) -> Result<Image> {
    let program = fs::read(programs.join("catatonit")).context("reading catatonit")?;
    Ok(Image {
        name: PAUSE.to_owned(),
        entrypoint: vec!["/catatonit".to_owned(), "-P".to_owned()],
        files: BTreeMap::from([("catatonit".to_owned(), File::Executable(program))]),
        ..Image::default()
    })
}

fn busybox(programs: &Path) -> Result<Image> {
    let path = programs.join("busybox");
    let list =
        Command::new(&path).arg("--list").output().context("asking busybox for its names")?;
    ensure!(list.status.success(), "busybox does not say what it can do");
    let program = fs::read(&path).context("reading busybox")?;
    let mut files = BTreeMap::from([
        ("bin/busybox".to_owned(), File::Executable(program)),
        ("etc/passwd".to_owned(), File::Text(b"root:x:0:0:root:/:/bin/sh\n".to_vec())),
        ("tmp".to_owned(), File::Shared),
    ]);
    for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        files.insert(format!("bin/{name}"), File::Link("busybox".to_owned()));
    }
    Ok(Image {
        name: BUSYBOX.to_owned(),
        entrypoint: vec!["/bin/sh".to_owned()],
        files,
        ..Image::default()
    })
}
