//! The decoder of lanes: it never panics, and how bytes are cut into pieces changes nothing.
//! The first byte says how large the pieces are.

#![no_main]

use libfuzzer_sys::fuzz_target;
use martlet_dataplane::frame::{Decoder, Frame, FrameError, Part};

fn decode(bytes: &[u8], piece: usize) -> (Vec<Frame>, Vec<u8>, Option<FrameError>) {
    let (mut decoder, mut frames, mut data) = (Decoder::default(), Vec::new(), Vec::new());
    for mut input in bytes.chunks(piece.max(1)) {
        loop {
            match decoder.next(&mut input) {
                Err(error) => return (frames, data, Some(error)),
                Ok(None) => break,
                Ok(Some(Part::Frame(frame))) => frames.push(frame),
                Ok(Some(Part::Bytes(some))) => {
                    data.extend_from_slice(some);
                    let length = some.len();
                    decoder.take(&mut input, length);
                }
            }
        }
        assert!(input.is_empty(), "asked for more without using what was there");
    }
    (frames, data, None)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = decode(bytes, bytes.len());
    assert_eq!(whole, decode(bytes, usize::from(*piece)));
    for frame in whole.0 {
        let again = decode(&frame.to_bytes(), usize::MAX);
        assert_eq!(again, (vec![frame], vec![], None));
    }
});
