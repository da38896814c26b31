//! One stream of requests for certificates: in batches, at the node's pace, and never at the cost of
//! other nodes.
//!
//! Whoever asks faster than the pace is not read from meanwhile: TCP makes it wait.

use futures_util::StreamExt as _;
use martlet_identity::Chain;
use tokio::{sync::mpsc::Sender, time::timeout};
use tonic::{Status, Streaming};

use super::{NodeCaller, Office, Refusal, Shared, roster::Desk};
use crate::{
    Ask, limits,
    message::{Malformed, chain_to, csr_from, cut, name_from},
    proto::{
        self, CertificateRequest, CertificateResponse, certificate_response::Outcome, refusal::Code,
    },
};

type Told = Sender<Result<CertificateResponse, Status>>;

pub async fn run<O: Office>(
    shared: &Shared<O>,
    node: &NodeCaller,
    desk: &Desk,
    asked: Streaming<CertificateRequest>,
    told: Told,
) {
    let serving = serve(shared, node, desk, asked, &told);
    let ended = tokio::select! {
        ended = serving => ended,
        () = told.closed() => return,
        () = desk.closed.cancelled() => Err(Status::permission_denied("the node was removed")),
        () = shared.shutdown.cancelled() => Err(Status::unavailable("the controller is stopping")),
    };
    if let Err(status) = ended {
        let _ = told.try_send(Err(status));
    }
}

async fn serve<O: Office>(
    shared: &Shared<O>,
    node: &NodeCaller,
    desk: &Desk,
    asked: Streaming<CertificateRequest>,
    told: &Told,
) -> Result<(), Status> {
    let mut batches = asked.ready_chunks(limits::ISSUE_BATCH);
    loop {
        let next = timeout(limits::ISSUE_IDLE, batches.next()).await;
        let next = next.map_err(|_| Status::deadline_exceeded("nothing was asked for"))?;
        let Some(batch) = next else { return Ok(()) };
        desk.pace.take(batch.len()).await;
        let (mut numbers, mut asks) = (Vec::new(), Vec::new());
        for request in batch {
            let request = request?;
            let number = request.number;
            match ask(request) {
                Ok(ask) => {
                    numbers.push(number);
                    asks.push(ask);
                }
                Err(bad) => {
                    answer(told, number, Err(Refusal::BadRequest(bad.to_string()))).await?;
                }
            }
        }
        let answers = {
            // Nobody closes this semaphore.
            let _turn = shared.signers.acquire().await;
            shared.office.issue(node, asks).await
        };
        for (number, outcome) in numbers.into_iter().zip(answers) {
            answer(told, number, outcome).await?;
        }
    }
}

fn ask(request: CertificateRequest) -> Result<Ask, Malformed> {
    Ok(Ask { workload: name_from(request.workload)?, csr: csr_from(request.csr)? })
}

async fn answer(told: &Told, number: u64, outcome: Result<Chain, Refusal>) -> Result<(), Status> {
    let outcome = match outcome {
        Ok(chain) => Outcome::Chain(chain_to(chain)),
        Err(refusal) => Outcome::Refusal(refusal_to(&refusal)),
    };
    let response = CertificateResponse { number, outcome: Some(outcome) };
    let sent = told.send_timeout(Ok(response), limits::SLOW_READER).await;
    sent.map_err(|_| Status::deadline_exceeded("the answers are not read"))
}

fn refusal_to(refusal: &Refusal) -> proto::Refusal {
    let code = match refusal {
        Refusal::NotYours(_) => Code::NotYours,
        Refusal::BadRequest(_) => Code::BadRequest,
        Refusal::Quarantined(_) => Code::Quarantined,
        Refusal::Unavailable(_) => Code::Unavailable,
    };
    proto::Refusal { code: code.into(), reason: cut(&refusal.to_string()) }
}
