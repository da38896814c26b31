//! The node's own certificate: how it is had at first, and renewed.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use martlet_identity::{
    Chain, Credentials, IdentityError, NodeKey, Svid, TrustBundle, Vouched, fingerprint,
    verify_chain,
};
use martlet_model::{Part, SpiffeId, Trust};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tracing::{info, warn};

use super::{
    ClientSettings, Inner,
    link::{LinkError, connect_pinned},
    proof::{Shown, Shows},
    state::{Membership, State},
};
use crate::{
    limits,
    message::{chain_from, chain_to, trust_from},
    proto::{HostProof, JoinRequest, RenewRequest, control_client::ControlClient},
};

/// A node with a certificate.
pub struct Member {
    key: NodeKey,
    pub credentials: Credentials,
}

impl Member {
    pub fn new(
        settings: &ClientSettings,
        key: NodeKey,
        chain: Chain,
        trust: &Trust,
    ) -> Result<Self, LinkError> {
        let identity = identity(settings);
        let own = Svid::new(key.signing(), chain, &identity).map_err(LinkError::Certificate)?;
        let bundle = own_roots(settings, trust).map_err(LinkError::Certificate)?;
        let credentials = Credentials::new(identity, bundle);
        credentials.install(own);
        Ok(Self { key, credentials })
    }

    pub fn trust(&self, settings: &ClientSettings, trust: &Trust) -> Result<(), IdentityError> {
        self.credentials.set_trust(own_roots(settings, trust)?);
        Ok(())
    }

    pub fn expires(&self) -> Option<SystemTime> {
        self.credentials.current().map(|own| own.not_after())
    }

    /// The fingerprint of the issuer's certificate.
    pub fn issuer(&self) -> Option<String> {
        let own = self.credentials.current()?;
        own.chain().0.get(1).map(|issuer| fingerprint(issuer))
    }

    /// Returns when the certificate was renewed: connections are to be made with the new one. An
    /// attempt that fails is made again later.
    pub async fn renew(&self, inner: &Inner, channel: Channel) -> LinkError {
        let chance: f64 = rand::random();
        let mut declared = inner.declared.subscribe();
        let mut due = match self.credentials.current() {
            Some(own) => own.renews_at(chance),
            None => SystemTime::now(),
        };
        let mut failure = String::new();
        loop {
            let now = SystemTime::now();
            let trust = declared.borrow_and_update().as_ref().map(|all| all.trust.clone());
            if trust.as_ref().is_some_and(|trust| self.is_unwanted(trust)) {
                // Never at once: a controller whose wish cannot be met would have it asked all the time.
                due = due.min(now + limits::TRUST_SPREAD.mul_f64(0.1 + 0.9 * chance));
            }
            // Now and then the clock is looked at again: it may have been set.
            let pause = due.duration_since(now).unwrap_or_default();
            if !pause.is_zero() {
                tokio::select! {
                    () = sleep(pause.min(Duration::from_secs(60))) => {}
                    changed = declared.changed() => if changed.is_err() { return LinkError::Ended },
                }
                continue;
            }
            match self.try_renew(inner, channel.clone()).await {
                Ok(()) => return LinkError::Renewed,
                Err(error) => {
                    let text = inner.explain(&error);
                    if failure != text {
                        warn!(reason = text, "the node's own certificate was not renewed");
                        failure = text;
                    }
                    let pause = limits::RENEWAL_PAUSE.mul_f64(0.5 + chance / 2.0);
                    sleep(pause).await;
                }
            }
        }
    }

    fn is_unwanted(&self, trust: &Trust) -> bool {
        trust.issuer.is_some() && trust.issuer != self.issuer()
    }

    async fn try_renew(&self, inner: &Inner, channel: Channel) -> Result<(), LinkError> {
        let csr = self.key.signing().csr().map_err(LinkError::Key)?;
        let mut client = ControlClient::new(channel);
        let asked = client.renew(RenewRequest { csr: csr.0 });
        let answer =
            timeout(limits::ANSWER_TIMEOUT, asked).await.map_err(|_| LinkError::Silent)??;
        let chain = chain_from(answer.into_inner().chain)?;
        verify_chain(&chain, self.credentials.trust(), SystemTime::now())
            .map_err(LinkError::Chain)?;
        let identity = self.credentials.identity().clone();
        let own = Svid::new(self.key.signing(), chain.clone(), &identity);
        let own = own.map_err(LinkError::Certificate)?;
        self.keep(&inner.state, chain, &inner.trust()).await?;
        self.credentials.install(own);
        info!("the node's own certificate was renewed");
        Ok(())
    }

    /// With the roots by which the controller will be known next time.
    pub async fn keep(&self, state: &State, chain: Chain, trust: &Trust) -> Result<(), LinkError> {
        let membership =
            Membership { key: self.key.clone(), chain: Some(chain), trust: trust.clone() };
        keep(state, membership).await
    }
}

/// Asks for the node's first certificate. The key is kept before, so that a token whose answer was
/// lost is good for the same node's next attempt.
pub async fn join(
    settings: &ClientSettings,
    state: &State,
    key: &NodeKey,
) -> Result<Member, LinkError> {
    let Shown { proof, pins } = settings.proof.read(&settings.node).await?;
    keep(state, Membership { key: key.clone(), chain: None, trust: Trust::default() }).await?;
    let csr = key.signing().csr().map_err(LinkError::Key)?;
    let channel = connect_pinned(&settings.controller, &settings.trust_domain, pins).await?;
    let mut request = JoinRequest { node: settings.node.to_string(), ..JoinRequest::default() };
    match proof {
        Shows::Secret(secret) => request.secret = secret.as_bytes().to_vec(),
        Shows::Account(token) => request.account_token = token.reveal().to_owned(),
        Shows::Host(host) => {
            let vouched = host.vouch(&settings.node, &csr).map_err(LinkError::Host)?;
            let Vouched { chain, scheme, signature } = vouched;
            let chain = Some(chain_to(chain));
            request.host = Some(HostProof { chain, scheme: scheme.into(), signature });
        }
    }
    request.csr = csr.0;
    let mut client = ControlClient::new(channel);
    let asked = timeout(limits::ANSWER_TIMEOUT, client.join(request)).await;
    let answer = asked.map_err(|_| LinkError::Silent)??.into_inner();
    let chain = chain_from(answer.chain)?;
    let trust = trust_from(answer.trust.unwrap_or_default())?;
    let bundle = own_roots(settings, &trust).map_err(LinkError::Certificate)?;
    verify_chain(&chain, bundle, SystemTime::now()).map_err(LinkError::Chain)?;
    let member = Member::new(settings, key.clone(), chain.clone(), &trust)?;
    member.keep(state, chain, &trust).await?;
    info!(node = %settings.node, "the node has joined");
    Ok(member)
}

async fn keep(state: &State, membership: Membership) -> Result<(), LinkError> {
    let state = state.clone();
    let kept = tokio::task::spawn_blocking(move || state.keep_membership(&membership));
    kept.await.map_err(|_| LinkError::Ended)?.map_err(LinkError::State)
}

fn identity(settings: &ClientSettings) -> SpiffeId {
    Part::Node(settings.node.clone()).identity(&settings.trust_domain)
}

/// The roots of the own trust domain: no other one's speak for the controller. Without quarantines:
/// a node that is cut off still listens, or it would not hear when it is released.
fn own_roots(settings: &ClientSettings, trust: &Trust) -> Result<Arc<TrustBundle>, IdentityError> {
    let domain = settings.trust_domain.clone();
    let roots = trust.roots.get(&domain).cloned().unwrap_or_default();
    TrustBundle::new([(domain, roots)]).map(Arc::new)
}
