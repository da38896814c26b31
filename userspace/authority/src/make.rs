//! How an authority comes to be: made as a whole, below a root that was brought, or, with a root
//! that is kept elsewhere, by a request that goes out and a certificate that comes in.

use std::{path::Path, time::SystemTime};

use martlet_identity::{Csr, describe};
use martlet_model::TrustDomain;
use rcgen::CertificateParams;
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::{
    Authority, AuthorityError, files,
    key::{Key, LocalKey},
    limits::{BACKDATED, INSTALLED_ISSUER_LIFETIME, ISSUER_LIFETIME},
    request,
    root::{Life, Root},
    settings::Settings,
    template,
};

/// Where the root of a new authority is from.
pub enum NewRoot {
    /// Made, with its key in `root.key`.
    Made,
    /// Brought. Its key is brought, too, or reached by the command in `keys.yaml`; or it is kept
    /// elsewhere, and the issuer is asked for by [`Authority::request`].
    Brought { certificates: Vec<u8>, key: Option<Zeroizing<Vec<u8>>> },
}

impl NewRoot {
    /// From files of the user's: PEM.
    pub fn from_files(certificates: &Path, key: Option<&Path>) -> Result<Self, AuthorityError> {
        let plain = Settings::default();
        let key = key.map(|path| files::read_key(path, &plain)).transpose()?;
        let ders = files::certificates(certificates)?;
        Ok(Self::Brought {
            certificates: ders.iter().map(|der| pem(der)).collect::<String>().into(),
            key,
        })
    }
}

impl Authority {
    /// Makes root and issuer and writes them to `directory`; refuses to overwrite any.
    pub fn init(directory: &Path, domain: &TrustDomain) -> Result<(), AuthorityError> {
        Self::init_below(directory, domain, NewRoot::Made, SystemTime::now()).map(|_| ())
    }

    /// Whether there is an issuer already: not if the root is kept elsewhere.
    pub fn init_below(
        directory: &Path,
        domain: &TrustDomain,
        root: NewRoot,
        now: SystemTime,
    ) -> Result<bool, AuthorityError> {
        let names = [files::ROOT, files::ROOT_KEY, files::ISSUER, files::ISSUER_KEY];
        files::check_free(directory, &names)?;
        let settings = Settings::read(directory)?;
        Self::write(directory, &settings, domain, root, now)
    }

    pub(crate) fn write(
        directory: &Path,
        settings: &Settings,
        domain: &TrustDomain,
        root: NewRoot,
        now: SystemTime,
    ) -> Result<bool, AuthorityError> {
        let at = |name: &str| directory.join(name);
        // All that can be wrong is found before anything is written.
        let (signs, certificates, key) = match root {
            NewRoot::Made => {
                let (root, certificate, key) = Root::generate(domain, now)?;
                let key = Zeroizing::new(key.as_bytes().to_vec());
                (Some(root), pem(&certificate).into_bytes(), Some(key))
            }
            NewRoot::Brought { certificates, key } => {
                let path = at(files::ROOT);
                let ders = files::parse_certificates(&certificates)
                    .ok_or_else(|| AuthorityError::Pem { path: path.clone() })?;
                ders.iter().try_for_each(|der| check_root(der, &path, now))?;
                let root = match (&key, &settings.root) {
                    (Some(key), _) => Some(Root::local(&ders, key, &at(files::ROOT_KEY))?),
                    (None, Some(root)) => Some(Root::behind(&root.signer, &ders)?),
                    (None, None) => None,
                };
                (root, certificates, key)
            }
        };
        let issuer_key = LocalKey::generate().map_err(AuthorityError::Make)?;
        let issuer = signs.map(|root| root.sign_issuer(domain, &issuer_key, now)).transpose()?;
        files::make_directory(directory)?;
        if let Some(key) = key {
            files::create_key(&at(files::ROOT_KEY), &key, settings)?;
        }
        files::create(&at(files::ROOT), 0o644, &certificates)?;
        if let Some(issuer) = &issuer {
            let pem_of_key = issuer_key.to_pem();
            files::create_key(&at(files::ISSUER_KEY), pem_of_key.as_bytes(), settings)?;
            files::create(&at(files::ISSUER), 0o644, pem(issuer).as_bytes())?;
        }
        files::sync(directory)?;
        Ok(issuer.is_some())
    }

    /// The trust domain that a certificate in the directory names as its own.
    pub fn named_domain(directory: &Path) -> Result<Option<TrustDomain>, AuthorityError> {
        let mut ders = files::certificates(&directory.join(files::ROOT))?;
        ders.extend(files::issuer(directory));
        let reports = ders.iter().filter_map(|der| describe(der).ok());
        let uris = reports.flat_map(|report| report.uris);
        let domain = |uri: String| uri.strip_prefix("spiffe://")?.parse().ok();
        Ok(uris.filter_map(domain).next())
    }

    /// Makes a key for the next issuer, and asks for its certificate: a PKCS #10 request, PEM, to be
    /// signed by the root wherever it is. Asked again, it asks for the same key.
    pub fn request(directory: &Path, domain: &TrustDomain) -> Result<String, AuthorityError> {
        let settings = Settings::read(directory)?;
        files::settle(directory)?;
        let path = directory.join(files::NEXT_ISSUER_KEY);
        let key = match path.symlink_metadata() {
            Ok(_) => files::read_key(&path, &settings)?,
            Err(_) => {
                let made = LocalKey::generate().map_err(AuthorityError::Make)?.to_pem();
                files::replace_key(&path, made.as_bytes(), &settings)?;
                Zeroizing::new(made.as_bytes().to_vec())
            }
        };
        let key = LocalKey::from_pem(&key).map_err(|error| AuthorityError::Issuer(path, error))?;
        let params: CertificateParams = template::wanted(domain)?;
        let request = params.serialize_request(&key).map_err(AuthorityError::Make)?;
        request.pem().map_err(AuthorityError::Make)
    }

    /// Takes the certificate that was asked for, PEM, if all of it is right: key, kind, names,
    /// lifetime, and that a leaf below it is accepted by whoever trusts `root.crt`.
    pub fn install(
        directory: &Path,
        domain: &TrustDomain,
        certificate: &[u8],
        may_last_long: bool,
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        let settings = Settings::read(directory)?;
        files::settle(directory)?;
        let path = directory.join(files::NEXT_ISSUER_KEY);
        let key = files::read_key(&path, &settings)?;
        let key = LocalKey::from_pem(&key)
            .map_err(|error| AuthorityError::Issuer(path.clone(), error))?;
        let name = directory.join(files::NEXT_ISSUER);
        let unfit = |what| AuthorityError::IssuerUnfit { path: name.clone(), what };
        let ders = files::parse_certificates(certificate)
            .ok_or_else(|| AuthorityError::Pem { path: name.clone() })?;
        let [der] = ders.as_slice() else {
            return Err(unfit("must be one certificate, signed by a root in root.crt itself"));
        };
        check_issuer(der, may_last_long).map_err(unfit)?;
        let roots = files::certificates(&directory.join(files::ROOT))?;
        let made = Self::new(domain, roots.into(), der.clone(), Key(Box::new(key)), &name)?;
        made.check(&name, now)?;
        files::install_issuer(directory, &pem(der))
    }
}

/// Signs a request for an issuer with a root's key: what the keeper of an offline root does, if he
/// has no other program for it. Takes the key from the request, and decides the rest.
pub fn sign_issuer(
    directory: &Path,
    domain: &TrustDomain,
    csr: &[u8],
    now: SystemTime,
) -> Result<String, AuthorityError> {
    let settings = Settings::read(directory)?;
    let roots = files::certificates(&directory.join(files::ROOT))?;
    let path = directory.join(files::ROOT_KEY);
    let root = match &settings.root {
        Some(root) => Root::behind(&root.signer, &roots)?,
        None => Root::local(&roots, &files::read_key(&path, &settings)?, &path)?,
    };
    let der = CertificateSigningRequestDer::from_pem_slice(csr);
    let der = der.map_err(|_| crate::BadRequest::Unreadable)?;
    let key = request::read(&Csr(der.to_vec()))?;
    root.sign_issuer(domain, &key, now).map(|der| pem(&der))
}

/// What a trial leaf does not show.
fn check_issuer(der: &[u8], may_last_long: bool) -> Result<(), &'static str> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "cannot be read")?;
    let constraints = certificate.basic_constraints().ok().flatten().map(|found| found.value);
    match constraints {
        Some(found) if !found.ca => return Err("is no authority's certificate"),
        Some(found) if found.path_len_constraint != Some(0) => {
            return Err("must have path length 0: it signs leaves only");
        }
        Some(_) => {}
        None => return Err("has no basic constraints"),
    }
    let usage = certificate.key_usage().ok().flatten();
    if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err("must have the key usage keyCertSign");
    }
    let lifetime = Life::of(der).map_err(|_| "cannot be read")?.whole();
    if lifetime > INSTALLED_ISSUER_LIFETIME + BACKDATED {
        return Err("lives longer than 366 days");
    }
    if lifetime > ISSUER_LIFETIME + BACKDATED && !may_last_long {
        return Err("lives longer than 7 days; sign a shorter one, or say that you mean it");
    }
    Ok(())
}

fn check_root(der: &[u8], path: &Path, now: SystemTime) -> Result<(), AuthorityError> {
    let unfit = |what| AuthorityError::File { path: path.to_owned(), what, source: None };
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| unfit("holds no certificate"))?;
    let constraints = certificate.basic_constraints().ok().flatten().map(|found| found.value);
    if !constraints.as_ref().is_some_and(|found| found.ca) {
        return Err(unfit("holds a certificate that is no authority's"));
    }
    if constraints.and_then(|found| found.path_len_constraint) == Some(0) {
        return Err(unfit("holds a root below which no issuer may be: its path length is 0"));
    }
    let life = Life::of(der)?;
    if now < life.not_before || life.not_after <= now {
        return Err(unfit("holds a root that is not valid now"));
    }
    Ok(())
}

/// A certificate as PEM, RFC 7468.
pub fn pem(der: &[u8]) -> String {
    ::pem::encode(&::pem::Pem::new("CERTIFICATE", der))
}

#[cfg(test)]
mod tests;
