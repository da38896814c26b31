//! Issuers of roots whose keys are elsewhere: a request goes out, a certificate comes in.

use std::{path::Path, time::SystemTime};

use super::{Store, TrustError, document::StepName, generation};
use crate::{Authority, files, root::Life, settings::Settings};

/// Whether a root could issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssuerState {
    /// There is one, or it is made as soon as it is wanted.
    Good,
    Missing,
    Expired,
}

/// Which root of those that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Issuing,
    /// Of a rotation: the one that comes or goes.
    Other,
}

/// Of the authority in this directory.
pub fn state(at: &Path, now: SystemTime) -> IssuerState {
    if is_renewed(at).unwrap_or(false) && files::has_issuer(at) {
        return IssuerState::Good;
    }
    match files::issuer(at).map(|der| Life::of(&der)) {
        Err(_) => IssuerState::Missing,
        Ok(Ok(life)) if now < life.not_after => IssuerState::Good,
        Ok(_) => IssuerState::Expired,
    }
}

/// Whether the root's key is reached from here.
fn is_renewed(at: &Path) -> Result<bool, TrustError> {
    Ok(at.join(files::ROOT_KEY).exists() || Settings::read(at)?.root.is_some())
}

impl Store {
    /// Asks for an issuer: a PKCS #10 request, PEM. If nothing is said, it is that of a new root which
    /// waits for one, or else of the root that issues. Asked again, it asks for the same key.
    pub fn request(&self, whose: Option<Whose>, now: SystemTime) -> Result<String, TrustError> {
        let at = generation::path(&self.directory, self.whose(whose, now)?);
        match is_renewed(&at)? {
            true => Err(TrustError::KeyIsHere),
            false => Ok(Authority::request(&at, &self.domain)?),
        }
    }

    /// Takes the certificate that was asked for, PEM, if all of it is right. It is in use from the next
    /// [`Store::tick`] on.
    pub fn install(
        &self,
        whose: Option<Whose>,
        certificate: &[u8],
        may_last_long: bool,
        now: SystemTime,
    ) -> Result<(), TrustError> {
        let at = generation::path(&self.directory, self.whose(whose, now)?);
        if is_renewed(&at)? {
            return Err(TrustError::KeyIsHere);
        }
        Ok(Authority::install(&at, &self.domain, certificate, may_last_long, now)?)
    }

    /// The generation that is meant.
    fn whose(&self, whose: Option<Whose>, now: SystemTime) -> Result<u64, TrustError> {
        let rotation = self.document.rotation.as_ref();
        match (whose, rotation) {
            (Some(Whose::Issuing), _) => Ok(self.document.generation),
            (Some(Whose::Other), Some(rotation)) => Ok(rotation.other),
            (Some(Whose::Other), None) => Err(TrustError::NotRotating),
            (None, Some(rotation)) if rotation.step == StepName::Staged => {
                let other = generation::path(&self.directory, rotation.other);
                match state(&other, now) {
                    IssuerState::Good => Ok(self.document.generation),
                    IssuerState::Missing | IssuerState::Expired => Ok(rotation.other),
                }
            }
            (None, _) => Ok(self.document.generation),
        }
    }
}
