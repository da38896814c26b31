//! From a request to the public key that it proves, and to nothing else.

use martlet_identity::Csr;
use rcgen::SubjectPublicKeyInfo;
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
        OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
    },
    prelude::FromDer as _,
    x509::SubjectPublicKeyInfo as Info,
};

use crate::{BadRequest, limits::CSR_BYTES};

/// SEC 1, section 2.3.3: one byte that says "uncompressed", and two coordinates.
const UNCOMPRESSED: u8 = 4;

/// The key's kind is judged before its signature, so that each refusal has its own reason.
pub fn read(csr: &Csr) -> Result<SubjectPublicKeyInfo, BadRequest> {
    if csr.0.len() > CSR_BYTES {
        return Err(BadRequest::TooLong(csr.0.len()));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&csr.0).map_err(|_| BadRequest::Unreadable)?;
    if !rest.is_empty() {
        return Err(BadRequest::Unreadable);
    }
    let info = &request.certification_request_info.subject_pki;
    check_kind(info)?;
    request.verify_signature().map_err(|_| BadRequest::NotProven)?;
    SubjectPublicKeyInfo::from_der(info.raw).map_err(|_| BadRequest::Kind)
}

fn check_kind(info: &Info<'_>) -> Result<(), BadRequest> {
    let kind = &info.algorithm.algorithm;
    if *kind == OID_SIG_ED25519 {
        return Err(BadRequest::Ed25519);
    }
    if *kind == OID_PKCS1_RSAENCRYPTION {
        return Err(BadRequest::Rsa);
    }
    if *kind != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return Err(BadRequest::Kind);
    }
    let curve = info.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    // Curves that are written out, without a name, are the way to a curve with a back door.
    let curve = curve.ok_or(BadRequest::Curve)?;
    let coordinate = match curve {
        curve if curve == OID_EC_P256 => 32,
        curve if curve == OID_NIST_EC_P384 => 48,
        curve if curve == OID_NIST_EC_P521 => return Err(BadRequest::P521),
        _ => return Err(BadRequest::Curve),
    };
    let point: &[u8] = &info.subject_public_key.data;
    match point.first() {
        Some(&UNCOMPRESSED) if point.len() == 1 + 2 * coordinate => Ok(()),
        _ => Err(BadRequest::Point),
    }
}

#[cfg(test)]
mod tests {
    use martlet_identity::SigningKey;
    use rcgen::PublicKeyData as _;

    use super::*;

    #[test]
    fn no_single_bit_of_a_request_can_be_changed() {
        let good = SigningKey::generate().unwrap().csr().unwrap();
        let key = read(&good).unwrap();
        for bit in 0..good.0.len() * 8 {
            let mut changed = good.clone();
            changed.0[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = read(&changed) {
                assert_eq!(other.der_bytes(), key.der_bytes(), "bit {bit}");
            }
        }
        for length in 0..good.0.len() {
            assert!(read(&Csr(good.0[..length].to_vec())).is_err(), "{length} bytes");
        }
    }
}
