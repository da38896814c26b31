//! What the image is made of, as a CycloneDX document (version 1.5): every crate in a binary or in
//! the kernel programs, by name, version, license and hash, and Debian's package of every library.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::archive::architecture;
use crate::command::{cargo, output};

/// Embedded in the agent; built for a target of their own.
const KERNEL_PROGRAMS: &str = "martlet-ebpf";

/// Name, version and license.
type Crate = (String, String, String);

pub fn list(packages: &[&str], libraries: &BTreeSet<PathBuf>) -> Result<String> {
    let mut crates = BTreeSet::new();
    for package in packages.iter().chain([&KERNEL_PROGRAMS]) {
        crates.extend(linked(package)?);
    }
    let lock = std::fs::read_to_string("Cargo.lock").context("reading Cargo.lock")?;
    let hashes = hashes(&lock);
    let mut components: Vec<_> = crates.iter().map(|found| of_crate(found, &hashes)).collect();
    let mut packages = BTreeSet::new();
    for library in libraries {
        packages.insert(debian_package(library)?);
    }
    components.extend(packages.iter().map(|(name, version)| of_debian(name, version)));
    let version = env!("CARGO_PKG_VERSION");
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "container", "bom-ref": "martlet", "name": "martlet", "version": version,
        } },
        "components": components,
    });
    Ok(format!("{document:#}\n"))
}

/// The crates that are in a package's binaries. Macros and build scripts are not: they run before.
fn linked(package: &str) -> Result<Vec<Crate>> {
    let mut tree = cargo("tree");
    tree.args(["--package", package, "--edges", "normal,no-proc-macro", "--prefix", "none"]);
    tree.args(["--format", "{p}\t{l}", "--locked"]);
    let output = tree.output().context("running cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    read(&String::from_utf8_lossy(&output.stdout))
}

/// Lines such as `serde v1.0.228 (*)⇥MIT OR Apache-2.0`.
fn read(tree: &str) -> Result<Vec<Crate>> {
    let mut crates = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, license) = line.split_once('\t').with_context(|| line.to_owned())?;
        let mut parts = package.split(' ');
        let (Some(name), Some(version)) = (parts.next(), parts.next()) else {
            bail!("cargo tree says: {line}");
        };
        let license = license.trim_end_matches(" (*)").replace('/', " OR ");
        crates.push((name.to_owned(), version.trim_start_matches('v').to_owned(), license));
    }
    Ok(crates)
}

/// Of the archives that were downloaded, by name and version. Ours have none.
fn hashes(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let field = |block: &'_ str, name: &str| -> Option<(usize, usize)> {
        let start = block.find(&format!("\n{name} = \""))? + name.len() + 5;
        Some((start, start + block[start..].find('"')?))
    };
    let mut hashes = BTreeMap::new();
    for block in lock.split("[[package]]") {
        let read = |name| field(block, name).map(|(start, end)| &block[start..end]);
        if let (Some(name), Some(version), Some(hash)) =
            (read("name"), read("version"), read("checksum"))
        {
            hashes.insert((name, version), hash);
        }
    }
    hashes
}

fn of_crate((name, version, license): &Crate, hashes: &BTreeMap<(&str, &str), &str>) -> Value {
    let url = format!("pkg:cargo/{name}@{version}");
    let mut component = json!({
        "type": "library", "bom-ref": url, "purl": url, "name": name, "version": version,
    });
    if !license.is_empty() {
        component["licenses"] = json!([{ "expression": license }]);
    }
    if let Some(hash) = hashes.get(&(name.as_str(), version.as_str())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": hash }]);
    }
    component
}

fn of_debian(name: &str, version: &str) -> Value {
    let url = format!("pkg:deb/debian/{name}@{version}?arch={}", architecture());
    let url = url.replace('+', "%2B");
    json!({ "type": "library", "bom-ref": url, "purl": url, "name": name, "version": version })
}

/// Name and version of the package that has a library. dpkg may know it by another path to the
/// same file, from before `/lib` became a link.
fn debian_package(library: &Path) -> Result<(String, String)> {
    let real = library.canonicalize().with_context(|| library.display().to_string())?;
    let paths = [library.to_owned(), real.clone()];
    let old = real.strip_prefix("/usr").ok().map(|path| Path::new("/").join(path));
    let owner = paths.into_iter().chain(old).find_map(|path| {
        let found = output("dpkg-query", &["--search", &path.display().to_string()])?;
        Some(found.split_once(':')?.0.to_owned())
    });
    let owner = owner.with_context(|| format!("no package has {}", library.display()))?;
    let version = output("dpkg-query", &["--show", "--showformat=${Version}\n", &owner]);
    let version = version.with_context(|| format!("{owner} has no version"))?;
    Ok((owner, version.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_with_their_licenses() {
        let tree = "martlet-cli v0.1.0 (/a/b)\tApache-2.0\nserde v1.0.2\tMIT OR Apache-2.0 (*)\n\
            libc v0.2.1\tMIT/Apache-2.0\n";
        let wanted = [
            ("martlet-cli", "0.1.0", "Apache-2.0"),
            ("serde", "1.0.2", "MIT OR Apache-2.0"),
            ("libc", "0.2.1", "MIT OR Apache-2.0"),
        ];
        let wanted = wanted.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(read(tree).unwrap(), wanted);
        assert!(read("warning\n").is_err());
    }

    #[test]
    fn hashes_are_those_of_the_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\
            source = \"x\"\nchecksum = \"12ab\"\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n";
        assert_eq!(hashes(lock), BTreeMap::from([(("a", "1.0.0"), "12ab")]));
    }
}
