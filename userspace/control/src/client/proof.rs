//! How a node proves itself before it has a certificate, and knows the controller before it has
//! roots.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use martlet_identity::{HostCertificate, RootPin};
use martlet_model::Label;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::link::{LinkError, TokenFileError};
use crate::{AccountToken, JoinToken, Secret, limits};

/// Where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The file with a join token. It is read only while the node has no certificate.
    Token(PathBuf),
    /// The files of a pod of Kubernetes: the token of its service account, and the roots one of which
    /// the controller is certified by, in PEM. They are read whenever the node has no certificate
    /// that the controller takes.
    Account { token: PathBuf, roots: PathBuf },
    /// The files of a host that has a certificate of its owner's: its chain and its key, and the roots
    /// of which the controller is certified by one, all in PEM. They are read as those of a pod.
    Host { certificate: PathBuf, key: PathBuf, roots: PathBuf },
}

/// What it says.
pub struct Shown {
    pub proof: Shows,
    pub pins: Vec<RootPin>,
}

pub enum Shows {
    Secret(Secret),
    Account(AccountToken),
    Host(HostCertificate),
}

impl Proof {
    /// Whether it can be shown again at any time.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Account { .. } | Self::Host { .. })
    }

    pub async fn read(&self, node: &Label) -> Result<Shown, LinkError> {
        let (proof, node) = (self.clone(), node.clone());
        let read = spawn_blocking(move || match &proof {
            Self::Token(path) => join_token(path, &node).map_err(|error| failed(path, error)),
            Self::Account { token, roots } => {
                let text = text(token).map_err(|error| failed(token, error))?;
                let account = AccountToken::new(text.trim())
                    .ok_or_else(|| failed(token, TokenFileError::NoAccountToken))?;
                let pins = pins(roots).map_err(|error| failed(roots, error))?;
                Ok(Shown { proof: Shows::Account(account), pins })
            }
            Self::Host { certificate, key, roots } => {
                let chain = text(certificate).map_err(|error| failed(certificate, error))?;
                let secret = secret(key).map_err(|error| failed(key, error))?;
                let host = HostCertificate::from_pem(chain.as_bytes(), secret.as_bytes());
                let host = host.map_err(|problem| failed(certificate, problem.into()))?;
                let pins = pins(roots).map_err(|error| failed(roots, error))?;
                Ok(Shown { proof: Shows::Host(host), pins })
            }
        });
        read.await.map_err(|_| LinkError::Ended)?
    }
}

fn failed(path: &Path, source: TokenFileError) -> LinkError {
    LinkError::Token { path: path.display().to_string(), source }
}

fn join_token(path: &Path, node: &Label) -> Result<Shown, TokenFileError> {
    let token: JoinToken = text(path)?.parse()?;
    match token.node == *node {
        true => Ok(Shown { proof: Shows::Secret(token.secret), pins: token.pins }),
        false => Err(TokenFileError::OtherNode(token.node)),
    }
}

fn pins(path: &Path) -> Result<Vec<RootPin>, TokenFileError> {
    let pins = RootPin::of_pem(text(path)?.as_bytes()).filter(|pins| !pins.is_empty());
    match pins {
        Some(pins) if pins.len() <= limits::ROOTS => Ok(pins),
        _ => Err(TokenFileError::NoRoots),
    }
}

/// Of a file that not everybody may read.
fn secret(path: &Path) -> Result<Zeroizing<String>, TokenFileError> {
    match fs::metadata(path)?.mode() & 0o007 {
        0 => text(path),
        _ => Err(TokenFileError::Public),
    }
}

fn text(path: &Path) -> Result<Zeroizing<String>, TokenFileError> {
    let length = fs::metadata(path)?.len();
    if length > limits::PROOF_BYTES {
        return Err(TokenFileError::TooLong);
    }
    Ok(Zeroizing::new(fs::read_to_string(path)?))
}

impl From<io::Error> for TokenFileError {
    fn from(source: io::Error) -> Self {
        Self::Read(source)
    }
}

#[cfg(test)]
mod tests {
    use martlet_authority::{Authority, pem};
    use tempfile::TempDir;

    use super::*;

    const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln";

    fn root() -> Vec<u8> {
        Authority::ephemeral(&"a.org".parse().unwrap()).unwrap().roots()[0].clone()
    }

    fn account(token: &str, roots: &str) -> (TempDir, Proof) {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("token"), token).unwrap();
        fs::write(at("roots"), roots).unwrap();
        let proof = Proof::Account { token: at("token"), roots: at("roots") };
        (directory, proof)
    }

    async fn refused(token: &str, roots: &str) -> String {
        let (_directory, proof) = account(token, roots);
        match proof.read(&"one".parse().unwrap()).await {
            Err(LinkError::Token { source, .. }) => source.to_string(),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it was taken"),
        }
    }

    #[tokio::test]
    async fn a_pod_shows_its_token_and_knows_the_roots() {
        let root = root();
        let (_directory, proof) = account(&format!("{JWT}\n"), &pem(&root).repeat(2));
        let shown = proof.read(&"one".parse().unwrap()).await.unwrap();
        assert!(matches!(shown.proof, Shows::Account(token) if token.reveal() == JWT));
        assert_eq!(shown.pins, vec![RootPin::of(&root); 2]);
    }

    #[tokio::test]
    async fn files_that_prove_nothing_are_refused() {
        let root = pem(&root());
        for no_token in ["", "a.b", "a.b.c d", "a..c", "a.b.c.d"] {
            let refused = refused(no_token, &root).await;
            assert!(refused.contains("service account"), "{no_token:?}: {refused}");
        }
        for no_roots in ["", "-----BEGIN CERTIFICATE-----", "roots"] {
            let refused = refused(JWT, no_roots).await;
            assert!(refused.contains("no root"), "{no_roots:?}: {refused}");
        }
        let long = refused(&"a".repeat(100_000), &root).await;
        assert!(long.contains("too long"), "{long}");
    }
}
