//! The authority's directory: `root.crt`, `root.key`, `issuer.crt`, `issuer.key`.
//!
//! Keys are readable by their owner only, and are refused otherwise.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use zeroize::Zeroizing;

use crate::{AuthorityError, issue::Fresh};

pub struct Found {
    pub roots: Vec<Vec<u8>>,
    pub issuer: Vec<u8>,
    pub key: Zeroizing<String>,
}

fn error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::File { path, what, source: Some(source) }
}

pub fn write(directory: &Path, fresh: &Fresh) -> Result<(), AuthorityError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(error(directory, "cannot be made"))?;
    let names = ["root.crt", "root.key", "issuer.crt", "issuer.key"];
    if let Some(taken) = names.iter().map(|name| directory.join(name)).find(|path| path.exists()) {
        let what = "exists already; an authority is never overwritten";
        return Err(AuthorityError::File { path: taken, what, source: None });
    }
    create(&directory.join("root.key"), 0o600, &fresh.root.key().to_pem())?;
    create(&directory.join("root.crt"), 0o644, &fresh.root.pem())?;
    create(&directory.join("issuer.key"), 0o600, &fresh.issuer.key().to_pem())?;
    create(&directory.join("issuer.crt"), 0o644, &fresh.issuer.pem())
}

pub fn read(directory: &Path) -> Result<Found, AuthorityError> {
    let key = directory.join("issuer.key");
    let mode = fs::metadata(&key).map_err(error(&key, "cannot be read"))?.permissions().mode();
    if mode & 0o077 != 0 {
        let what = "may be read by others; make it 0600";
        return Err(AuthorityError::File { path: key, what, source: None });
    }
    let issuer = certificates(&directory.join("issuer.crt"))?.swap_remove(0);
    let roots = certificates(&directory.join("root.crt"))?;
    let text = fs::read_to_string(&key).map_err(error(&key, "cannot be read"))?;
    Ok(Found { roots, issuer, key: Zeroizing::new(text) })
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, AuthorityError> {
    let text = fs::read(path).map_err(error(path, "cannot be read"))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(ders) if !ders.is_empty() => Ok(ders.iter().map(|der| der.to_vec()).collect()),
        _ => Err(AuthorityError::Pem { path: path.to_owned() }),
    }
}

fn create(path: &Path, mode: u32, text: &str) -> Result<(), AuthorityError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.map_err(error(path, "cannot be made"))?;
    file.write_all(text.as_bytes()).map_err(error(path, "cannot be written"))?;
    file.sync_all().map_err(error(path, "cannot be written"))
}
