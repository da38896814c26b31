//! The two methods: who may call them, and the streams that they answer with.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::warn;

use crate::{
    Counts, Material,
    caller::Admitted,
    proto::{
        X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::SpiffeWorkloadApi,
    },
};

/// Whoever is made to send a request to a URL of somebody else's choice can't send this (SPIFFE
/// Workload Endpoint, section 6.1).
const HEADER: &str = "workload.spiffe.io";

#[derive(Clone)]
pub struct Service {
    pub material: watch::Receiver<Option<Arc<Material>>>,
    pub counts: Arc<Counts>,
    pub shutdown: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.admit(&request)?;
        Ok(Response::new(self.follow(|material| {
            material.svids().map_err(|error| {
                warn!(%error, identity = %material.identity, "SVID not handed out");
                Status::internal("the key cannot be handed out")
            })
        })))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.admit(&request)?;
        Ok(Response::new(self.follow(|material| Ok(material.bundles()))))
    }
}

impl Service {
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let is_admitted = request.extensions().get().is_some_and(|Admitted(admitted)| *admitted);
        let has_header = request.metadata().get(HEADER).is_some_and(|value| value == "true");
        let refusal = match (has_header, is_admitted) {
            (true, true) => {
                self.counts.calls.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            (false, _) => {
                Status::invalid_argument("the header workload.spiffe.io: true is missing")
            }
            (true, false) => no_identity(),
        };
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        Err(refusal)
    }

    /// What is known now, and then each change. Ends when there is no identity any more.
    fn follow<T: Send + 'static>(
        &self,
        say: impl Fn(&Material) -> Result<T, Status> + Send + 'static,
    ) -> Answers<T> {
        let Self { mut material, shutdown, .. } = self.clone();
        material.mark_changed();
        let first = Some(Following { material, shutdown, say, has_said: false });
        Box::pin(stream::unfold(first, |following| async { following?.next().await }))
    }
}

struct Following<F> {
    material: watch::Receiver<Option<Arc<Material>>>,
    shutdown: CancellationToken,
    say: F,
    has_said: bool,
}

impl<F> Following<F> {
    /// The next answer, and what follows it: nothing after an error.
    async fn next<T>(mut self) -> Option<(Result<T, Status>, Option<Self>)>
    where
        F: Fn(&Material) -> Result<T, Status>,
    {
        loop {
            match self.shutdown.run_until_cancelled(self.material.changed()).await {
                // Nobody would say anything to whoever connects again.
                None if self.material.has_changed().is_err() => {
                    return Some((Err(no_identity()), None));
                }
                None => return Some((Err(Status::unavailable("the agent ends")), None)),
                Some(Err(_)) => return Some((Err(no_identity()), None)),
                Some(Ok(())) => {}
            }
            let now = self.material.borrow_and_update().clone();
            match now {
                Some(material) => {
                    self.has_said = true;
                    let said = (self.say)(&material);
                    let goes_on = said.is_ok();
                    return Some((said, goes_on.then_some(self)));
                }
                None if self.has_said => return Some((Err(no_identity()), None)),
                // Its first certificate is on its way.
                None => {}
            }
        }
    }
}

/// The words by which clients know it.
fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}
