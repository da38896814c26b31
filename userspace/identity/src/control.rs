//! The handshakes of the control plane: a node calls its controller, and a controller answers nodes,
//! and those who want to become one.
//!
//! The parameters are those of lanes. What differs is who may be met: a controller or a node of the
//! own trust domain, and no workload.

use std::time::SystemTime;

use martlet_model::TrustDomain;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    CONTROL_PROTOCOL, Credentials, HandshakeError, Peer, RootPin, Secured,
    expected::{Expected, Roots},
    handshake::{accept, connect, usable},
    verify::Verifier,
};

/// Calls the controller of the node's own trust domain.
pub async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    node: &Credentials,
) -> Result<Secured<S>, HandshakeError> {
    let now = SystemTime::now();
    let generation = node.generation();
    let own = usable(node, now)?;
    let controller = Expected::ControllerOf(node.identity().trust_domain());
    let verifier = Verifier::new(Roots::Bundle(node.trust()), controller);
    connect(transport, CONTROL_PROTOCOL, Some(own), verifier, generation, &[], now).await
}

/// Calls the controller of `domain` without a certificate. It must show a root with one of these
/// fingerprints, and be proven by it.
pub async fn call_pinned<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    domain: &TrustDomain,
    pins: Vec<RootPin>,
) -> Result<Secured<S>, HandshakeError> {
    let controller = Expected::ControllerOf(domain.clone());
    let verifier = Verifier::new(Roots::Pinned(pins), controller);
    connect(transport, CONTROL_PROTOCOL, None, verifier, 0, &[], SystemTime::now()).await
}

/// Answers a node of the controller's own trust domain, or nobody, who wants to become one.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    transport: S,
    controller: &Credentials,
) -> Result<Secured<S, Option<Peer>>, HandshakeError> {
    let now = SystemTime::now();
    let generation = controller.generation();
    let own = usable(controller, now)?;
    let nodes = Expected::NodeOf(controller.identity().trust_domain());
    let verifier = Verifier::new(Roots::Bundle(controller.trust()), nodes);
    accept(transport, CONTROL_PROTOCOL, &own, verifier, generation, now).await
}
