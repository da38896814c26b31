//! Kubernetes from Debian's source package, built with Debian's Go; nothing of it is installed.
//!
//! Debian 12 is the last release whose source package has all of Kubernetes. This file is the
//! recipe: what it makes is kept under the hash of its text.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::cache::{self, Workshop};
use crate::debian::{Apt, Kind, only_one, unpack_all};

const SUITE: &str = "bookworm";
const SOURCE: &str = "kubernetes=1.20.5+really1.20.2-1.1+deb12u1";
const VERSION: &str = "1.20.2";

/// Unpacked beside the sources. etcd is what the API server stores in; catatonit and busybox are
/// linked statically and become images.
const PACKAGES: &[&str] = &[
    "golang-1.19-go",
    "golang-1.19-src",
    "golang-github-modern-go-reflect2-dev",
    "etcd-server",
    "catatonit",
    "busybox-static",
];

const PROGRAMS: &[&str] = &[
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];

/// The directory with all programs in it.
pub fn programs() -> Result<PathBuf> {
    cache::once("kubernetes", &[include_str!("kubernetes.rs")], make)
}

fn make(workshop: &Workshop<'_>) -> Result<()> {
    let work = workshop.directory.join("work");
    let tools = work.join("tools");
    fs::create_dir_all(&tools).context("making the work directory")?;
    workshop.say("getting Debian's sources and Go");
    download(workshop, &work, &tools)?;
    let tree = work.join("go/src/k8s.io/kubernetes");
    workshop.say("patching");
    unpack(workshop, &work, &tree)?;
    replace_reflect2(&tools, &tree)?;
    let go = Go { workshop, work: &work, tools: &tools, tree: &tree };
    workshop.say("generating the API's description");
    go.generate_openapi()?;
    for program in PROGRAMS {
        workshop.say(&format!("building {program}"));
        go.build(program)?;
    }
    for (path, name) in
        [("usr/bin/etcd", "etcd"), ("usr/bin/catatonit", "catatonit"), ("bin/busybox", "busybox")]
    {
        fs::copy(tools.join(path), workshop.directory.join(name)).with_context(|| name)?;
    }
    fs::remove_dir_all(&work).context("removing the work directory")
}

fn download(workshop: &Workshop<'_>, work: &Path, tools: &Path) -> Result<()> {
    let apt = Apt::of_suite(&work.join("apt"), SUITE, Kind::PackagesAndSources)?;
    workshop.run(180, apt.command("apt-get").arg("update"))?;
    let mut source = apt.command("apt-get");
    source.args(["source", "--download-only", SOURCE]).current_dir(work);
    workshop.run(300, &source)?;
    let mut packages = apt.command("apt-get");
    packages.arg("download").args(PACKAGES).current_dir(tools);
    workshop.run(300, &packages)?;
    unpack_all(tools)
}

/// What `dpkg-source` would do; it comes with much that is not needed here.
fn unpack(workshop: &Workshop<'_>, work: &Path, tree: &Path) -> Result<()> {
    fs::create_dir_all(tree)?;
    let upstream = only_one(work, "kubernetes_", ".orig.tar.gz")?;
    let debian = only_one(work, "kubernetes_", ".debian.tar.xz")?;
    let tar = |archive: &Path| {
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(tree);
        tar
    };
    workshop.run(120, tar(&upstream).arg("--strip-components=1"))?;
    workshop.run(60, &tar(&debian))?;
    let patches = tree.join("debian/patches");
    let series = fs::read_to_string(patches.join("series")).context("reading the patches")?;
    for name in series.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut patch = Command::new("patch");
        patch.args(["-p1", "--silent", "--input"]).arg(patches.join(name)).current_dir(tree);
        workshop.run(60, &patch)?;
    }
    Ok(())
}

/// The vendored version reads maps of the Go runtime's as they were before Go 1.18: an API server
/// with it crashes on the first server-side apply of a custom resource.
fn replace_reflect2(tools: &Path, tree: &Path) -> Result<()> {
    let vendored = tree.join("vendor/github.com/modern-go/reflect2");
    let newer = tools.join("usr/share/gocode/src/github.com/modern-go/reflect2");
    let is_source = |path: &PathBuf| path.extension().is_some_and(|end| end == "go" || end == "s");
    let sources = |directory: &Path| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
        Ok(entries.flatten().map(|entry| entry.path()).filter(is_source).collect())
    };
    for old in sources(&vendored)? {
        fs::remove_file(old)?;
    }
    for new in sources(&newer)? {
        fs::copy(&new, vendored.join(new.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

/// Go as it was before modules: the tree is at its place below `go/src`, with all it needs.
struct Go<'a> {
    workshop: &'a Workshop<'a>,
    work: &'a Path,
    tools: &'a Path,
    tree: &'a Path,
}

impl Go<'_> {
    fn command(&self, program: &Path) -> Command {
        let root = self.tools.join("usr/lib/go-1.19");
        let path = env::var_os("PATH").unwrap_or_default();
        let paths = [root.join("bin")].into_iter().chain(env::split_paths(&path));
        let mut command = Command::new(program);
        command
            .env("PATH", env::join_paths(paths).unwrap_or(path.clone()))
            .env("GOROOT", &root)
            .env("GOPATH", self.work.join("go"))
            .env("GOCACHE", self.work.join("cache"))
            .env("GO111MODULE", "off")
            .env("GOPROXY", "off")
            .env("GOFLAGS", "")
            .env("CGO_ENABLED", "0")
            .env("HOME", self.work)
            .current_dir(self.tree);
        command
    }

    fn build(&self, program: &str) -> Result<()> {
        self.go_build(&self.workshop.directory.join(program), &format!("cmd/{program}"))
    }

    /// A first program takes three minutes on two cores, each further one seconds.
    fn go_build(&self, to: &Path, package: &str) -> Result<()> {
        let mut go = self.command(&self.tools.join("usr/lib/go-1.19/bin/go"));
        go.args(["build", "-trimpath", "-ldflags", &linker_flags(), "-o"]).arg(to);
        self.workshop.run(3600, go.arg(format!("k8s.io/kubernetes/{package}")))
    }

    /// The only generated source that the package lacks.
    fn generate_openapi(&self) -> Result<()> {
        let generator = self.work.join("openapi-gen");
        self.go_build(&generator, "vendor/k8s.io/kube-openapi/cmd/openapi-gen")?;
        let mut inputs = String::new();
        for package in described(self.tree)? {
            let separator = if inputs.is_empty() { "" } else { "," };
            inputs += &format!("{separator}k8s.io/kubernetes/{package}");
        }
        let mut command = self.command(&generator);
        command
            .args(["--go-header-file", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt"])
            .args(["-O", "zz_generated.openapi", "-p", "k8s.io/kubernetes/pkg/generated/openapi"])
            .args(["-r", "/dev/null", "-i", &inputs, "--output-base"])
            .arg(self.work.join("go/src"));
        self.workshop.run(600, &command)
    }
}

/// The directories of Go sources that ask to be in the API's description.
fn described(tree: &Path) -> Result<BTreeSet<String>> {
    let asking = Command::new("grep")
        .args(["-R", "--files-with-matches", "--include=*.go", "--regexp=+k8s:openapi-gen="])
        .args(["pkg", "vendor/k8s.io"])
        .current_dir(tree)
        .output()
        .context("looking for types of the API")?;
    let asking = String::from_utf8_lossy(&asking.stdout);
    let strange = ["vendor/k8s.io/code-generator/", "vendor/k8s.io/sample-apiserver/"];
    let files = asking.lines().filter(|file| !strange.iter().any(|path| file.starts_with(path)));
    Ok(files.filter_map(|file| Some(file.rsplit_once('/')?.0.to_owned())).collect())
}

/// The version is not in the sources: upstream's build asks git for it.
fn linker_flags() -> String {
    let mut flags = "-s -w".to_owned();
    let (minor, _) = VERSION[2..].split_once('.').unwrap_or_default();
    for package in ["component-base", "client-go/pkg"] {
        let package = format!("k8s.io/kubernetes/vendor/k8s.io/{package}/version");
        for (name, value) in [
            ("gitVersion", format!("v{VERSION}").as_str()),
            ("gitMajor", "1"),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
        ] {
            flags += &format!(" -X {package}.{name}={value}");
        }
    }
    flags
}
