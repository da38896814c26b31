//! Other trust domains: their endpoints are followed, and our own roots are published.
//!
//! What an endpoint says goes the way that `martlet trust import` goes, with the same refusals. Whatever
//! fails changes nothing of what is trusted.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::SystemTime};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use martlet_authority::trust::{Foreign, Store};
use martlet_federation::{BundleServer, Endpoint, Follower, Following, Profile, ServedBy};
use martlet_identity::{BundleDocument, Credentials, TrustBundle, endpoint::WebRoots};
use martlet_model::{
    Trust, TrustDomain,
    report::{EndpointFailure, EndpointProfile, EndpointReport},
};
use martlet_standalone::{ControllerFile, Federated, Proof, Shows};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::spawn_blocking,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    admin::chain,
    book::Book,
    members::seconds,
    web::{self, KeyPair},
};

/// The endpoints that are followed.
pub struct Federation {
    followed: BTreeMap<TrustDomain, Followed>,
    saying: Arc<Saying>,
}

struct Followed {
    url: String,
    profile: EndpointProfile,
    following: Following,
}

/// All that a controller file says of endpoints, read and found good.
pub struct Plan {
    endpoints: Vec<Endpoint>,
    own: Option<Own>,
}

struct Own {
    listen: SocketAddr,
    path: String,
    /// `None`: the controller's own certificate.
    web: Option<KeyPair>,
}

impl Plan {
    pub fn of(file: &ControllerFile) -> Result<Self> {
        let endpoints = file.federated.iter().map(endpoint).collect::<Result<_>>()?;
        let own = file.bundle_endpoint.as_ref().map(|own| {
            let web = match &own.shows {
                Shows::Identity => None,
                Shows::Web { certificate, key } => Some(KeyPair::read(certificate, key)?),
            };
            anyhow::Ok(Own { listen: own.listen, path: own.path.clone(), web })
        });
        Ok(Self { endpoints, own: own.transpose()? })
    }

    /// Follows and publishes until `shutdown`; `changed` is told whenever the trust was changed.
    pub async fn start(
        self,
        book: &Arc<Book>,
        credentials: &Arc<Credentials>,
        changed: Arc<Notify>,
        (tasks, shutdown): (&TaskTracker, &CancellationToken),
    ) -> Result<Federation> {
        let trusts = book.trusts();
        let first = trusts.borrow().clone();
        let (bundle, document) = told(&first, &book.trust_domain)?;
        let (bundle, document) = (watch::Sender::new(bundle), watch::Sender::new(document));
        let own = book.trust_domain.clone();
        let saying = Arc::new(Saying { trusts: trusts.clone(), own, bundle, document });
        let mut followed = BTreeMap::new();
        for endpoint in self.endpoints {
            let (domain, url) = (endpoint.domain.clone(), endpoint.url.to_string());
            let profile = match &endpoint.profile {
                Profile::Web(_) => EndpointProfile::HttpsWeb,
                Profile::Spiffe(_) => EndpointProfile::HttpsSpiffe,
            };
            let known = book.look_at_store(|store| store.foreign().remove(&domain));
            let hint = known.and_then(|known| known.refresh_hint);
            let trust = saying.bundle.subscribe();
            let (follower, following) = Follower::new(endpoint, &book.trust_domain, hint, trust)?;
            let (book, changed) = (book.clone(), changed.clone());
            let source = (domain.clone(), url.clone());
            let take = move |document| {
                let (book, changed) = (book.clone(), changed.clone());
                take(book, changed, source.clone(), document)
            };
            tasks.spawn(follower.run(take, shutdown.clone()));
            followed.insert(domain, Followed { url, profile, following });
        }
        if let Some(own) = self.own {
            let listener = TcpListener::bind(own.listen).await;
            let listener = listener
                .with_context(|| format!("listening at {} as bundle endpoint", own.listen))?;
            let served_by = match own.web {
                None => ServedBy::Identity(credentials.clone()),
                Some(pair) => {
                    let shown = watch::Sender::new(pair.certificate.clone());
                    let served_by = ServedBy::Web(shown.subscribe());
                    tasks
                        .spawn(shutdown.clone().run_until_cancelled_owned(web::renew(pair, shown)));
                    served_by
                }
            };
            let document = saying.document.subscribe();
            let server = BundleServer { listener, served_by, path: own.path, document };
            tasks.spawn(server.run(shutdown.clone()));
        }
        let always = saying.clone().always(trusts);
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(always));
        Ok(Federation { followed, saying })
    }
}

fn endpoint(federated: &Federated) -> Result<Endpoint> {
    let Federated { trust_domain, url, proof } = federated;
    let of = || format!("the bundle endpoint of {trust_domain}");
    let profile = match proof {
        Proof::Spiffe(identity) => Profile::Spiffe(identity.clone()),
        Proof::Web { authorities } => {
            let text = web::read(authorities).with_context(of)?;
            let roots = WebRoots::from_pem(&text);
            let named = || format!("{}: reading {}", of(), authorities.display());
            Profile::Web(roots.with_context(named)?)
        }
    };
    let url = url.parse().with_context(of)?;
    Ok(Endpoint { domain: trust_domain.clone(), url, profile })
}

/// Keeps what a document says, if it may be believed.
async fn take(
    book: Arc<Book>,
    changed: Arc<Notify>,
    (domain, url): (TrustDomain, String),
    document: BundleDocument,
) -> Result<(), String> {
    let BundleDocument { roots, sequence, refresh_hint } = document;
    let now = SystemTime::now();
    let foreign = Foreign { roots, sequence, refresh_hint, fetched: now, source: url };
    let taken = spawn_blocking(move || {
        book.with_store(|store| {
            let before = store.trust().version;
            store.refresh(&domain, &foreign, now)?;
            Ok::<_, martlet_authority::trust::TrustError>(store.trust().version != before)
        })
        .inspect(|is_news| {
            if *is_news {
                let (url, roots) = (&foreign.source, foreign.roots.len());
                info!(%domain, url, roots, ?sequence, "new roots of a federated domain");
            }
        })
    });
    match taken.await.map_err(|_| "the controller is stopping".to_owned())? {
        Ok(true) => changed.notify_one(),
        Ok(false) => {}
        Err(refused) => return Err(chain(&refused)),
    }
    Ok(())
}

/// Who proves endpoints, and what ours publishes.
struct Saying {
    trusts: watch::Receiver<Arc<Trust>>,
    own: TrustDomain,
    bundle: watch::Sender<Arc<TrustBundle>>,
    document: watch::Sender<Bytes>,
}

impl Saying {
    /// Whenever the trust has changed.
    async fn always(self: Arc<Self>, mut trusts: watch::Receiver<Arc<Trust>>) {
        while trusts.changed().await.is_ok() {
            self.say();
        }
    }

    /// As it is now.
    fn say(&self) {
        let trust = self.trusts.borrow().clone();
        match told(&trust, &self.own) {
            Ok((now, published)) => {
                self.bundle.send_replace(now);
                self.document.send_replace(published);
            }
            Err(error) => {
                let error = format!("{error:#}");
                warn!(error, "the bundle endpoint publishes what it did before");
            }
        }
    }
}

fn told(trust: &Trust, own: &TrustDomain) -> Result<(Arc<TrustBundle>, Bytes)> {
    let bundle = TrustBundle::new(trust.roots.clone())?;
    let document = published(trust, own).map_err(|error| anyhow!(chain(&error)))?;
    Ok((Arc::new(bundle), document.into()))
}

/// Our own roots, for others.
pub fn published(
    trust: &Trust,
    own: &TrustDomain,
) -> Result<String, martlet_identity::DocumentError> {
    let roots = trust.roots.get(own).cloned().unwrap_or_default();
    let (sequence, refresh_hint) = (Some(trust.version), Some(martlet_authority::REFRESH_HINT));
    BundleDocument { roots, sequence, refresh_hint }.to_json()
}

impl Federation {
    /// Whether its endpoint is followed.
    pub fn follows(&self, domain: &TrustDomain) -> bool {
        self.followed.contains_key(domain)
    }

    /// Looks at a domain's endpoint now.
    pub async fn look(&self, domain: &TrustDomain) -> Result<(), String> {
        let Some(Followed { following, .. }) = self.followed.get(domain) else {
            return Err(format!(
                "no bundle endpoint of {domain} is followed; the controller file says which are \
                 (`federation`)"
            ));
        };
        // What somebody has imported just now proves it already.
        self.saying.say();
        let busy = || "too many ask for it at once; try again".to_owned();
        following.look().await.ok_or_else(busy)?
    }

    /// `store` says what came of it.
    pub fn report(&self, store: &Store, now: SystemTime) -> Vec<EndpointReport> {
        let known = store.foreign();
        let report = |(domain, followed): (&TrustDomain, &Followed)| {
            let seen = followed.following.followed().borrow().clone();
            let fetched = known.get(domain).map(|foreign| foreign.fetched);
            let hint = known.get(domain).and_then(|foreign| foreign.refresh_hint);
            let age = fetched.map(|at| now.duration_since(at).unwrap_or_default());
            EndpointReport {
                trust_domain: domain.clone(),
                url: followed.url.clone(),
                profile: followed.profile,
                confirmed: seen.confirmed.map(seconds),
                looks: seen.looks,
                looks_failed: seen.failed,
                failure: seen.failure.map(|failure| EndpointFailure {
                    reason: failure.reason,
                    since: seconds(failure.since),
                    looks: failure.looks,
                }),
                is_removed: store.is_removed(domain),
                is_stale: !store.is_removed(domain)
                    && age.is_none_or(|age| age > 3 * BundleDocument::interval(hint)),
            }
        };
        self.followed.iter().map(report).collect()
    }
}
