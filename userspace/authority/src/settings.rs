//! `keys.yaml`, beside the keys: how they are reached if they are not plain files.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{AuthorityError, files};

pub const NAME: &str = "keys.yaml";
const SHARED: &str = "may be changed by others; make it 0644 or less";

/// Without the file: keys are PEM in files that only their owner can read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Gets a key as PEM, and gives what is written to the key's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<Vec<String>>,
    /// Gets what is in the key's file, and gives the key as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decrypt: Option<Vec<String>>,
    /// Signs with the root's key; there is no `root.key` then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<RootSettings>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
        Self::parse(&text, &path)
    }

    /// `path` is named in errors.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, AuthorityError> {
        let unfit = |what: String| AuthorityError::Settings { path: path.to_owned(), what };
        let text = std::str::from_utf8(text).map_err(|error| unfit(error.to_string()))?;
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

/// The settings of another root for its directory: those that are given, or else how the keys in `from`
/// are kept. Which command signs is never taken over: it has the key of one root.
pub fn hand_over(from: &Path, given: Option<&[u8]>, to: &Path) -> Result<(), AuthorityError> {
    let path = to.join(NAME);
    let text = match given {
        Some(text) => {
            let given = Path::new(NAME);
            if Settings::parse(text, given)?.root.is_none() {
                let what = "it names no command that signs with the root's key (`root`, `signer`)";
                let (path, what) = (given.to_owned(), what.to_owned());
                return Err(AuthorityError::Settings { path, what });
            }
            text.to_vec()
        }
        None => {
            let kept = Settings { root: None, ..Settings::read(from)? };
            if kept == Settings::default() {
                return Ok(());
            }
            let unfit = |what: String| AuthorityError::Settings { path: path.clone(), what };
            // All JSON is YAML.
            serde_json::to_vec(&kept).map_err(|error| unfit(error.to_string()))?
        }
    };
    files::create(&path, 0o600, &text)
}
