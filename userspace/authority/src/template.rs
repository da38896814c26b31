//! What our certificates look like.

use std::time::{Duration, SystemTime};

use martlet_model::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::{AuthorityError, LeafRequest};

/// Clocks of nodes differ a little; a leaf is good at once on all of them.
pub const BACKDATED: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 86_400);
/// Long, while issuers do not renew themselves yet.
pub const ISSUER_LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());

pub fn root(domain: &TrustDomain, now: SystemTime) -> CertificateParams {
    let mut root = CertificateParams::default();
    root.distinguished_name = name(&format!("{domain} root"));
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut root, now, now + ROOT_LIFETIME);
    root
}

pub fn issuer(domain: &TrustDomain, now: SystemTime) -> CertificateParams {
    let mut issuer = root(domain, now);
    issuer.distinguished_name = name(&format!("{domain} issuer"));
    issuer.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    issuer.use_authority_key_identifier_extension = true;
    validity(&mut issuer, now, now + ISSUER_LIFETIME);
    issuer
}

/// Exactly one URI name, and the pod and node in the subject, for people and logs.
pub fn leaf(
    request: &LeafRequest,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut leaf = CertificateParams::default();
    let mut subject = name(&request.workload.to_string());
    subject.push(DnType::OrganizationalUnitName, request.node.as_str());
    leaf.distinguished_name = subject;
    let uri = request.identity.as_str().try_into().map_err(AuthorityError::Make)?;
    leaf.subject_alt_names = vec![SanType::URI(uri)];
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.use_authority_key_identifier_extension = true;
    validity(&mut leaf, now, not_after);
    Ok(leaf)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn validity(params: &mut CertificateParams, now: SystemTime, not_after: SystemTime) {
    params.not_before = OffsetDateTime::from(now - BACKDATED);
    params.not_after = OffsetDateTime::from(not_after);
}
