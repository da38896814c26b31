//! What a controller file says about other trust domains: whose endpoints are followed, and how the
//! own one is served.

use std::{net::SocketAddr, path::PathBuf};

use martlet_model::{SpiffeId, TrustDomain};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    file::{ADDRESS_AND_PORT, PATH, TRUST_DOMAIN},
    mark::{At, Given},
};

/// Where another trust domain publishes its roots.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FederatedShape {
    /// Whose roots they are.
    #[schemars(regex(pattern = TRUST_DOMAIN), length(max = 255))]
    pub(crate) trust_domain: At<String>,
    /// The bundle endpoint.
    #[schemars(regex(pattern = "^https://"), length(max = 2048))]
    pub(crate) url: At<String>,
    /// How the endpoint proves itself.
    pub(crate) profile: At<Profile>,
    /// With `https_spiffe`: the identity that it has to prove, by a bundle that was imported.
    #[serde(default)]
    #[schemars(regex(pattern = "^spiffe://"), length(max = 2048))]
    pub(crate) spiffe_id: Given<At<String>>,
    /// With `https_web`: a file of the authorities that prove the host's name, PEM.
    #[serde(default)]
    #[schemars(regex(pattern = PATH))]
    pub(crate) authorities: Given<At<String>>,
}

/// Where the own roots are published.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BundleEndpointShape {
    /// Where callers are listened for.
    #[schemars(regex(pattern = ADDRESS_AND_PORT), length(max = 64))]
    pub(crate) listen: At<String>,
    /// The only path that is answered.
    #[serde(default)]
    #[schemars(regex(pattern = PATH), length(max = 255), extend("default" = "/bundle"))]
    pub(crate) path: Given<At<String>>,
    /// How the endpoint proves itself.
    #[serde(default)]
    #[schemars(extend("default" = "https_spiffe"))]
    pub(crate) profile: Given<At<Profile>>,
    /// With `https_web`: the file of the chain, PEM, leaf first. Read again when it changes.
    #[serde(default)]
    #[schemars(regex(pattern = PATH))]
    pub(crate) certificate: Given<At<String>>,
    /// With `https_web`: the file of its key, PEM, which nobody but its owner may read.
    #[serde(default)]
    #[schemars(regex(pattern = PATH))]
    pub(crate) key: Given<At<String>>,
}

/// The profiles of SPIFFE Federation, section 5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Profile {
    /// The host's name is proven by authorities of the web.
    HttpsWeb,
    /// A SPIFFE ID is proven by a bundle that is held already.
    HttpsSpiffe,
}

/// Another trust domain whose endpoint is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federated {
    pub trust_domain: TrustDomain,
    pub url: String,
    pub proof: Proof,
}

/// By what another domain's endpoint is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    Web { authorities: PathBuf },
    Spiffe(SpiffeId),
}

/// How the own roots are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleEndpoint {
    pub listen: SocketAddr,
    pub path: String,
    pub shows: Shows,
}

/// What the own endpoint proves itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shows {
    /// The controller's own certificate.
    Identity,
    Web {
        certificate: PathBuf,
        key: PathBuf,
    },
}
