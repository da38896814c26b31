//! Segments in pieces, in disorder and twice; records and what is none.

use super::*;

const START: u32 = u32::MAX - 40; // wraps within the test

struct Given {
    stream: Stream,
    search: Search,
    found: Vec<usize>,
}

impl Given {
    fn new(canaries: &Canaries) -> Given {
        let ends = ["10.1.0.2:1000".parse().unwrap(), "10.2.0.2:80".parse().unwrap()];
        Given {
            stream: Stream::new(ends[0], ends[1], Instant::now()),
            search: Search::new(canaries).unwrap(),
            found: Vec::new(),
        }
    }

    fn segment(&mut self, offset: u32, payload: &[u8]) {
        let Flow { source, destination, .. } = *self.stream.flow();
        let segment = Segment {
            source,
            destination,
            sequence: START.wrapping_add(offset),
            is_syn: false,
            is_fin: false,
            is_reset: false,
            payload,
        };
        self.stream.take(&segment, &self.search, &mut self.found);
    }
}

#[test]
fn a_canary_in_pieces_is_found_whatever_their_size() {
    let canaries = Canaries::random(3);
    let all: Vec<u8> = canaries.iter().flatten().copied().collect();
    for size in 1..=all.len() {
        let mut given = Given::new(&canaries);
        for (number, piece) in all.chunks(size).enumerate() {
            given.segment((number * size) as u32, piece);
        }
        given.found.sort_unstable();
        given.found.dedup();
        assert_eq!(given.found, [0, 1, 2], "in pieces of {size}");
        assert_eq!(given.stream.flow().payload, 96);
    }
}

#[test]
fn pieces_out_of_order_and_twice_are_put_in_order() {
    let canaries = Canaries::random(1);
    let all: Vec<u8> = canaries.iter().flatten().copied().collect();
    let mut given = Given::new(&canaries);
    given.segment(0, &all[..8]);
    given.segment(20, &all[20..]);
    given.segment(0, &all[..10]);
    assert!(given.found.is_empty());
    given.segment(8, &all[8..20]);
    assert_eq!(given.found, [0]);
    assert_eq!(given.stream.flow().start, all);
}

#[test]
fn tls_records_in_any_pieces_are_all_tls() {
    let records = [&[22, 3, 1, 0, 4][..], &[1, 2, 3, 4], &[23, 3, 3, 0, 2], &[9, 9]].concat();
    for size in 1..=records.len() {
        let mut given = Given::new(&Canaries::random(0));
        for (number, piece) in records.chunks(size).enumerate() {
            given.segment((number * size) as u32, piece);
        }
        let flow = given.stream.flow();
        assert_eq!((flow.not_tls, flow.records), (0, 2), "in pieces of {size}");
        assert_eq!(flow.is_client_hello(), records[5] == 1);
    }
}

#[test]
fn anything_else_is_counted_as_not_tls() {
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\r\n"[..], 16),
        // A record, and then something else.
        (&[23, 3, 3, 0, 1, 7, b'G', b'E', b'T'], 3),
        // Longer than a record may be.
        (&[23, 3, 3, 0xff, 0xff], 5),
    ] {
        let mut given = Given::new(&Canaries::random(0));
        given.segment(0, bytes);
        assert_eq!(given.stream.flow().not_tls, expected, "{bytes:?}");
    }
}
