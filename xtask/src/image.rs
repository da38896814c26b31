//! The product's image: all its binaries in one small archive, written without a daemon.
//!
//! The binaries are linked dynamically, so the libraries that `ldd` names for them are in it, and
//! nothing else: no shell, no package manager. The one that runs outside of it, on the node, has its
//! libraries in itself. The same binaries always become the same image.

pub mod archive;
mod contents;
mod materials;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use self::archive::Image;
use crate::{
    build::{self, PLUGIN},
    command::output,
    doctor::{self, Group},
};

/// What users run: as package and as program.
const PROGRAMS: &[(&str, &str)] = &[
    ("martlet-agent", "martlet-agent"),
    ("martlet-controller", "martlet-controller"),
    ("martlet-cli", "martlet"),
];

/// Nobody in particular, by number, so that Kubernetes can see that it is not root.
/// The agent's manifest says that it is root.
const USER: &str = "65532:65532";

#[derive(clap::Args)]
pub struct Args {
    /// Of debug builds: for tests.
    #[arg(long)]
    debug: bool,
    /// With registry and tag. `localhost/martlet:` and the version by default.
    #[arg(long)]
    name: Option<String>,
    /// Where to write the archive. Its list of materials is written beside it.
    #[arg(long, default_value = "target/image/martlet.tar")]
    output: PathBuf,
    /// Only name what is missing, instead of installing it first.
    #[arg(long)]
    no_install: bool,
}

/// Of release builds, with its default name.
pub fn of_release() -> Result<PathBuf> {
    let output = PathBuf::from("target/image/martlet.tar");
    let made = Args { debug: false, name: None, output: output.clone(), no_install: true };
    run(&made)?;
    output.canonicalize().context("looking for the image")
}

pub fn run(args: &Args) -> Result<()> {
    doctor::run(&[Group::Build, Group::Image], !args.no_install)?;
    build::all(!args.debug)?;
    let directory = Path::new("target").join(if args.debug { "debug" } else { "release" });
    let work = parent(&args.output)?;
    let mut programs = BTreeMap::new();
    for (_, name) in PROGRAMS {
        programs.insert(*name, stripped(&directory.join(name), work)?);
    }
    programs.insert(PLUGIN, stripped(&build::plugin(!args.debug)?, work)?);
    let libraries = contents::libraries(&directory, PROGRAMS.iter().map(|(_, name)| *name))?;
    let packages: Vec<_> = PROGRAMS.iter().map(|(package, _)| *package).chain([PLUGIN]).collect();
    let mut linked = libraries.clone();
    linked.insert(contents::static_library()?);
    let materials = materials::list(&packages, &linked)?;
    let image = Image {
        name: args.name.clone().unwrap_or_else(default_name),
        entrypoint: vec!["/usr/bin/martlet".to_owned()],
        user: USER.to_owned(),
        labels: labels(),
        files: contents::files(programs, &libraries, &materials)?,
    };
    let digest = image.write(&args.output)?;
    let beside = args.output.with_extension("cdx.json");
    fs::write(&beside, &materials).with_context(|| beside.display().to_string())?;
    let size = fs::metadata(&args.output).map_or(0, |metadata| metadata.len());
    println!("{} {digest}", image.name);
    println!("{} ({:.1} MB), {}", args.output.display(), size as f64 / 1e6, beside.display());
    Ok(())
}

/// In hexadecimal, as image formats and names of caches have it.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn default_name() -> String {
    format!("localhost/martlet:{}", env!("CARGO_PKG_VERSION"))
}

fn parent(path: &Path) -> Result<&Path> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    Ok(parent)
}

/// Without what only a debugger reads; names of functions stay, for backtraces.
fn stripped(program: &Path, work: &Path) -> Result<Vec<u8>> {
    let name = program.file_name().context("a program has a name")?;
    let copy = work.join(name);
    let output = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .args([&copy, program])
        .stdin(Stdio::null())
        .output()
        .context("starting strip")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "strip: {}", complaint.trim());
    let bytes = fs::read(&copy).with_context(|| copy.display().to_string())?;
    fs::remove_file(&copy).with_context(|| copy.display().to_string())?;
    Ok(bytes)
}

/// OCI's names for what an image is (image-spec 1.1, `annotations.md`).
fn labels() -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        labels.insert(format!("org.opencontainers.image.{name}"), value.to_owned());
    };
    set("title", "martlet");
    set("description", "Node-wide mTLS for pods: agent, controller and command");
    set("version", env!("CARGO_PKG_VERSION"));
    set("licenses", env!("CARGO_PKG_LICENSE"));
    set("source", env!("CARGO_PKG_REPOSITORY"));
    if let Some(revision) =
        output("git", &["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
    {
        set("revision", revision.trim());
    }
    labels
}
