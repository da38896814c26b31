//! Asking for certificates: all in one stream, answered one by one.

use martlet_identity::Chain;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Channel;
use tracing::debug;

use super::{Ask, Inner, IssueError};
use crate::{
    limits,
    message::{chain_from, cut, name_to},
    proto::{
        CertificateRequest, CertificateResponse, Refusal, certificate_response::Outcome,
        control_client::ControlClient, refusal::Code,
    },
};

/// In the order of `asks`. What has no answer when the time is over is unreachable.
pub async fn issue(inner: &Inner, asks: Vec<Ask>) -> Vec<Result<Chain, IssueError>> {
    let mut answers: Vec<Option<_>> = asks.iter().map(|_| None).collect();
    let why = match channel(inner).await {
        Ok(channel) => {
            let until = Instant::now() + limits::ANSWER_TIMEOUT;
            match timeout_at(until, collect(channel, asks, &mut answers)).await {
                Ok(Ok(())) => "the controller left it unanswered".to_owned(),
                Ok(Err(status)) => format!("{}: {}", status.code(), cut(status.message())),
                Err(_) => format!("no answer within {} s", limits::ANSWER_TIMEOUT.as_secs()),
            }
        }
        Err(why) => why,
    };
    let unreachable = || Err(IssueError::Unreachable(why.clone()));
    answers.into_iter().map(|answer| answer.unwrap_or_else(unreachable)).collect()
}

/// The connection that there is, or will be soon.
async fn channel(inner: &Inner) -> Result<Channel, String> {
    let mut channels = inner.channel.subscribe();
    let there = timeout(limits::LINK_PATIENCE, channels.wait_for(Option::is_some)).await;
    match there {
        Ok(Ok(channel)) => channel.clone().ok_or_else(|| "there is no connection".to_owned()),
        _ => Err(inner.link.borrow().connected.clone().err().unwrap_or_default()),
    }
}

async fn collect(
    channel: Channel,
    asks: Vec<Ask>,
    answers: &mut [Option<Result<Chain, IssueError>>],
) -> Result<(), tonic::Status> {
    let requests = (0..).zip(asks).map(|(number, ask)| CertificateRequest {
        number,
        workload: Some(name_to(&ask.workload)),
        csr: ask.csr.0,
    });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut client =
        ControlClient::new(channel).max_decoding_message_size(limits::AGENT_MESSAGE_BYTES);
    let mut told = client.issue(requests).await?.into_inner();
    let mut open = answers.len();
    while open > 0 {
        let Some(response) = told.message().await? else { return Ok(()) };
        let place = usize::try_from(response.number).ok().and_then(|at| answers.get_mut(at));
        match place {
            Some(answer @ None) => {
                *answer = Some(read(response));
                open -= 1;
            }
            Some(Some(_)) | None => debug!(number = response.number, "nobody asked for this"),
        }
    }
    Ok(())
}

fn read(response: CertificateResponse) -> Result<Chain, IssueError> {
    let Refusal { code, reason } = match response.outcome {
        Some(Outcome::Chain(chain)) => {
            let malformed =
                |bad| IssueError::Unreachable(format!("its answer is malformed: {bad}"));
            return chain_from(Some(chain)).map_err(malformed);
        }
        Some(Outcome::Refusal(refusal)) => refusal,
        None => return Err(IssueError::Unreachable("its answer is empty".to_owned())),
    };
    let reason = cut(&reason).replace(char::is_control, " ");
    match Code::try_from(code) {
        Ok(Code::NotYours | Code::BadRequest | Code::Quarantined) => {
            Err(IssueError::Refused(reason))
        }
        Ok(Code::Unavailable | Code::Unspecified) | Err(_) => Err(IssueError::Unreachable(reason)),
    }
}
