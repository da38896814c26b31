//! The plugin's program and its network on the node: put there, kept there, and taken away again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    limits,
    network::{FILE, NetworkError, PLUGIN, Settings, first, with_plugin},
};

const PROGRAM_MODE: u32 = 0o755;
/// What a network says may be secret.
const NETWORK_MODE: u32 = 0o600;

/// Where a runtime looks for programs and networks.
#[derive(Debug, Clone)]
pub struct Places {
    pub programs: PathBuf,
    pub networks: PathBuf,
}

/// Why the plugin is not where it should be.
#[derive(Debug, Error)]
pub enum FilesError {
    #[error("there is no network yet")]
    NoNetwork,
    #[error("the plugin cannot be in the network of {0}: {1}")]
    Network(String, NetworkError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl FilesError {
    /// Whether it passes when somebody else does their part.
    pub fn is_others(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

impl Places {
    fn program(&self) -> PathBuf {
        self.programs.join(PLUGIN)
    }

    fn network(&self) -> PathBuf {
        self.networks.join(FILE)
    }

    /// Puts the program and the network there, in this order, where they are not; what was written.
    ///
    /// # Errors
    ///
    /// Something could not be read or written, or there is nothing that the plugin can be in. Then a
    /// network of ours that is there stays: without it pods would have one without the agent.
    pub fn keep(&self, program: &[u8], settings: &Settings) -> Result<Vec<PathBuf>, FilesError> {
        let mut written = Vec::new();
        let mut put = |path: PathBuf, wanted: &[u8], mode: u32| {
            let put = match fs::read(&path) {
                Ok(found) if found == wanted => Ok(false),
                _ => replace(&path, wanted, mode).map(|()| true),
            };
            match put {
                Ok(is_new) => {
                    written.extend(is_new.then_some(path));
                    Ok(())
                }
                Err(source) => Err(FilesError::Io { path, source }),
            }
        };
        put(self.program(), program, PROGRAM_MODE)?;
        let wanted = self.wanted(settings)?;
        put(self.network(), wanted.as_bytes(), NETWORK_MODE)?;
        Ok(written)
    }

    /// Whether all is as [`Places::keep`] leaves it.
    ///
    /// # Errors
    ///
    /// See there.
    pub fn is_kept(&self, settings: &Settings) -> Result<bool, FilesError> {
        let wanted = self.wanted(settings)?;
        let is_so = fs::read(self.network()).is_ok_and(|found| found == wanted.as_bytes());
        Ok(is_so && self.program().exists())
    }

    /// Whether nothing of it is there.
    pub fn is_gone(&self) -> bool {
        [self.network(), self.program()].iter().all(|path| fs::symlink_metadata(path).is_err())
    }

    fn wanted(&self, settings: &Settings) -> Result<String, FilesError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FilesError::Io { path, source }
        };
        let networks = &self.networks;
        let mut names = Vec::new();
        for entry in fs::read_dir(networks).map_err(failed(networks))? {
            let name = entry.map_err(failed(networks))?.file_name();
            names.extend(name.into_string());
        }
        let name = first(names.iter().map(String::as_str)).ok_or(FilesError::NoNetwork)?;
        let text = match read(&networks.join(name)) {
            // Whoever has made it is making it anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FilesError::NoNetwork);
            }
            text => text.map_err(failed(&networks.join(name)))?,
        };
        with_plugin(name, &text, settings)
            .map_err(|error| FilesError::Network(name.to_owned(), error))
    }

    /// Takes both away, the network first; what was there.
    ///
    /// # Errors
    ///
    /// One of them could not be removed.
    pub fn remove(&self) -> Result<Vec<PathBuf>, FilesError> {
        let mut removed = Vec::new();
        for path in [self.network(), self.program()] {
            for path in [unfinished(&path), path] {
                match fs::remove_file(&path) {
                    Ok(()) => removed.push(path),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(FilesError::Io { path, source }),
                }
            }
        }
        Ok(removed)
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(limits::NETWORK_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Under a name that no runtime takes for a network or a plugin.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    path.with_file_name(format!(".{name}.new"))
}

/// As a whole or not at all, also if the node loses its power meanwhile.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = unfinished(path);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge"}]}"#;

    fn node() -> (TempDir, Places, Settings) {
        let root = TempDir::new().unwrap();
        let places =
            Places { programs: root.path().join("bin"), networks: root.path().join("net.d") };
        fs::create_dir(&places.programs).unwrap();
        fs::create_dir(&places.networks).unwrap();
        (root, places, Settings { socket: "/s".to_owned(), exempt: vec![] })
    }

    /// Every file, with what is in it.
    fn all(places: &Places) -> Vec<(PathBuf, String)> {
        let directories = [&places.programs, &places.networks];
        let entries = directories.into_iter().flat_map(|path| fs::read_dir(path).unwrap());
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut all: Vec<_> =
            paths.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
        all.sort();
        all
    }

    #[test]
    fn what_is_kept_is_written_once_and_taken_away_without_a_trace() {
        let (_root, places, settings) = node();
        fs::write(places.networks.join("10-n.conflist"), LIST).unwrap();
        let before = all(&places);
        assert!(!places.is_kept(&settings).unwrap());
        let written = places.keep(b"program", &settings).unwrap();
        assert_eq!(written, [places.program(), places.network()]);
        assert!(places.is_kept(&settings).unwrap() && !places.is_gone());
        assert!(places.keep(b"program", &settings).unwrap().is_empty());
        let mode = fs::metadata(places.program()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PROGRAM_MODE);
        assert_eq!(places.remove().unwrap(), [places.network(), places.program()]);
        assert_eq!(all(&places), before);
        assert!(places.is_gone() && places.remove().unwrap().is_empty());
    }

    #[test]
    fn what_others_write_anew_is_followed_and_what_they_remove_is_put_back() {
        let (_root, places, settings) = node();
        fs::write(places.networks.join("10-n.conflist"), LIST).unwrap();
        places.keep(b"program", &settings).unwrap();
        fs::write(places.networks.join("10-n.conflist"), LIST.replace("bridge", "ptp")).unwrap();
        assert!(!places.is_kept(&settings).unwrap());
        assert_eq!(places.keep(b"program", &settings).unwrap(), [places.network()]);
        assert!(fs::read_to_string(places.network()).unwrap().contains("ptp"));
        fs::remove_file(places.network()).unwrap();
        fs::remove_file(places.program()).unwrap();
        assert_eq!(places.keep(b"program", &settings).unwrap().len(), 2);
        assert_eq!(places.keep(b"newer", &settings).unwrap(), [places.program()]);
    }

    #[test]
    fn without_a_network_the_one_with_the_plugin_stays() {
        let (_root, places, settings) = node();
        let none = places.keep(b"program", &settings).unwrap_err();
        assert!(matches!(none, FilesError::NoNetwork) && none.is_others());
        fs::write(places.networks.join("10-n.conflist"), LIST).unwrap();
        places.keep(b"program", &settings).unwrap();
        let kept = fs::read(places.network()).unwrap();
        for broken in [None, Some("{"), Some(r#"{"cniVersion": "0.1.0"}"#)] {
            fs::remove_file(places.networks.join("10-n.conflist")).unwrap_or_default();
            if let Some(text) = broken {
                fs::write(places.networks.join("10-n.conflist"), text).unwrap();
            }
            assert!(places.keep(b"program", &settings).unwrap_err().is_others());
            assert_eq!(fs::read(places.network()).unwrap(), kept);
        }
        let elsewhere = Places { networks: places.networks.join("none"), ..places.clone() };
        assert!(!elsewhere.keep(b"program", &settings).unwrap_err().is_others());
    }
}
