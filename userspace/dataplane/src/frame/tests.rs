//! Frames, however they are cut into pieces, and what no decoder takes.

use proptest::prelude::*;

use super::*;

/// What a decoder makes of `bytes` that arrive in pieces of these sizes.
fn decode(
    bytes: &[u8],
    pieces: impl IntoIterator<Item = usize>,
) -> Result<(Vec<Frame>, Vec<u8>, Decoder), FrameError> {
    let (mut decoder, mut frames, mut data) = (Decoder::default(), vec![], vec![]);
    let (mut rest, mut pieces) = (bytes, pieces.into_iter());
    while !rest.is_empty() {
        let size = pieces.next().unwrap_or(rest.len()).clamp(1, rest.len());
        let (mut piece, after) = rest.split_at(size);
        rest = after;
        while let Some(part) = decoder.next(&mut piece)? {
            match part {
                Part::Frame(frame) => frames.push(frame),
                Part::Bytes(some) => {
                    // Nobody is obliged to take everything at once.
                    let count = some.len().div_ceil(2);
                    data.extend_from_slice(&some[..count]);
                    decoder.take(&mut piece, count);
                }
            }
        }
        assert!(piece.is_empty(), "a decoder that asks for more has used what it got");
    }
    Ok((frames, data, decoder))
}

fn samples() -> Vec<Frame> {
    vec![
        Frame::Open(Open { source_port: 40_000, id: ConnectionId(u64::MAX - 1) }),
        Frame::Finish,
        Frame::Done,
        Frame::Ping,
        Frame::Pong,
        Frame::Reset(Closed::ResetByCallee),
        Frame::Refused { reason: Closed::Denied, text: "shop/only-cart: rule 1".into() },
        Frame::Refused { reason: Closed::LimitReached, text: String::new() },
    ]
}

#[test]
fn frames_round_trip_byte_by_byte() {
    let mut bytes = Vec::new();
    for frame in samples() {
        frame.write(&mut bytes);
        bytes.extend_from_slice(&data_header(3));
        bytes.extend_from_slice(b"abc");
    }
    let (frames, data, decoder) = decode(&bytes, std::iter::repeat(1)).unwrap();
    assert_eq!(frames, samples());
    assert_eq!(data, b"abc".repeat(samples().len()));
    assert!(decoder.is_between_frames());
}

#[test]
fn the_longest_data_is_never_held() {
    let mut bytes = data_header(DATA_MAX).to_vec();
    bytes.resize(HEADER_BYTES + DATA_MAX, 7);
    let (_, data, decoder) = decode(&bytes, std::iter::repeat(1000)).unwrap();
    assert_eq!(data.len(), DATA_MAX);
    assert!(decoder.partial.capacity() <= 512);
}

#[test]
fn a_frame_that_is_cut_off_is_not_taken_for_a_whole_one() {
    for frame in samples() {
        let bytes = frame.to_bytes();
        for end in 1..bytes.len() {
            let (frames, _, decoder) = decode(&bytes[..end], []).unwrap();
            assert!(frames.is_empty() && !decoder.is_between_frames(), "{frame:?} at {end}");
        }
    }
    let (_, data, decoder) = decode(&[DATA, 0, 0, 2, 1], []).unwrap();
    assert_eq!(data, [1]);
    assert!(!decoder.is_between_frames());
}

#[test]
fn a_long_refusal_is_cut_between_characters() {
    let refused = Frame::Refused { reason: Closed::Denied, text: "ü".repeat(200) };
    let (frames, ..) = decode(&refused.to_bytes(), []).unwrap();
    let Frame::Refused { text, .. } = &frames[0] else { panic!("a refusal") };
    assert_eq!(*text, "ü".repeat(127));
}

#[test]
fn what_the_specification_does_not_know_is_refused() {
    let length = |kind, length| FrameError::Length { kind, length };
    let reason = |kind, code| FrameError::Reason { kind, code };
    for (bytes, error) in [
        (&[0, 0, 0, 0][..], FrameError::Type(0)),
        (&[9, 0, 0, 0], FrameError::Type(9)),
        (&[255, 255, 255, 255], FrameError::Type(255)),
        (&[DATA, 0, 0, 0], length(DATA, 0)),
        (&[DATA, 4, 0, 1], length(DATA, DATA_MAX + 1)),
        (&[OPEN, 0, 0, 9], length(OPEN, 9)),
        (&[OPEN, 0, 0, 11], length(OPEN, 11)),
        (&[FINISH, 0, 0, 1], length(FINISH, 1)),
        (&[DONE, 0, 0, 1], length(DONE, 1)),
        (&[PING, 0, 0, 1], length(PING, 1)),
        (&[PONG, 0, 0, 1], length(PONG, 1)),
        (&[RESET, 0, 0, 0], length(RESET, 0)),
        (&[RESET, 0, 0, 2], length(RESET, 2)),
        (&[REFUSED, 0, 0, 0], length(REFUSED, 0)),
        (&[REFUSED, 0, 1, 1], length(REFUSED, 257)),
        (&[RESET, 0, 0, 1, 0], reason(RESET, 0)),
        (&[RESET, 0, 0, 1, 1], reason(RESET, 1)),
        (&[REFUSED, 0, 0, 1, 2], reason(REFUSED, 2)),
        (&[REFUSED, 0, 0, 2, 19, 0xff], FrameError::Text),
    ] {
        assert_eq!(decode(bytes, []).unwrap_err(), error, "{bytes:?}");
        assert_eq!(decode(bytes, std::iter::repeat(1)).unwrap_err(), error, "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic_and_cuts_change_nothing(
        bytes in proptest::collection::vec(prop_oneof![0_u8..10, any::<u8>()], 0..600),
        pieces in proptest::collection::vec(1_usize..40, 0..100),
    ) {
        let whole = decode(&bytes, []);
        let cut = decode(&bytes, pieces);
        match (whole, cut) {
            (Ok(whole), Ok(cut)) => prop_assert_eq!((whole.0, whole.1), (cut.0, cut.1)),
            (Err(whole), Err(cut)) => prop_assert_eq!(whole, cut),
            (whole, cut) => prop_assert!(false, "{:?} but {:?}", whole, cut),
        }
    }
}
