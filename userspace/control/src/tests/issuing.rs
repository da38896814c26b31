//! Certificates for workloads: whose, how many, and at whose cost.

use std::time::{Duration, Instant};

use martlet_identity::{Csr, SigningKey, Svid};
use martlet_model::SpiffeId;

use tokio_stream::wrappers::ReceiverStream;

use super::{
    strangers::raw,
    world::{Agent, Controller, Host, domain, name},
};
use crate::{
    Ask, IssueError, limits,
    message::name_to,
    proto::{CertificateRequest, certificate_response::Outcome, refusal::Code},
};

async fn two_nodes() -> (Controller, [Host; 2], [Agent; 2]) {
    let controller = Controller::start().await;
    controller.declare(0, 1);
    let hosts = ["one", "two"].map(|of| Host::new(of).with_token(&controller.token(of)));
    let agents = hosts.each_ref().map(|host| Agent::start(host, controller.address));
    for agent in &agents {
        agent.until_declared(1).await;
    }
    (controller, hosts, agents)
}

fn ask(of: &str) -> (SigningKey, Ask) {
    let key = SigningKey::generate().unwrap();
    let csr = key.csr().unwrap();
    (key, Ask { workload: name(of), csr })
}

#[tokio::test]
async fn a_node_gets_certificates_for_its_own_workloads_and_for_no_others() {
    let (_controller, _hosts, [one, _two]) = two_nodes().await;
    let (key, web) = ask("web");
    let bad = Ask { workload: name("web"), csr: Csr(vec![0; limits::CSR_BYTES + 1]) };
    let asks = vec![ask("cart").1, web, ask("nobody").1, bad];
    let answers = one.client.issue(asks).await;
    let refused = |answer: &Result<_, IssueError>| match answer {
        Err(IssueError::Refused(reason)) => reason.clone(),
        other => panic!("{other:?}"),
    };
    assert!(refused(&answers[0]).contains("another node"));
    assert!(refused(&answers[2]).contains("no such workload"));
    assert!(refused(&answers[3]).contains("csr"));
    let identity = SpiffeId::for_workload(&domain(), "shop", "web").unwrap();
    Svid::new(&key, answers[1].clone().unwrap(), &identity).unwrap();
}

#[tokio::test]
async fn the_start_of_a_large_node_is_one_stream() {
    let (_controller, _hosts, [one, _two]) = two_nodes().await;
    let asks: Vec<_> = (0..250).map(|_| ask("web").1).collect();
    let start = Instant::now();
    let answers = one.client.issue(asks).await;
    assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|a| a.is_err()));
    println!("evidence 250 certificates in one stream: {} ms", start.elapsed().as_millis());
}

#[tokio::test]
async fn without_a_controller_whoever_asks_is_told_so() {
    let (controller, _hosts, [one, _two]) = two_nodes().await;
    controller.stop().await;
    one.until_down("").await;
    let answers = one.client.issue(vec![ask("web").1]).await;
    assert!(matches!(&answers[0], Err(IssueError::Unreachable(_))), "{answers:?}");
    assert!(one.client.issue(Vec::new()).await.is_empty());
}

#[tokio::test]
async fn a_flood_of_requests_is_bounded_and_another_node_is_served_meanwhile() {
    let (controller, _hosts, [_one, two]) = two_nodes().await;
    let mut flooding = raw(&controller, "one").await;
    let csr = SigningKey::generate().unwrap().csr().unwrap();
    let flood = move |number| CertificateRequest {
        number,
        workload: Some(name_to(&name("web"))),
        csr: csr.0.clone(),
    };
    let mut answers =
        flooding.issue(tokio_stream::iter((0..).map(flood))).await.unwrap().into_inner();
    let start = Instant::now();
    let counting = tokio::spawn(async move {
        let mut answered = 0_u64;
        while start.elapsed() < Duration::from_secs(5) {
            let next = tokio::time::timeout(Duration::from_millis(500), answers.message()).await;
            if let Ok(Ok(Some(_))) = next {
                answered += 1;
            }
        }
        answered
    });
    let mut served = 0;
    while !counting.is_finished() {
        let answers = two.client.issue(vec![ask("cart").1]).await;
        served += usize::from(answers[0].is_ok());
        assert!(answers[0].is_ok(), "{answers:?}");
        if served == 100 {
            break;
        }
    }
    let answered = counting.await.unwrap();
    println!("evidence a flood got {answered} answers in 5 s, another node {served} beside it");
    let most = u64::from(limits::ISSUE_BURST + 10 * limits::ISSUE_PER_SECOND)
        + 2 * limits::ISSUE_BATCH as u64;
    assert!(answered <= most, "{answered} of at most {most}");
    assert!(served >= 1);
}

#[tokio::test]
async fn what_is_asked_too_fast_waits_and_streams_are_counted() {
    let (controller, _hosts, _agents) = two_nodes().await;
    let mut client = raw(&controller, "one").await;
    let mut open = Vec::new();
    for _ in 0..limits::ISSUE_STREAMS {
        let (asking, asks) = tokio::sync::mpsc::channel(1);
        open.push((asking, client.issue(ReceiverStream::new(asks)).await.unwrap()));
    }
    let refused = client.issue(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    drop(open);
    let csr = vec![1; limits::CSR_BYTES + 1];
    let request = CertificateRequest { number: 9, workload: Some(name_to(&name("web"))), csr };
    let answer = loop {
        match client.issue(tokio_stream::iter([request.clone()])).await {
            Ok(told) => break told.into_inner().message().await.unwrap().unwrap(),
            Err(status) => assert_eq!(status.code(), tonic::Code::ResourceExhausted),
        }
    };
    let Some(Outcome::Refusal(refusal)) = answer.outcome else { panic!("{answer:?}") };
    assert_eq!((answer.number, refusal.code), (9, Code::BadRequest.into()));
}
