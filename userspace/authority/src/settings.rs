//! `keys.yaml`, beside the keys: how they are reached if they are not plain files.

use std::path::Path;

use serde::Deserialize;

use crate::{AuthorityError, files};

pub const NAME: &str = "keys.yaml";
const SHARED: &str = "may be changed by others; make it 0644 or less";

/// Without the file: keys are PEM in files that only their owner can read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Gets a key as PEM, and gives what is written to the key's file.
    pub encrypt: Option<Vec<String>>,
    /// Gets what is in the key's file, and gives the key as PEM.
    pub decrypt: Option<Vec<String>>,
    /// Signs with the root's key; there is no `root.key` then.
    pub root: Option<RootSettings>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootSettings {
    /// Gets the bytes to be signed, and gives the signature.
    pub signer: Vec<String>,
}

impl Settings {
    /// Whoever can change the file chooses what is run, so it must be the owner's alone.
    pub fn read(directory: &Path) -> Result<Self, AuthorityError> {
        let path = directory.join(NAME);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = files::read_owned(&path, 0o022, SHARED)?;
        let unfit = |what: String| AuthorityError::Settings { path: path.clone(), what };
        let text = std::str::from_utf8(&text).map_err(|error| unfit(error.to_string()))?;
        let settings: Self =
            serde_saphyr::from_str(text).map_err(|error| unfit(error.to_string()))?;
        settings.check().map_err(|what| unfit(what.to_owned()))?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.encrypt.is_some() != self.decrypt.is_some() {
            return Err("encrypt and decrypt are given together, or not at all");
        }
        let signer = self.root.as_ref().map(|root| &root.signer);
        let mut commands =
            [self.encrypt.as_ref(), self.decrypt.as_ref(), signer].into_iter().flatten();
        let is_whole =
            |command: &Vec<String>| command.first().is_some_and(|at| at.starts_with('/'));
        match commands.all(is_whole) {
            true => Ok(()),
            false => Err("a command is a list that begins with the whole path of a program"),
        }
    }
}

/// The same settings for another directory.
pub fn copy(from: &Path, to: &Path) -> Result<(), AuthorityError> {
    let path = from.join(NAME);
    if !path.exists() {
        return Ok(());
    }
    let text = files::read_owned(&path, 0o022, SHARED)?;
    files::create(&to.join(NAME), 0o600, &text)
}
