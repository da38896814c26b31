//! An image in a file: OCI's image layout (image-spec 1.1, `image-layout.md`) as a tar archive.
//!
//! The same image always becomes the same bytes: no times, no owners, and names in order.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::sha256;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Default)]
pub struct Image {
    /// With its registry and its tag: `localhost/busybox:1`.
    pub name: String,
    pub entrypoint: Vec<String>,
    /// Number of a user. Root if it is empty.
    pub user: String,
    pub labels: BTreeMap<String, String>,
    /// By its path inside, without a slash before it. Directories come by themselves.
    pub files: BTreeMap<String, File>,
}

pub enum File {
    Executable(Vec<u8>),
    Text(Vec<u8>),
    /// To a path.
    Link(String),
    /// A directory that everybody may write to.
    Shared,
}

impl Image {
    /// Gives the digest of the manifest, which is what the image is known by.
    pub fn write(&self, to: &Path) -> Result<String> {
        let layer = self.layer().context("packing the layer")?;
        let config = self.config(&layer);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
            "annotations": self.labels,
        });
        let manifest = manifest.to_string().into_bytes();
        let index = self.index(&manifest);
        let mut archive = Archive::default();
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        archive.file("index.json", index.to_string().as_bytes(), 0o644)?;
        let mut blobs = [layer, config, manifest.clone()].map(|blob| (sha256(&blob), blob));
        blobs.sort();
        for (digest, blob) in &blobs {
            archive.file(&format!("blobs/sha256/{digest}"), blob, 0o644)?;
        }
        fs::write(to, archive.finish()?).with_context(|| to.display().to_string())?;
        Ok(format!("sha256:{}", sha256(&manifest)))
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for (path, file) in &self.files {
            archive.directories(path)?;
            match file {
                File::Executable(bytes) => archive.file(path, bytes, 0o755)?,
                File::Text(bytes) => archive.file(path, bytes, 0o644)?,
                File::Link(to) => archive.link(path, to)?,
                File::Shared => archive.directory(path, 0o1777)?,
            }
        }
        archive.finish()
    }

    fn config(&self, layer: &[u8]) -> Vec<u8> {
        const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": [PATH],
                "Labels": self.labels,
                "User": self.user,
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(layer))] },
        });
        config.to_string().into_bytes()
    }

    /// Names the image twice: containerd reads one annotation, other tools read OCI's.
    fn index(&self, manifest: &[u8]) -> Value {
        let mut entry = descriptor(MANIFEST, manifest);
        entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        entry["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.tag(),
        });
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] })
    }

    fn tag(&self) -> &str {
        let name = self.name.rsplit('/').next().unwrap_or_default();
        name.split_once(':').map_or("latest", |(_, tag)| tag)
    }
}

/// As Go calls it, whose names image formats have taken.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": format!("sha256:{}", sha256(blob)), "size": blob.len() })
}

/// A tar archive in memory, of which every bit is chosen here.
struct Archive {
    tar: Builder<Vec<u8>>,
    directories: Vec<String>,
}

impl Default for Archive {
    fn default() -> Self {
        Self { tar: Builder::new(Vec::new()), directories: Vec::new() }
    }
}

impl Archive {
    fn file(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let mut header = header(EntryType::Regular, mode, bytes.len() as u64);
        Ok(self.tar.append_data(&mut header, path, bytes)?)
    }

    fn link(&mut self, path: &str, to: &str) -> Result<()> {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        Ok(self.tar.append_link(&mut header, path, to)?)
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = header(EntryType::Directory, mode, 0);
        Ok(self.tar.append_data(&mut header, format!("{path}/"), &[][..])?)
    }

    /// Those above a path that are not there yet.
    fn directories(&mut self, path: &str) -> Result<()> {
        for (end, _) in path.match_indices('/') {
            let directory = &path[..end];
            if !self.directories.iter().any(|known| known == directory) {
                self.directory(directory, 0o755)?;
                self.directories.push(directory.to_owned());
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(text: &str) -> Image {
        Image {
            name: "localhost/sample:3".to_owned(),
            entrypoint: vec!["/a/b".to_owned()],
            user: "1:1".to_owned(),
            labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            files: BTreeMap::from([
                ("a/b".to_owned(), File::Executable(text.as_bytes().to_vec())),
                ("a/c".to_owned(), File::Link("b".to_owned())),
                ("tmp".to_owned(), File::Shared),
            ]),
        }
    }

    fn written(image: &Image, name: &str) -> (String, Vec<u8>) {
        let path = std::env::temp_dir().join(format!("{name}-{}.tar", std::process::id()));
        let digest = image.write(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        (digest, bytes)
    }

    #[test]
    fn the_same_image_is_the_same_bytes_and_another_is_not() {
        let (digest, bytes) = written(&sample("one"), "same");
        assert_eq!(written(&sample("one"), "again"), (digest.clone(), bytes));
        assert_ne!(written(&sample("two"), "other").0, digest);
    }

    #[test]
    fn files_have_no_time_and_no_owner_and_stand_below_their_directories() {
        let layer = sample("one").layer().unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 0);
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            let path = entry.path().unwrap().display().to_string();
            found.push((path, header.mode().unwrap(), header.entry_type()));
        }
        let wanted = [
            ("a/", 0o755, EntryType::Directory),
            ("a/b", 0o755, EntryType::Regular),
            ("a/c", 0o777, EntryType::Symlink),
            ("tmp/", 0o1777, EntryType::Directory),
        ];
        assert_eq!(found, wanted.map(|(path, mode, kind)| (path.to_owned(), mode, kind)));
    }

    #[test]
    fn a_tag_is_what_stands_after_the_last_name() {
        let tag = |name: &str| Image { name: name.to_owned(), ..Image::default() }.tag().to_owned();
        assert_eq!(tag("localhost:5000/a/b:1.2"), "1.2");
        assert_eq!(tag("localhost:5000/a/b"), "latest");
    }
}
