//! What a workload is given, and how the messages of the API say it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use martlet_identity::{Chain, HandedKey, IdentityError};
use martlet_model::{SpiffeId, TrustDomain};
use zeroize::Zeroize as _;

use crate::proto::{X509BundlesResponse, X509svid, X509svidResponse};

/// An identity with its proof, and whom to believe.
#[derive(Debug, Clone)]
pub struct Material {
    pub identity: SpiffeId,
    pub chain: Chain,
    /// Made for the API: the key of the workload's lanes never leaves the agent.
    pub key: Arc<HandedKey>,
    /// DER, by trust domain; the workload's own among them.
    pub bundles: BTreeMap<TrustDomain, Vec<Vec<u8>>>,
}

impl Material {
    pub(crate) fn svids(&self) -> Result<X509svidResponse, IdentityError> {
        let own = self.identity.trust_domain();
        let svid = X509svid {
            spiffe_id: self.identity.to_string(),
            x509_svid: self.chain.0.concat(),
            x509_svid_key: self.key.to_pkcs8()?.to_vec(),
            bundle: self.bundles.get(&own).map(|roots| roots.concat()).unwrap_or_default(),
            hint: String::new(),
        };
        let federated = self.bundles.iter().filter(|(domain, _)| **domain != own);
        Ok(X509svidResponse {
            svids: vec![svid],
            crl: Vec::new(),
            federated_bundles: federated.map(named).collect(),
        })
    }

    pub(crate) fn bundles(&self) -> X509BundlesResponse {
        let bundles: HashMap<_, _> = self.bundles.iter().map(named).collect();
        X509BundlesResponse { crl: Vec::new(), bundles }
    }
}

fn named((domain, roots): (&TrustDomain, &Vec<Vec<u8>>)) -> (String, Vec<u8>) {
    (format!("spiffe://{domain}"), roots.concat())
}

/// The message ends when it has been written into the connection's buffer.
impl Drop for X509svid {
    fn drop(&mut self) {
        self.x509_svid_key.zeroize();
    }
}
