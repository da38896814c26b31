//! What our certificates look like.

use std::time::SystemTime;

use aws_lc_rs::rand;
use martlet_model::{Label, SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType,
    SerialNumber,
};
use time::OffsetDateTime;

use crate::{
    AuthorityError, LeafRequest,
    limits::{BACKDATED, ISSUER_LIFETIME, ROOT_LIFETIME},
};

/// UID, RFC 4519, section 2.39: here that of the pod.
const UID: &[u64] = &[0, 9, 2342, 19_200_300, 100, 1, 1];

pub fn root(domain: &TrustDomain, now: SystemTime) -> Result<CertificateParams, AuthorityError> {
    let mut root = authority(domain, "root", 1)?;
    validity(&mut root, now, now + ROOT_LIFETIME);
    Ok(root)
}

/// Below it there are leaves only. It names the one trust domain that it is for (X509-SVID,
/// section 4.1), and can sign neither for host names nor for addresses: a stolen issuer makes no web
/// server's certificate. That names are constrained to the trust domain's URIs is not possible: the
/// verifiers refuse any chain with such a constraint.
pub fn issuer(
    domain: &TrustDomain,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut issuer = authority(domain, "issuer", 0)?;
    issuer.use_authority_key_identifier_extension = true;
    issuer.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![],
        excluded_subtrees: vec![
            GeneralSubtree::DnsName(String::new()),
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    validity(&mut issuer, now, not_after.min(now + ISSUER_LIFETIME));
    Ok(issuer)
}

/// What is asked for an issuer of whoever keeps the root.
pub fn wanted(domain: &TrustDomain) -> Result<CertificateParams, AuthorityError> {
    let mut wanted = authority(domain, "issuer", 0)?;
    // A request has none.
    wanted.serial_number = None;
    Ok(wanted)
}

fn authority(
    domain: &TrustDomain,
    what: &str,
    below: u8,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = params(name(&format!("{domain} {what}")))?;
    let uri = format!("spiffe://{domain}").try_into().map_err(AuthorityError::Make)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Exactly one URI name; pod, node and UID in the subject, for people, logs and quarantines.
pub fn leaf(
    request: &LeafRequest,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut subject = name(&request.workload.to_string());
    subject.push(DnType::OrganizationalUnitName, request.node.as_str());
    if let Some(uid) = &request.uid {
        subject.push(DnType::from_oid(UID), uid.as_str());
    }
    end_entity(subject, &request.identity, now, not_after)
}

/// A certificate of ours in the control plane.
pub fn part(
    identity: &SpiffeId,
    node: Option<&Label>,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut subject = name(node.map_or("controller", Label::as_str));
    if let Some(node) = node {
        subject.push(DnType::OrganizationalUnitName, node.as_str());
    }
    end_entity(subject, identity, now, not_after)
}

fn end_entity(
    subject: DistinguishedName,
    identity: &SpiffeId,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut leaf = params(subject)?;
    let uri = identity.as_str().try_into().map_err(AuthorityError::Make)?;
    leaf.subject_alt_names = vec![SanType::URI(uri)];
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.use_authority_key_identifier_extension = true;
    validity(&mut leaf, now, not_after);
    Ok(leaf)
}

fn params(subject: DistinguishedName) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.serial_number = Some(serial()?);
    Ok(params)
}

/// By chance: two certificates for one key are told apart, too. Positive, and never zero (RFC 5280,
/// section 4.1.2.2).
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| AuthorityError::Make(rcgen::Error::RingUnspecified))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
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
