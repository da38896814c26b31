//! `martlet trust rotate`, `csr` and `install`: new roots, and issuers of those whose keys are elsewhere.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use martlet_authority::NewRoot;
use martlet_model::report::{AskIssuer, BroughtKey, InstallIssuer, IssuerAsked, IssuerOf, Rotate};

use crate::{args::Which, controller::Controller, write};

/// A line of PEM (RFC 7468, section 2).
const PEM_COLUMNS: usize = 64;

/// Certificates and settings have a few thousand bytes.
const FILE_BYTES: u64 = 256 * 1024;

pub async fn rotate(
    controller: &Controller,
    root: Option<&Path>,
    key: Option<&Path>,
    settings: Option<&Path>,
) -> Result<()> {
    let asked = root.map(|root| brought(root, key, settings)).transpose()?;
    let is_offline = asked.as_ref().is_some_and(|asked| asked.key == BroughtKey::Elsewhere);
    controller.tell("/trust/rotate", &asked).await?;
    write("a new root is staged; `martlet trust status` shows how far it is\n")?;
    match is_offline {
        true => write(
            "\nIts key is elsewhere. To get an issuer, and again each week:\n  \
             martlet trust csr > issuer.csr\n  \
             … have issuer.csr signed by the root, as `martlet authority sign` does …\n  \
             martlet trust install issuer.crt\n",
        ),
        false => Ok(()),
    }
}

fn brought(root: &Path, key: Option<&Path>, settings: Option<&Path>) -> Result<Rotate> {
    let read = NewRoot::from_files(root, key).context("reading the root")?;
    let NewRoot::Brought { certificates, key } = read else {
        bail!("{} holds no root", root.display());
    };
    let key = match (key, settings) {
        (Some(pem), _) => {
            BroughtKey::Here(String::from_utf8(pem.to_vec()).context("reading the root's key")?)
        }
        (None, Some(settings)) => BroughtKey::Command(text(settings)?),
        (None, None) => BroughtKey::Elsewhere,
    };
    Ok(Rotate { certificates: String::from_utf8(certificates)?, key })
}

pub async fn csr(controller: &Controller, of: Option<Which>) -> Result<()> {
    let told = controller.tell("/trust/csr", &AskIssuer { of: of.map(issuer_of) }).await?;
    // Its lines are part of it.
    let IssuerAsked { request } =
        serde_json::from_slice(&told).map_err(crate::controller::ControllerError::Differs)?;
    write(&request)
}

pub async fn install(
    controller: &Controller,
    certificate: &Path,
    of: Option<Which>,
    may_last_long: bool,
) -> Result<()> {
    let certificate = text(certificate)?;
    let asked = InstallIssuer { of: of.map(issuer_of), certificate, may_last_long };
    controller.tell("/trust/install", &asked).await?;
    write("the issuer is there; `martlet trust status` shows when it issues\n")
}

fn issuer_of(which: Which) -> IssuerOf {
    match which {
        Which::Issuing => IssuerOf::Issuing,
        Which::Other => IssuerOf::Other,
    }
}

fn text(path: &Path) -> Result<String> {
    let named = || format!("reading {}", path.display());
    let length = fs::metadata(path).with_context(named)?.len();
    if length > FILE_BYTES {
        bail!("{} is too long", path.display());
    }
    fs::read_to_string(path).with_context(named)
}

/// The certificates of a bundle document, which has them in base64 already.
pub fn pem(document: &str) -> Result<String> {
    let document: serde_json::Value =
        serde_json::from_str(document).context("reading the bundle document")?;
    let keys = document["keys"].as_array().context("the bundle document has no keys")?;
    let mut text = String::new();
    for certificate in keys.iter().filter_map(|key| key["x5c"][0].as_str()) {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in certificate.as_bytes().chunks(PEM_COLUMNS) {
            text.push_str(str::from_utf8(line).context("base64 is ASCII")?);
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    Ok(text)
}
