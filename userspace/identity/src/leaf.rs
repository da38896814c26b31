//! What a leaf says about itself, and whether it has the form that SPIFFE demands of it (X509-SVID,
//! sections 2 to 5). Nothing is proven by reading it.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use martlet_model::{Bearer, WorkloadName};
use x509_parser::{
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
        OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
    },
    prelude::{
        AttributeTypeAndValue, FromDer as _, GeneralName, ParsedExtension, SubjectPublicKeyInfo,
        X509Certificate,
    },
    public_key::PublicKey,
};

use crate::{KeyDigest, PeerProblem, svid::instant};

/// What is signed with less can be forged; NIST SP 800-131A, revision 2, table 2.
const LEAST_RSA_BITS: usize = 2048;

#[derive(Debug)]
pub struct Facts {
    pub bearer: Arc<Bearer>,
    pub subject: String,
    pub key: KeyDigest,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

pub fn read(der: &[u8]) -> Result<Facts, PeerProblem> {
    let certificate = parse(der)?;
    check_usage(&certificate)?;
    check_key(certificate.public_key())?;
    let uris = uris(&certificate)?;
    let [uri] = uris.as_slice() else { return Err(PeerProblem::UriCount(uris.len())) };
    let (subject, validity) = (certificate.subject(), certificate.validity());
    Ok(Facts {
        bearer: Arc::new(Bearer {
            identity: uri.parse().map_err(PeerProblem::NotSpiffe)?,
            workload: only(subject.iter_common_name()).and_then(workload_name),
            node: only(subject.iter_organizational_unit()).and_then(|text| text.parse().ok()),
        }),
        subject: subject.to_string(),
        key: KeyDigest::of(certificate.public_key().raw),
        not_before: instant(validity.not_before.timestamp()),
        not_after: instant(validity.not_after.timestamp()),
    })
}

/// Whether an issuer's certificate says that its key may sign others (RFC 5280, section 6.1.4, n;
/// X509-SVID, section 4.3 demands the extension). That it is an authority's is for others to check.
pub fn may_sign_certificates(der: &[u8]) -> bool {
    let Ok(certificate) = parse(der) else { return false };
    certificate.extensions().iter().any(|extension| match extension.parsed_extension() {
        ParsedExtension::KeyUsage(usage) => usage.key_cert_sign(),
        _ => false,
    })
}

/// The whole of the bytes is one certificate that can be read to its last extension.
pub fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PeerProblem> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| PeerProblem::Unreadable)?;
    let is_readable = certificate.extensions().iter().all(|extension| {
        !matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. })
    });
    if !rest.is_empty() || !is_readable {
        return Err(PeerProblem::Unreadable);
    }
    let mut seen = HashSet::new();
    match certificate.extensions().iter().all(|extension| seen.insert(&extension.oid)) {
        true => Ok(certificate),
        false => Err(PeerProblem::Form("it has an extension twice")),
    }
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), PeerProblem> {
    let mut says_usage = false;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(PeerProblem::Usage("it is an authority's"));
            }
            ParsedExtension::KeyUsage(usage) if !usage.digital_signature() => {
                return Err(PeerProblem::Usage("its key is not for signatures"));
            }
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                return Err(PeerProblem::Usage("its key is for signing certificates"));
            }
            ParsedExtension::KeyUsage(_) => says_usage = true,
            _ => {}
        }
    }
    // Certificates of versions before 3 have no extensions at all: they lack names rather.
    match says_usage || certificate.extensions().is_empty() {
        true => Ok(()),
        false => Err(PeerProblem::Usage("it does not say what its key is for")),
    }
}

/// The signature of the handshake would fail with most of these keys too, and say less.
fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), PeerProblem> {
    let algorithm = &key.algorithm;
    if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
        return match key.parsed() {
            Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= LEAST_RSA_BITS => Ok(()),
            _ => Err(PeerProblem::Key("RSA of less than 2048 bits")),
        };
    }
    if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        let known = [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521];
        return match curve.is_some_and(|curve| known.contains(&curve)) {
            true => Ok(()),
            false => Err(PeerProblem::Key("an elliptic curve other than P-256, P-384 and P-521")),
        };
    }
    match algorithm.algorithm == OID_SIG_ED25519 {
        true => Ok(()),
        false => Err(PeerProblem::Key("an unknown kind")),
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, PeerProblem> {
    let mut uris = Vec::new();
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            continue;
        };
        for name in &names.general_names {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                // It could have been a second URI.
                GeneralName::Invalid(..) => return Err(PeerProblem::Unreadable),
                _ => {}
            }
        }
    }
    Ok(uris)
}

/// What an attribute says that is there once, and is a text.
fn only<'a>(
    mut attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
) -> Option<&'a str> {
    let first = attributes.next()?;
    attributes.next().is_none().then(|| first.as_str().ok())?
}

fn workload_name(text: &str) -> Option<WorkloadName> {
    let (namespace, name) = text.split_once('/')?;
    Some(WorkloadName { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
}
