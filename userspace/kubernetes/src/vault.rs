//! A Secret that holds files: what has to outlive every pod of the controller.
//!
//! Written only over the version that was read: of two who change it at once, one is refused.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use martlet_model::Label;
use thiserror::Error;
use tokio::time::timeout;

use crate::limits;

/// Names with `/` between their parts, and what is in each file. Not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

/// What was read or written, and as which version of the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub files: Files,
    version: String,
}

#[derive(Clone)]
pub struct Vault {
    api: Api<Secret>,
    name: String,
}

/// Why nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VaultError {
    #[error("somebody else has changed the Secret {0} meanwhile")]
    Changed(String),
    #[error("the Secret {name}: {why}")]
    Failed { name: String, why: String },
}

/// Keys of Secrets have no `/`, and our names have no `__`.
const SEPARATOR: &str = "__";

impl Vault {
    pub fn new(client: &Client, namespace: &Label, name: &str) -> Self {
        let api = Api::namespaced(client.clone(), namespace.as_str());
        Self { api, name: name.to_owned() }
    }

    /// `None` if nothing was ever written.
    ///
    /// # Errors
    ///
    /// The server did not answer, or does not allow it.
    pub async fn read(&self) -> Result<Option<Kept>, VaultError> {
        let asked = timeout(limits::QUESTION, self.api.get_opt(&self.name)).await;
        let answer = asked.map_err(|_| self.failed("no answer in time"))?;
        answer.map_err(|error| self.failed(error)).map(|secret| secret.map(kept))
    }

    /// Over what was read or written before; `None`: there must be nothing yet.
    ///
    /// # Errors
    ///
    /// Nothing was written, or it is not known whether.
    pub async fn write(&self, files: &Files, before: Option<&Kept>) -> Result<Kept, VaultError> {
        let data = files
            .0
            .iter()
            .map(|(name, bytes)| (name.replace('/', SEPARATOR), ByteString(bytes.clone())));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: before.map(|before| before.version.clone()),
                ..ObjectMeta::default()
            },
            data: Some(data.collect()),
            ..Secret::default()
        };
        let parameters = PostParams::default();
        let writing = async {
            match before {
                Some(_) => self.api.replace(&self.name, &parameters, &secret).await,
                None => self.api.create(&parameters, &secret).await,
            }
        };
        let written = timeout(limits::QUESTION, writing).await;
        match written.map_err(|_| self.failed("no answer in time"))? {
            Ok(secret) => Ok(kept(secret)),
            // Another version of it, or one where there was to be none.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Err(VaultError::Changed(self.name.clone()))
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, why: impl fmt::Display) -> VaultError {
        VaultError::Failed { name: self.name.clone(), why: why.to_string() }
    }
}

fn kept(secret: Secret) -> Kept {
    let files = secret.data.unwrap_or_default().into_iter();
    let files = files.map(|(name, bytes)| (name.replace(SEPARATOR, "/"), bytes.0)).collect();
    Kept { files: Files(files), version: secret.metadata.resource_version.unwrap_or_default() }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_become_keys_and_come_back() {
        let secret = Secret {
            data: Some(BTreeMap::from([(
                "generations__2__root.key".to_owned(),
                ByteString(b"secret".to_vec()),
            )])),
            ..Secret::default()
        };
        let kept = kept(secret);
        assert_eq!(kept.files.0["generations/2/root.key"], b"secret");
        assert!(!format!("{kept:?}").contains("115"), "{kept:?}");
    }
}
