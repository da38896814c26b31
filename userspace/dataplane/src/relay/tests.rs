//! Both sides of a conversation over in-memory streams: what is said, and what is not believed.

use std::{
    future::pending,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use martlet_model::ConnectionId;
use proptest::{collection::vec, prelude::*};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::frame::{Decoder, Part, data_header};

const OPEN: Open = Open { source_port: 40_000, id: ConnectionId(7) };
const PATIENCE: Duration = Duration::from_secs(60);

/// One side of a conversation, whose application and far side the test plays.
struct Played {
    application: DuplexStream,
    far: DuplexStream,
    relaying: tokio::task::JoinHandle<(End, u64, u64)>,
}

fn play(side: Side, buffer: usize) -> Played {
    let (application, mut ours) = duplex(buffer);
    let (far, transport) = duplex(buffer);
    let opening = (side == Side::Caller).then_some(OPEN);
    let relaying = tokio::spawn(async move {
        let (there, back) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut lane = Lane::new(transport);
        let conversation = Conversation::new(&mut ours, &mut lane, side, opening, &there, &back);
        let ended = run(conversation, pending(), pending(), pending()).await;
        (ended.end, there.load(Ordering::Relaxed), back.load(Ordering::Relaxed))
    });
    Played { application, far, relaying }
}

fn data(bytes: &[u8]) -> Vec<u8> {
    [&data_header(bytes.len()), bytes].concat()
}

impl Played {
    /// The next frame that is said to the far side, with the application bytes before it.
    async fn hear(&mut self) -> (Vec<u8>, Frame) {
        let (mut decoder, mut bytes) = (Decoder::default(), Vec::new());
        loop {
            let byte = [timeout(PATIENCE, self.far.read_u8()).await.unwrap().unwrap()];
            let mut input = &byte[..];
            while let Some(part) = decoder.next(&mut input).unwrap() {
                match part {
                    Part::Frame(frame) => return (bytes, frame),
                    Part::Bytes(some) => {
                        bytes.extend_from_slice(some);
                        decoder.take(&mut input, 1);
                    }
                }
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.far.write_all(bytes).await.unwrap();
    }

    async fn ended(self) -> (End, u64, u64) {
        timeout(PATIENCE, self.relaying).await.unwrap().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn the_caller_opens_at_once_and_waits_for_done() {
    let mut played = play(Side::Caller, 4096);
    assert_eq!(played.hear().await, (vec![], Frame::Open(OPEN)), "nothing was sent yet");
    played.say(&data(b"220 ready")).await;
    let mut greeting = [0; 9];
    played.application.read_exact(&mut greeting).await.unwrap();
    played.application.write_all(b"question").await.unwrap();
    played.application.shutdown().await.unwrap();
    assert_eq!(played.hear().await, (b"question".to_vec(), Frame::Finish));
    played.say(&Frame::Finish.to_bytes()).await;
    assert_eq!(played.application.read(&mut greeting).await.unwrap(), 0);
    assert!(!played.relaying.is_finished(), "the far side has not said that it is done");
    played.say(&Frame::Done.to_bytes()).await;
    let (end, sent, received) = played.ended().await;
    assert!(matches!(end, End::Finished), "{end:?}");
    assert_eq!((sent, received), (8, 9));
}

#[tokio::test(start_paused = true)]
async fn the_first_bytes_travel_with_open() {
    let (mut application, mut ours) = duplex(4096);
    application.write_all(b"first").await.unwrap();
    let (mut far, transport) = duplex(4096);
    let (there, back) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut lane = Lane::new(transport);
    let mut conversation =
        Conversation::new(&mut ours, &mut lane, Side::Caller, Some(OPEN), &there, &back);
    let once = std::future::poll_fn(|context| Poll::Ready(conversation.poll(context)));
    assert!(once.await.is_pending());
    let mut said = vec![0; 64];
    let count = far.read(&mut said).await.unwrap();
    assert_eq!(said[..count], [&OPEN.bytes()[..], &data(b"first")].concat());
}

#[tokio::test(start_paused = true)]
async fn the_called_side_says_done_once_whoever_finishes_first() {
    let mut played = play(Side::Callee, 4096);
    played.say(&Frame::Finish.to_bytes()).await;
    assert_eq!(played.application.read(&mut [0]).await.unwrap(), 0);
    played.application.write_all(b"answer").await.unwrap();
    played.application.shutdown().await.unwrap();
    assert_eq!(played.hear().await, (b"answer".to_vec(), Frame::Done), "without FINISH");
    assert!(matches!(played.ended().await.0, End::Finished));

    let mut played = play(Side::Callee, 4096);
    played.application.shutdown().await.unwrap();
    assert_eq!(played.hear().await, (vec![], Frame::Finish));
    played.say(&[data(b"late"), Frame::Finish.to_bytes()].concat()).await;
    assert_eq!(played.hear().await, (vec![], Frame::Done));
    let mut late = Vec::new();
    played.application.read_to_end(&mut late).await.unwrap();
    assert_eq!(late, b"late");
    assert!(matches!(played.ended().await.0, End::Finished));
}

#[tokio::test(start_paused = true)]
async fn what_follows_done_belongs_to_the_next_connection() {
    let mut played = play(Side::Callee, 4096);
    played.say(&Frame::Finish.to_bytes()).await;
    assert_eq!(played.application.read(&mut [0]).await.unwrap(), 0);
    // The caller is quick: it has heard DONE, and opens again, before we look at the lane.
    played.application.shutdown().await.unwrap();
    played.say(&OPEN.bytes()).await;
    let (end, ..) = played.ended().await;
    assert!(matches!(end, End::Finished), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_heard_even_after_finish() {
    let mut played = play(Side::Callee, 4096);
    played.say(&Frame::Finish.to_bytes()).await;
    played.say(&Frame::Reset(Closed::ResetByCaller).to_bytes()).await;
    let (end, ..) = played.ended().await;
    assert_eq!(end.closed(Side::Callee), Closed::ResetByCaller);
    assert!(end.farewell(Side::Callee).is_none(), "the far side knows");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_its_rule_and_comes_first_or_never() {
    let text = "shop/closed: nobody".to_owned();
    let refused = Frame::Refused { reason: Closed::Denied, text: text.clone() }.to_bytes();
    let mut played = play(Side::Caller, 4096);
    played.say(&refused).await;
    let (end, ..) = played.ended().await;
    assert!(matches!(&end, End::Refused { reason: Closed::Denied, text: said } if *said == text));
    let mut played = play(Side::Caller, 4096);
    played.say(&[data(b"x"), refused].concat()).await;
    assert!(matches!(played.ended().await.0, End::Violation(_)));
}

#[tokio::test(start_paused = true)]
async fn what_has_no_place_in_a_conversation_ends_it() {
    let open = OPEN.bytes().to_vec();
    let (finish, done) = (Frame::Finish.to_bytes(), Frame::Done.to_bytes());
    let refused = Frame::Refused { reason: Closed::Denied, text: String::new() }.to_bytes();
    for (side, name, bytes) in [
        (Side::Callee, "a second OPEN", open.clone()),
        (Side::Caller, "OPEN from the called side", open),
        (Side::Callee, "DONE from the caller", done.clone()),
        (Side::Caller, "DONE before our FINISH", done),
        (Side::Callee, "REFUSED from the caller", refused),
        (Side::Callee, "PING within a connection", Frame::Ping.to_bytes()),
        (Side::Caller, "PONG within a connection", Frame::Pong.to_bytes()),
        (Side::Callee, "FINISH twice", finish.repeat(2)),
        (Side::Callee, "DATA after FINISH", [finish.clone(), data(b"x")].concat()),
        (Side::Caller, "DATA after FINISH", [finish, data(b"x")].concat()),
        (Side::Callee, "empty DATA", vec![2, 0, 0, 0]),
        (Side::Callee, "DATA over the limit", vec![2, 4, 0, 1]),
        (Side::Callee, "an unknown type", vec![99, 0, 0, 0]),
    ] {
        let mut played = play(side, 4096);
        played.say(&bytes).await;
        let (end, ..) = played.ended().await;
        assert!(matches!(end, End::Violation(_)), "{name}: {end:?}");
        assert_eq!(end.farewell(side), Some(Frame::Reset(Closed::LaneViolation)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_ends_early_is_broken_and_not_finished() {
    let truncated = data_header(10).to_vec();
    for bytes in [vec![], truncated, data(b"whole"), vec![3, 0], Frame::Finish.to_bytes()] {
        let mut played = play(Side::Callee, 4096);
        played.say(&bytes).await;
        let Played { application: _application, far, relaying } = played;
        drop(far);
        let (end, ..) = timeout(PATIENCE, relaying).await.unwrap().unwrap();
        assert_eq!(end.closed(Side::Callee), Closed::LaneBroken, "{bytes:?}: {end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_that_is_gone_is_a_reset() {
    let mut played = play(Side::Callee, 64);
    drop(std::mem::replace(&mut played.application, duplex(1).0));
    played.say(&data(b"nobody takes this")).await;
    let (end, ..) = played.ended().await;
    assert_eq!(end.closed(Side::Callee), Closed::ResetByCallee);
    assert_eq!(end.farewell(Side::Callee), Some(Frame::Reset(Closed::ResetByCallee)));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_reads_is_not_taken() {
    for side in [Side::Caller, Side::Callee] {
        let mut played = play(side, 1024);
        let endless = async {
            loop {
                played.application.write_all(&[7; 512]).await.unwrap();
            }
        };
        assert!(timeout(PATIENCE, endless).await.is_err(), "the writer waits");
        played.relaying.abort();
    }
    let mut played = play(Side::Callee, 1024);
    let mut offered = 0;
    let endless = async {
        loop {
            played.far.write_all(&data(&[7; 512])).await.unwrap();
            offered += 512;
        }
    };
    assert!(timeout(PATIENCE, endless).await.is_err(), "the far side waits");
    assert!(offered <= 4 * 1024 + crate::limits::CHUNK_BYTES, "{offered} bytes were taken");
}

#[tokio::test(start_paused = true)]
async fn single_bytes_pass_both_ways() {
    let mut played = play(Side::Callee, 1);
    for byte in 0..100_u8 {
        let frame = data(&[byte]);
        let write = played.far.write_all(&frame);
        let (wrote, read) = tokio::join!(write, played.application.read_u8());
        wrote.unwrap();
        assert_eq!(read.unwrap(), byte);
        played.application.write_all(&[byte]).await.unwrap();
        let mut said = [0; 5];
        played.far.read_exact(&mut said).await.unwrap();
        assert_eq!(said.to_vec(), frame);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_taken_back_ends_while_nothing_moves() {
    let (_application, mut ours) = duplex(64);
    let (_far, transport) = duplex(64);
    let (there, back) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut lane = Lane::new(transport);
    let conversation =
        Conversation::new(&mut ours, &mut lane, Side::Caller, Some(OPEN), &there, &back);
    let stopped = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Closed::PermitLapsed
    };
    let ended = run(conversation, pending(), pending(), stopped).await;
    assert_eq!(ended.end.closed(Side::Caller), Closed::PermitLapsed);
    let farewell = ended.end.farewell(Side::Caller);
    assert_eq!(farewell, Some(Frame::Reset(Closed::PermitLapsed)));
}

type FarLane = Lane<DuplexStream>;

/// One side, in a task of its own, so that no wakeup comes from anything but its own streams.
fn side(
    side: Side,
    mut lane: FarLane,
    mut application: DuplexStream,
) -> JoinHandle<(End, FarLane)> {
    tokio::spawn(async move {
        let (there, back) = (AtomicU64::new(0), AtomicU64::new(0));
        let opening = match side {
            Side::Caller => Some(OPEN),
            Side::Callee => lane.next_open(&CancellationToken::new()).await.map(|_| None).unwrap(),
        };
        let talk = Conversation::new(&mut application, &mut lane, side, opening, &there, &back);
        (run(talk, pending(), pending(), pending()).await.end, lane)
    })
}

/// Sends everything, and says what it got.
fn application(stream: DuplexStream, bytes: Vec<u8>) -> JoinHandle<Vec<u8>> {
    let (mut read, mut write) = tokio::io::split(stream);
    tokio::spawn(async move {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
    });
    tokio::spawn(async move {
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        got
    })
}

async fn in_time<T>(task: JoinHandle<T>) -> T {
    timeout(PATIENCE, task).await.expect("nothing stands still").unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn whatever_the_sizes_all_arrives_and_the_lane_carries_the_next(
        (lane, buffer) in (1_usize..3000, 1_usize..3000),
        sends in vec((0_usize..5000, 0_usize..5000), 1..4),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (near, far) = duplex(lane);
            let (mut near, mut far) = (Lane::new(near), Lane::new(far));
            for (there, back) in sends {
                let bytes = |length: usize| (0..length).map(|i| i as u8).collect::<Vec<_>>();
                let ((caller, here), (callee, there_)) = (duplex(buffer), duplex(buffer));
                let (calling, called) =
                    (side(Side::Caller, near, here), side(Side::Callee, far, there_));
                let asked = application(caller, bytes(there));
                let answered = application(callee, bytes(back));
                assert_eq!((in_time(asked).await, in_time(answered).await), (bytes(back), bytes(there)));
                let ends;
                ((ends, near), (_, far)) = (in_time(calling).await, in_time(called).await);
                assert!(matches!(ends, End::Finished), "{ends:?}");
                assert!(near.unread.is_empty() && near.decoder.is_between_frames());
            }
        });
    }
}
