//! Endpoints of other trust domains, and the own one.

use std::path::PathBuf;

use martlet_model::{SpiffeId, TrustDomain};

use super::{Findings, Seen, text};
use crate::{
    federated::{
        BundleEndpoint, BundleEndpointShape, Federated, FederatedShape, Profile, Proof, Shows,
    },
    limits,
    mark::{At, Given, Mark},
    problem::Fault,
};

pub(super) fn federated(
    entries: &At<Vec<At<FederatedShape>>>,
    own: Option<&TrustDomain>,
    found: &mut Findings,
) -> Vec<Federated> {
    found.refuse_empty("federation", entries, "leave it out if no endpoint is followed");
    if entries.value.len() > limits::MAX_FEDERATED {
        found.note(entries.mark, Fault::ManyFederated(entries.value.len()));
    }
    let (mut seen, mut all) = (Seen::new(), Vec::new());
    for At { value, mark } in &entries.value {
        let domain = text::trust_domain(&value.trust_domain, found);
        let url = text::https_url(&value.url, found);
        let proof = proof(value, *mark, found);
        let Some(domain) = domain else { continue };
        let at = value.trust_domain.mark;
        seen.once(domain.clone(), || format!("an endpoint of {domain}"), at, found);
        if own == Some(&domain) {
            found.note(at, Fault::OwnFederated(domain.clone()));
        }
        if let (Some(url), Some(proof)) = (url, proof) {
            all.push(Federated { trust_domain: domain, url, proof });
        }
    }
    all
}

fn proof(entry: &FederatedShape, mark: Option<Mark>, found: &mut Findings) -> Option<Proof> {
    match entry.profile.value {
        Profile::HttpsWeb => {
            refuse(&entry.spiffe_id, "spiffeId", "https_spiffe", found);
            let authorities = wanted(&entry.authorities, "authorities", "https_web", mark, found)?;
            Some(Proof::Web { authorities: text::path(authorities, found)? })
        }
        Profile::HttpsSpiffe => {
            refuse(&entry.authorities, "authorities", "https_web", found);
            let text = wanted(&entry.spiffe_id, "spiffeId", "https_spiffe", mark, found)?;
            let parsed = text.value.parse::<SpiffeId>();
            let refused = |reason| Fault::Identity { text: text::shown(&text.value), reason };
            found.keep(text.mark, parsed.map_err(refused)).map(Proof::Spiffe)
        }
    }
}

pub(super) fn endpoint(
    given: &At<BundleEndpointShape>,
    found: &mut Findings,
) -> Option<BundleEndpoint> {
    let At { value, mark } = given;
    let listen = text::listen_at(&value.listen, found);
    let path = match value.path.as_ref() {
        None => Some("/bundle".to_owned()),
        Some(path) => text::url_path(path, found),
    };
    let shows = match value.profile.as_ref().map(|profile| profile.value) {
        None | Some(Profile::HttpsSpiffe) => {
            refuse(&value.certificate, "certificate", "https_web", found);
            refuse(&value.key, "key", "https_web", found);
            Some(Shows::Identity)
        }
        Some(Profile::HttpsWeb) => {
            let mut file = |given, key| -> Option<PathBuf> {
                text::path(wanted(given, key, "https_web", *mark, found)?, found)
            };
            let (certificate, key) =
                (file(&value.certificate, "certificate"), file(&value.key, "key"));
            certificate.zip(key).map(|(certificate, key)| Shows::Web { certificate, key })
        }
    };
    Some(BundleEndpoint { listen: listen?, path: path?, shows: shows? })
}

fn wanted<'a>(
    given: &'a Given<At<String>>,
    key: &'static str,
    profile: &'static str,
    mark: Option<Mark>,
    found: &mut Findings,
) -> Option<&'a At<String>> {
    let text = given.as_ref();
    if text.is_none() {
        found.note(mark, Fault::ProfileWants { key, profile });
    }
    text
}

/// What would be passed over without a word was meant to do something.
fn refuse(
    given: &Given<At<String>>,
    key: &'static str,
    profile: &'static str,
    found: &mut Findings,
) {
    if let Some(text) = given.as_ref() {
        found.note(text.mark, Fault::OtherProfile { key, profile });
    }
}
