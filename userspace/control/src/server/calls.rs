//! The calls: who may make them, and their bounds.

use std::{sync::Arc, time::SystemTime};

use martlet_identity::Vouched;
use martlet_model::Label;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::{
    Joined, Joining, JoiningBy, NodeCaller, Office, Refusal, Shared, accept::Caller, following,
    issuing,
};
use crate::{
    AccountToken, Secret, Telling, limits,
    message::{Malformed, chain_from, chain_to, csr_from, parsed, trust_to},
    proto::{
        CertificateRequest, CertificateResponse, FromAgent, HostProof, JoinRequest, JoinResponse,
        RenewRequest, RenewResponse, TimeRequest, TimeResponse, control_server::Control,
    },
};

pub struct Calls<O>(pub Arc<Shared<O>>);

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl<O: Office> Control for Calls<O> {
    type FollowStream = Answers<Telling>;
    type IssueStream = Answers<CertificateResponse>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        if !self.0.joins.try_take() {
            return Err(Status::resource_exhausted("too many want to join; try again later"));
        }
        let joining = joining(request.into_inner())?;
        let node = joining.node.clone();
        let Joined { chain, trust } = self.0.office.join(joining).await.map_err(refused)?;
        // Whoever was this node before is it no more.
        self.0.roster.expel(&node);
        info!(%node, "a node has joined");
        let (chain, trust) = (Some(chain_to(chain)), Some(trust_to(&trust)));
        Ok(Response::new(JoinResponse { chain, trust }))
    }

    async fn follow(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Answers<Telling>>, Status> {
        let node = self.node(&request)?;
        let (to_agent, told) = mpsc::channel(limits::QUEUE);
        let shared = self.0.clone();
        self.0.tasks.spawn(following::run(shared, node, request.into_inner(), to_agent));
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn issue(
        &self,
        request: Request<Streaming<CertificateRequest>>,
    ) -> Result<Response<Answers<CertificateResponse>>, Status> {
        let node = self.node(&request)?;
        let desk = self.0.roster.desk(&node.node, SystemTime::now());
        let Ok(place) = desk.streams.clone().try_acquire_owned() else {
            return Err(Status::resource_exhausted("this node asks in too many streams already"));
        };
        let (to_agent, told) = mpsc::channel(limits::QUEUE);
        let asked = request.into_inner();
        let shared = self.0.clone();
        self.0.tasks.spawn(async move {
            issuing::run(&shared, &node, &desk, asked, to_agent).await;
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let node = self.node(&request)?;
        let desk = self.0.roster.desk(&node.node, SystemTime::now());
        if !desk.pace.try_take() {
            return Err(Status::resource_exhausted("this node asks too often; try again later"));
        }
        let csr = csr_from(request.into_inner().csr).map_err(malformed)?;
        let chain = self.0.office.renew(&node, csr).await.map_err(refused)?;
        Ok(Response::new(RenewResponse { chain: Some(chain_to(chain)) }))
    }

    async fn time(&self, request: Request<TimeRequest>) -> Result<Response<TimeResponse>, Status> {
        let node = self.node(&request)?;
        let now = SystemTime::now();
        if !self.0.roster.desk(&node.node, now).pace.try_take() {
            return Err(Status::resource_exhausted("this node asks too often; try again later"));
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(TimeResponse { unix_ms }))
    }
}

impl<O: Office> Calls<O> {
    /// The node that the client's certificate names, if it still is one.
    fn node<T>(&self, request: &Request<T>) -> Result<NodeCaller, Status> {
        match request.extensions().get::<Caller>() {
            Some(Caller::Node(node)) => {
                self.0.office.admit(node).map_err(refused)?;
                Ok(node.clone())
            }
            Some(Caller::Nobody) | None => {
                Err(Status::unauthenticated("this call needs the certificate of a node"))
            }
        }
    }
}

fn joining(request: JoinRequest) -> Result<Joining, Status> {
    let JoinRequest { secret, node, csr, account_token, host } = request;
    let no = |what| Err(Status::invalid_argument(what));
    let by = match (secret.is_empty(), account_token.is_empty(), host) {
        (false, true, None) => match Secret::from_bytes(secret) {
            Some(secret) => JoiningBy::Secret(secret),
            None => return no("secret: it is not of a join token"),
        },
        (true, false, None) => match AccountToken::new(&account_token) {
            Some(token) => JoiningBy::Account(token),
            None => return no("account_token: it is no service account's"),
        },
        (true, true, Some(HostProof { chain, scheme, signature })) => {
            let Ok(scheme) = scheme.try_into() else {
                return no("host.scheme: it is no signature scheme");
            };
            let chain = chain_from(chain).map_err(malformed)?;
            JoiningBy::Host(Vouched { chain, scheme, signature })
        }
        _ => return no("a node joins by a secret, a service account or a host's certificate"),
    };
    let node: Label = parsed("node", &node).map_err(malformed)?;
    let csr = csr_from(csr).map_err(malformed)?;
    Ok(Joining { by, node, csr })
}

pub fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::NotYours(reason) | Refusal::Quarantined(reason) => {
            Status::permission_denied(reason)
        }
        Refusal::BadRequest(reason) => Status::invalid_argument(reason),
        Refusal::Unavailable(reason) => Status::unavailable(reason),
    }
}

pub fn malformed(bad: Malformed) -> Status {
    Status::invalid_argument(bad.to_string())
}
