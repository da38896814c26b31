//! The files of the image: programs, the libraries that they load, and who the users are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::archive::File;

/// Where a scanner looks for what an image is made of.
const MATERIALS: &str = "usr/share/doc/martlet/sbom.cdx.json";

const USERS: &str = "root:x:0:0:root:/:/nonexistent\nmartlet:x:65532:65532::/:/nonexistent\n";
const GROUPS: &str = "root:x:0:\nmartlet:x:65532:\n";

/// Names are asked of files and of DNS; both are in the C library itself (glibc 2.34 and later).
const SWITCH: &str = "hosts: files dns\n";

/// By the path under which the programs look for it.
pub fn libraries<'a>(
    directory: &Path,
    programs: impl Iterator<Item = &'a str>,
) -> Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        let path = directory.join(program);
        let output = Command::new("ldd").arg(&path).output().context("starting ldd")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ldd {}: {}", path.display(), complaint.trim());
        libraries.extend(named(&String::from_utf8_lossy(&output.stdout))?);
    }
    Ok(libraries)
}

/// The C library that is in the program that is linked statically.
pub fn static_library() -> Result<PathBuf> {
    let asked =
        Command::new("cc").arg("-print-file-name=libc.a").output().context("starting cc")?;
    let path = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
    // Of what it does not find it says the name only.
    ensure!(path.is_absolute(), "there is no libc.a to link the plugin with (libc6-dev)");
    path.canonicalize().with_context(|| path.display().to_string())
}

/// The files in lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f…)`.
fn named(closure: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in closure.lines().map(str::trim) {
        let file = line.split_once(" => ").map_or(line, |(_, file)| file);
        if file.starts_with("not found") {
            bail!("a library is missing here: {line}");
        }
        // What has no path is the kernel's own.
        if let Some((path, _)) = file.split_once(" (").filter(|(path, _)| path.starts_with('/')) {
            found.push(path.into());
        }
    }
    Ok(found)
}

pub fn files(
    programs: BTreeMap<&str, Vec<u8>>,
    libraries: &BTreeSet<PathBuf>,
    materials: &str,
) -> Result<BTreeMap<String, File>> {
    let text = |text: &str| File::Text(text.as_bytes().to_vec());
    let mut files = BTreeMap::from([
        ("etc/group".to_owned(), text(GROUPS)),
        ("etc/nsswitch.conf".to_owned(), text(SWITCH)),
        ("etc/passwd".to_owned(), text(USERS)),
        ("tmp".to_owned(), File::Shared),
        (MATERIALS.to_owned(), text(materials)),
    ]);
    for (name, bytes) in programs {
        files.insert(format!("usr/bin/{name}"), File::Executable(bytes));
    }
    for library in libraries {
        let bytes = fs::read(library).with_context(|| library.display().to_string())?;
        let path = library.display().to_string();
        files.insert(path.trim_start_matches('/').to_owned(), File::Executable(bytes));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_has_a_path() {
        let closure = "\tlinux-vdso.so.1 (0x00007ffc)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f01)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n";
        let found = named(closure).unwrap();
        let wanted = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, wanted.map(PathBuf::from));
    }

    #[test]
    fn a_program_that_would_not_start_makes_no_image() {
        assert!(named("\tlibssl.so.3 => not found\n").is_err());
    }
}
