//! Certificates for HAProxy, made by openssl: P-256, one root, a leaf for each side.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

#[derive(Debug)]
pub struct Certificates {
    directory: PathBuf,
}

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

impl Certificates {
    pub fn make(directory: &Path) -> Result<Certificates> {
        fs::create_dir_all(directory).context("making the directory of certificates")?;
        let certificates = Certificates { directory: directory.to_owned() };
        certificates.make_root()?;
        for side in ["client", "server"] {
            certificates.make_leaf(side)?;
        }
        Ok(certificates)
    }

    pub fn root(&self) -> PathBuf {
        self.directory.join("root.crt")
    }

    /// Certificate and key in one file, as HAProxy reads them.
    pub fn pair(&self, side: &str) -> PathBuf {
        self.directory.join(format!("{side}.pem"))
    }

    fn make_root(&self) -> Result<()> {
        let mut openssl = self.request("root");
        openssl.args(["-subj", "/CN=root"]);
        run(&mut openssl)
    }

    fn make_leaf(&self, side: &str) -> Result<()> {
        let mut openssl = self.request(side);
        openssl.args(["-subj", &format!("/CN={side}")]);
        openssl.args(["-addext", &format!("subjectAltName=DNS:{side}")]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.args([OsStr::new("-CA"), self.root().as_os_str()]);
        openssl.args([OsStr::new("-CAkey"), self.key("root").as_os_str()]);
        run(&mut openssl)?;
        let read = |path: PathBuf| {
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let both = read(self.directory.join(format!("{side}.crt")))? + &read(self.key(side))?;
        fs::write(self.pair(side), both).context("writing a certificate with its key")
    }

    fn request(&self, name: &str) -> Command {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-days", "2", "-sha256"]).args(KEY);
        openssl.arg("-keyout").arg(self.key(name));
        openssl.arg("-out").arg(self.directory.join(format!("{name}.crt")));
        openssl
    }

    fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }
}

fn run(openssl: &mut Command) -> Result<()> {
    let output =
        openssl.stdin(Stdio::null()).output().context("running openssl (Debian: openssl)")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_of_the_root_and_for_its_side_only() {
        let directory = tempfile::tempdir().unwrap();
        let certificates = Certificates::make(directory.path()).unwrap();
        let verify = |name: &str| {
            let mut openssl = Command::new("openssl");
            openssl.arg("verify").arg("-CAfile").arg(certificates.root());
            openssl.args(["-verify_hostname", name]).arg(certificates.pair("server"));
            run(&mut openssl)
        };
        verify("server").unwrap();
        assert!(verify("client").is_err());
    }
}
