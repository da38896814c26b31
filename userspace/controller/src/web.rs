//! A certificate of the web and its key, in files that others renew.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use martlet_identity::endpoint::WebCertificate;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::limits;

/// What the files held when they were read last.
pub struct KeyPair {
    certificate_path: PathBuf,
    key_path: PathBuf,
    digest: String,
    pub certificate: WebCertificate,
}

impl KeyPair {
    pub fn read(certificate_path: &Path, key_path: &Path) -> Result<Self> {
        let chain = read(certificate_path)?;
        let key = read_key(key_path)?;
        let named = || format!("using {} with {}", certificate_path.display(), key_path.display());
        Ok(Self {
            certificate: WebCertificate::from_pem(&chain, &key).with_context(named)?,
            digest: martlet_identity::fingerprint(&[chain, key].concat()),
            certificate_path: certificate_path.to_owned(),
            key_path: key_path.to_owned(),
        })
    }
}

/// Shows what the files hold, soon after they changed. What cannot be used changes nothing.
pub async fn renew(mut pair: KeyPair, shown: watch::Sender<WebCertificate>) {
    let mut failure = String::new();
    loop {
        tokio::time::sleep(limits::WEB_LOOK).await;
        match KeyPair::read(&pair.certificate_path, &pair.key_path) {
            Ok(now) => {
                failure.clear();
                if now.digest != pair.digest {
                    info!(path = %now.certificate_path.display(), "certificate read again");
                    shown.send_replace(now.certificate.clone());
                    pair = now;
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                if error != failure {
                    warn!(error, "certificate of the bundle endpoint not read; the old one stays");
                    failure = error;
                }
            }
        }
    }
}

/// No longer than any such file is.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let named = || format!("reading {}", path.display());
    read_open(File::open(path).with_context(named)?).with_context(named)
}

fn read_key(path: &Path) -> Result<Vec<u8>> {
    let named = || format!("reading {}", path.display());
    let file = File::open(path).with_context(named)?;
    let mode = file.metadata().with_context(named)?.mode();
    if mode & 0o077 != 0 {
        bail!("{} may be read by others; make it 0600", path.display());
    }
    read_open(file).with_context(named)
}

fn read_open(file: File) -> Result<Vec<u8>> {
    ensure!(file.metadata()?.is_file(), "it is no file");
    let mut bytes = Vec::new();
    file.take(limits::PEM_BYTES + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= limits::PEM_BYTES, "it is too long");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use martlet_authority::Authority;
    use tempfile::TempDir;

    use super::*;

    fn write(directory: &TempDir, mode: u32) -> (PathBuf, PathBuf) {
        // Any key with its certificate will do.
        let made = TempDir::new().unwrap();
        Authority::init(made.path(), &"b.org".parse().unwrap()).unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::copy(made.path().join("root.crt"), at("crt")).unwrap();
        let _ = fs::remove_file(at("key"));
        fs::copy(made.path().join("root.key"), at("key")).unwrap();
        fs::set_permissions(at("key"), fs::Permissions::from_mode(mode)).unwrap();
        (at("crt"), at("key"))
    }

    fn refused(certificate: &Path, key: &Path) -> String {
        format!("{:#}", KeyPair::read(certificate, key).err().unwrap())
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_of_another_certificate_is_refused() {
        let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (certificate, key) = write(&one, 0o600);
        assert!(KeyPair::read(&certificate, &key).is_ok());
        let (_, other) = write(&two, 0o400);
        assert!(refused(&certificate, &other).starts_with("using "));
        let (certificate, key) = write(&one, 0o640);
        assert!(refused(&certificate, &key).contains("may be read by others"));
        assert!(refused(&certificate, Path::new("/nowhere")).contains("reading /nowhere"));
        assert!(refused(&certificate, Path::new("/dev/null")).contains("may be read by others"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_was_renewed_is_shown_and_a_broken_one_is_not() {
        let directory = TempDir::new().unwrap();
        let (certificate, key) = write(&directory, 0o600);
        let pair = KeyPair::read(&certificate, &key).unwrap();
        let shown = watch::Sender::new(pair.certificate.clone());
        let mut seen = shown.subscribe();
        tokio::spawn(renew(pair, shown));
        let soon = 2 * limits::WEB_LOOK;
        let (intact, _) = (fs::read(&certificate).unwrap(), fs::write(&certificate, "").unwrap());
        assert!(tokio::time::timeout(soon, seen.changed()).await.is_err(), "broken");
        fs::write(&certificate, intact).unwrap();
        assert!(tokio::time::timeout(soon, seen.changed()).await.is_err(), "as before");
        write(&directory, 0o600);
        tokio::time::timeout(soon, seen.changed()).await.expect("it is looked at").unwrap();
    }
}
