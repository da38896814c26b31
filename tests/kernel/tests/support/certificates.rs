//! Certificates that no authority of ours would give, made by `openssl`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// Signs whatever it is asked to.
pub struct Signer {
    directory: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// What a rogue shows: certificate, key, and the certificate of its signer.
#[derive(Clone)]
pub struct Shown {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub signer: PathBuf,
}

/// From and until, as `openssl ca` wants them.
pub const VALID: [&str; 2] = ["20250101000000Z", "20450101000000Z"];
pub const EXPIRED: [&str; 2] = ["20250101000000Z", "20250201000000Z"];
pub const NOT_YET_VALID: [&str; 2] = ["20440101000000Z", "20450101000000Z"];

const CONFIGURATION: &str = "[ca]\n\
    default_ca = signer\n\
    [signer]\n\
    dir = .\n\
    database = index\n\
    new_certs_dir = .\n\
    rand_serial = yes\n\
    unique_subject = no\n\
    email_in_dn = no\n\
    default_md = sha256\n\
    policy = any\n\
    [any]\n\
    commonName = supplied\n";

impl Signer {
    /// A root of its own, of any name.
    pub fn root(directory: &Path, name: &str) -> Result<Signer> {
        let (certificate, key) = (directory.join("root.crt"), directory.join("root.key"));
        let signer = Signer::with(directory, certificate.clone(), key.clone())?;
        make_key(&key)?;
        openssl(
            directory,
            Command::new("openssl")
                .args(["req", "-x509", "-days", "30", "-subj", &format!("/CN={name}"), "-key"])
                .args([&key, &PathBuf::from("-out"), &certificate])
                .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]),
        )?;
        Ok(signer)
    }

    /// With the key of a mesh's own issuer, as somebody would who has stolen it.
    pub fn issuer_of(authority: &Path, directory: &Path) -> Result<Signer> {
        Signer::with(directory, authority.join("issuer.crt"), authority.join("issuer.key"))
    }

    fn with(directory: &Path, certificate: PathBuf, key: PathBuf) -> Result<Signer> {
        fs::create_dir_all(directory).context("making the signer's directory")?;
        fs::write(directory.join("index"), "").context("making the signer's index")?;
        fs::write(directory.join("configuration"), CONFIGURATION)
            .context("configuring the signer")?;
        Ok(Signer { directory: directory.to_owned(), certificate, key })
    }

    /// A leaf with these URI names, or an authority's certificate if `is_authority`.
    pub fn sign(
        &self,
        name: &str,
        uris: &[&str],
        [from, until]: [&str; 2],
        is_authority: bool,
    ) -> Result<Shown> {
        let path = |extension: &str| self.directory.join(format!("{name}.{extension}"));
        let (key, request, certificate) = (path("key"), path("csr"), path("crt"));
        make_key(&key)?;
        openssl(
            &self.directory,
            Command::new("openssl")
                .args(["req", "-new", "-subj", &format!("/CN={name}"), "-key"])
                .args([&key, &PathBuf::from("-out"), &request]),
        )?;
        let uris: Vec<_> = uris.iter().map(|uri| format!("URI:{uri}")).collect();
        let mut extensions = match is_authority {
            true => "basicConstraints=critical,CA:TRUE\n".to_owned(),
            false => "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
                      extendedKeyUsage=serverAuth,clientAuth\n"
                .to_owned(),
        };
        if !uris.is_empty() {
            extensions += &format!("subjectAltName={}\n", uris.join(","));
        }
        fs::write(path("extensions"), extensions).context("writing extensions")?;
        openssl(
            &self.directory,
            Command::new("openssl")
                .args(["ca", "-batch", "-notext", "-config", "configuration"])
                .args(["-startdate", from, "-enddate", until, "-cert"])
                .arg(&self.certificate)
                .arg("-keyfile")
                .arg(&self.key)
                .arg("-extfile")
                .arg(path("extensions"))
                .arg("-in")
                .arg(&request)
                .arg("-out")
                .arg(&certificate),
        )?;
        Ok(Shown { certificate, key, signer: self.certificate.clone() })
    }
}

impl Shown {
    /// For `openssl s_client` and `s_server`.
    pub fn arguments(&self) -> Vec<String> {
        [("-cert", &self.certificate), ("-key", &self.key), ("-cert_chain", &self.signer)]
            .into_iter()
            .flat_map(|(option, path)| [option.to_owned(), path.display().to_string()])
            .collect()
    }
}

fn make_key(path: &Path) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"]);
    openssl(Path::new("/"), command.arg(path))
}

fn openssl(directory: &Path, command: &mut Command) -> Result<()> {
    let output = command.current_dir(directory).output().context("running `openssl`")?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
