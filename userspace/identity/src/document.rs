//! A trust domain's roots as SPIFFE writes them down: a JWK set (SPIFFE Trust Domain and Bundle,
//! section 4; X509-SVID, section 6; RFC 7517).
//!
//! A document does not say whose it is: who reads it must know. A root that names another trust
//! domain is refused all the same.

use std::{collections::BTreeSet, time::Duration};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use martlet_model::TrustDomain;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519},
    prelude::{GeneralName, X509Certificate},
    public_key::PublicKey,
};

use crate::{
    bundle, leaf,
    limits::{DEFAULT_REFRESH, LONGEST_REFRESH, MAX_DOCUMENT_BYTES, SHORTEST_REFRESH},
};

const X509_SVID: &str = "x509-svid";

/// A trust domain's roots, with what its publisher says about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleDocument {
    /// DER, at least one, none twice.
    pub roots: Vec<Vec<u8>>,
    /// Grows with every change of the roots, if the publisher counts.
    pub sequence: Option<u64>,
    /// How often to look for a newer one, if the publisher says so.
    pub refresh_hint: Option<Duration>,
}

/// Why a text is no bundle document that can be used.
#[derive(Debug, Error)]
pub enum DocumentError {
    #[error("the bundle document is longer than {MAX_DOCUMENT_BYTES} bytes")]
    TooLong,
    #[error("the bundle document is not UTF-8")]
    NotText,
    #[error("the bundle document is no JWK set of SPIFFE")]
    Json(#[source] serde_json::Error),
    #[error("keys[{0}].{1} is missing, or no text")]
    Missing(usize, &'static str),
    #[error("keys[{0}] is no key of its kind")]
    Key(usize, #[source] serde_json::Error),
    #[error("keys[{0}].x5c[0] is not base64")]
    Encoding(usize),
    #[error("keys[{0}].x5c[0] is no certificate of an authority: {1}")]
    Certificate(usize, String),
    #[error("keys[{0}] says another key than its certificate")]
    OtherKey(usize),
    #[error("keys[{0}].x5c[0] is a root of {1}, not of {2}")]
    OtherDomain(usize, String, TrustDomain),
    #[error("the bundle document has no root for X.509 (a key whose use is x509-svid)")]
    NoRoot,
    #[error("certificate {0} of the PEM text is no authority's that can be used: {1}")]
    Pem(usize, String),
    #[error("there is no certificate in PEM")]
    NoPem,
    #[error("a root has a key that a bundle document cannot say")]
    UnknownKey,
}

#[derive(Serialize, Deserialize)]
struct Set<K> {
    keys: Vec<K>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: String,
    #[serde(flatten)]
    key: Key,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    x5c: Vec<String>,
}

/// What a JWK says about a public key (RFC 7518, section 6; RFC 8037, section 2).
#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
}

impl BundleDocument {
    /// Reads the document of `domain`. Keys of other uses and kinds are passed over, and so are
    /// those without a certificate, as the standards ask.
    pub fn parse(text: &[u8], domain: &TrustDomain) -> Result<Self, DocumentError> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLong);
        }
        let text = str::from_utf8(text).map_err(|_| DocumentError::NotText)?;
        let set: Set<Value> = serde_json::from_str(text).map_err(DocumentError::Json)?;
        let (mut roots, mut seen) = (Vec::new(), BTreeSet::new());
        for (at, jwk) in set.keys.into_iter().enumerate() {
            if let Some(root) = root(at, jwk, domain)?
                && seen.insert(root.clone())
            {
                roots.push(root);
            }
        }
        if roots.is_empty() {
            return Err(DocumentError::NoRoot);
        }
        let refresh_hint = set.spiffe_refresh_hint.map(Duration::from_secs);
        Ok(Self { roots, sequence: set.spiffe_sequence, refresh_hint })
    }

    /// Of certificates in PEM, and a number that somebody has given them.
    pub fn of_pem(
        text: &[u8],
        sequence: Option<u64>,
        domain: &TrustDomain,
    ) -> Result<Self, DocumentError> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLong);
        }
        let (mut roots, mut seen) = (Vec::new(), BTreeSet::new());
        for (at, der) in CertificateDer::pem_slice_iter(text).enumerate() {
            let bad = |why: String| DocumentError::Pem(at + 1, why);
            let der = der.map_err(|why| bad(why.to_string()))?.to_vec();
            bundle::read(&der).map_err(bad)?;
            let certificate = leaf::parse(&der).map_err(|why| bad(why.to_string()))?;
            if let Some(name) = foreign(&certificate, domain) {
                return Err(bad(format!("it is a root of {name}, not of {domain}")));
            }
            if seen.insert(der.clone()) {
                roots.push(der);
            }
        }
        match roots.is_empty() {
            true => Err(DocumentError::NoPem),
            false => Ok(Self { roots, sequence, refresh_hint: None }),
        }
    }

    /// How often to look for a newer one, if its publisher hints at this.
    pub fn interval(hint: Option<Duration>) -> Duration {
        hint.unwrap_or(DEFAULT_REFRESH).clamp(SHORTEST_REFRESH, LONGEST_REFRESH)
    }

    pub fn to_json(&self) -> Result<String, DocumentError> {
        let jwk = |der: &Vec<u8>| {
            let certificate = leaf::parse(der).map_err(|_| DocumentError::UnknownKey)?;
            let (kty, key) = key(&certificate).ok_or(DocumentError::UnknownKey)?;
            Ok(Jwk {
                kty: kty.to_owned(),
                purpose: X509_SVID.to_owned(),
                key,
                x5c: vec![BASE64.encode(der)],
            })
        };
        let keys: Result<_, DocumentError> = self.roots.iter().map(jwk).collect();
        let set = Set {
            keys: keys?,
            spiffe_sequence: self.sequence,
            spiffe_refresh_hint: self.refresh_hint.map(|hint| hint.as_secs()),
        };
        serde_json::to_string_pretty(&set).map_err(DocumentError::Json)
    }
}

fn root(at: usize, jwk: Value, domain: &TrustDomain) -> Result<Option<Vec<u8>>, DocumentError> {
    let text = |name: &'static str| jwk[name].as_str().ok_or(DocumentError::Missing(at, name));
    let (purpose, kty) = (text("use")?, text("kty")?);
    if purpose != X509_SVID || !["EC", "RSA", "OKP"].contains(&kty) {
        return Ok(None);
    }
    let jwk: Jwk = serde_json::from_value(jwk).map_err(|why| DocumentError::Key(at, why))?;
    let Some(encoded) = jwk.x5c.first() else { return Ok(None) };
    let der = BASE64.decode(encoded.as_bytes());
    let der = der.map_err(|_| DocumentError::Encoding(at))?;
    bundle::read(&der).map_err(|why| DocumentError::Certificate(at, why))?;
    let certificate =
        leaf::parse(&der).map_err(|why| DocumentError::Certificate(at, why.to_string()))?;
    match key(&certificate) {
        Some((kty, key)) if kty == jwk.kty && key == jwk.key => {}
        _ => return Err(DocumentError::OtherKey(at)),
    }
    match foreign(&certificate, domain) {
        Some(name) => Err(DocumentError::OtherDomain(at, name, domain.clone())),
        None => Ok(Some(der)),
    }
}

/// A SPIFFE name of another trust domain that the root gives itself (X509-SVID, section 3.2).
fn foreign(root: &X509Certificate<'_>, domain: &TrustDomain) -> Option<String> {
    let own = format!("spiffe://{domain}");
    let names = root.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    uris.find(|uri| uri.starts_with("spiffe:") && *uri != own).map(str::to_owned)
}

/// The key type and parameters that a JWK has for this certificate.
fn key(certificate: &X509Certificate<'_>) -> Option<(&'static str, Key)> {
    let encode = |bytes: &[u8]| Some(BASE64URL_NOPAD.encode(bytes));
    let spki = certificate.public_key();
    if spki.algorithm.algorithm == OID_SIG_ED25519 {
        let x = encode(&spki.subject_public_key.data);
        return Some(("OKP", Key { crv: Some("Ed25519".to_owned()), x, ..Key::default() }));
    }
    match spki.parsed().ok()? {
        PublicKey::EC(point) => {
            let curve = spki.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let known = [
                (OID_EC_P256, "P-256", 32),
                (OID_NIST_EC_P384, "P-384", 48),
                (OID_NIST_EC_P521, "P-521", 66),
            ];
            let (_, name, size) = known.into_iter().find(|(oid, ..)| *oid == curve)?;
            // Uncompressed (RFC 5480, section 2.2).
            let point = point.data().strip_prefix(&[4])?;
            let (x, y) = (point.len() == 2 * size).then(|| point.split_at(size))?;
            let (x, y) = (encode(x), encode(y));
            Some(("EC", Key { crv: Some(name.to_owned()), x, y, ..Key::default() }))
        }
        PublicKey::RSA(rsa) => {
            let (n, e) = (without_zeros(rsa.modulus), without_zeros(rsa.exponent));
            Some(("RSA", Key { n: encode(n), e: encode(e), ..Key::default() }))
        }
        _ => None,
    }
}

/// As few bytes as possible (RFC 7518, section 2, Base64urlUInt).
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
