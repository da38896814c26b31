//! Signs of life between connections, from both sides.

use martlet_model::{Closed, ConnectionId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;
use crate::frame::data_header;

const OPEN: Open = Open { source_port: 40_000, id: ConnectionId(7) };

#[tokio::test]
async fn the_called_side_answers_as_often_as_it_is_asked_and_waits_on() {
    let (mut caller, transport) = duplex(4096);
    let ping = Frame::Ping.to_bytes();
    caller.write_all(&[&ping[..], &ping, &OPEN.bytes()].concat()).await.unwrap();
    let mut lane = Lane::new(transport);
    assert_eq!(lane.next_open(&CancellationToken::new()).await.unwrap(), OPEN);
    let mut answers = [0; 8];
    caller.read_exact(&mut answers).await.unwrap();
    assert_eq!(answers[..], Frame::Pong.to_bytes().repeat(2));
}

#[tokio::test]
async fn only_an_answer_and_nothing_after_it_makes_an_idle_lane_good() {
    let pong = Frame::Pong.to_bytes();
    let leaves = Frame::Reset(Closed::Draining).to_bytes();
    for (name, said, expected) in [
        ("PONG", pong.clone(), true),
        ("RESET", leaves.clone(), false),
        ("RESET after PONG", [pong.clone(), leaves].concat(), false),
        ("PONG twice", pong.repeat(2), false),
        ("DONE", Frame::Done.to_bytes(), false),
        ("DATA", [&data_header(1)[..], b"x"].concat(), false),
        ("PING", Frame::Ping.to_bytes(), false),
        ("an unknown type", vec![99, 0, 0, 0], false),
        ("half an answer, then the end", pong[..2].to_vec(), false),
        ("the end", vec![], false),
    ] {
        let (mut callee, transport) = duplex(4096);
        callee.write_all(&said).await.unwrap();
        callee.shutdown().await.unwrap();
        let mut lane = Lane::new(transport);
        assert_eq!(lane.is_answered().await.unwrap(), expected, "{name}");
        let mut asked = [0; 4];
        callee.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked[..], Frame::Ping.to_bytes());
    }
}

#[tokio::test]
async fn what_the_called_side_says_has_no_place_on_its_idle_lane() {
    for frame in [Frame::Pong, Frame::Done, Frame::Finish] {
        let (mut caller, transport) = duplex(4096);
        caller.write_all(&frame.to_bytes()).await.unwrap();
        let heard = Lane::new(transport).next_open(&CancellationToken::new()).await;
        assert!(matches!(heard, Err(NotOpened::Violation(_))), "{heard:?}");
    }
}

#[tokio::test]
async fn a_lane_that_is_to_be_left_takes_what_comes_unasked_and_answers_nobody_who_asks() {
    let leaving = CancellationToken::new();
    leaving.cancel();
    let (mut caller, transport) = duplex(4096);
    caller.write_all(&[&OPEN.bytes()[..], &Frame::Ping.to_bytes()].concat()).await.unwrap();
    let mut lane = Lane::new(transport);
    assert_eq!(lane.next_open(&leaving).await.unwrap(), OPEN);
    assert!(matches!(lane.next_open(&leaving).await, Err(NotOpened::Asked)));
    drop(lane);
    assert_eq!(caller.read(&mut [0; 8]).await.unwrap(), 0, "no answer");
}
