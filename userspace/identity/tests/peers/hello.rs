//! What a ClientHello says (RFC 8446, section 4.1.2), read from the wire without a TLS library.

use std::collections::BTreeMap;

pub const SERVER_NAME: u16 = 0;
pub const SUPPORTED_GROUPS: u16 = 10;
pub const ALPN: u16 = 16;
pub const SESSION_TICKET: u16 = 35;
pub const PRE_SHARED_KEY: u16 = 41;
pub const EARLY_DATA: u16 = 42;
pub const SUPPORTED_VERSIONS: u16 = 43;
pub const KEY_SHARE: u16 = 51;

/// Groups (IANA, TLS Supported Groups).
pub const X25519MLKEM768: u16 = 0x11ec;
pub const X25519: u16 = 0x001d;

#[derive(Debug)]
pub struct Hello {
    pub suites: Vec<u16>,
    pub extensions: BTreeMap<u16, Vec<u8>>,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> usize {
        self.take(bytes).iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    /// A vector with its length in so many bytes in front.
    fn vector(&mut self, length: usize) -> Reader<'a> {
        let length = self.number(length);
        Reader(self.take(length))
    }

    fn short(&mut self) -> u16 {
        u16::try_from(self.number(2)).unwrap()
    }

    fn shorts(mut self) -> Vec<u16> {
        std::iter::from_fn(|| (!self.0.is_empty()).then(|| self.short())).collect()
    }
}

impl Hello {
    /// From the first record of a connection, without its header of five bytes.
    pub fn read(record: &[u8]) -> Self {
        let mut record = Reader(record);
        assert_eq!(record.number(1), 1, "a ClientHello");
        let mut hello = record.vector(3);
        hello.take(2 + 32);
        hello.vector(1);
        let suites = hello.vector(2).shorts();
        hello.vector(1);
        let (mut list, mut extensions) = (hello.vector(2), BTreeMap::new());
        while !list.0.is_empty() {
            let kind = list.short();
            extensions.insert(kind, list.vector(2).0.to_vec());
        }
        Self { suites, extensions }
    }

    pub fn groups(&self) -> Vec<u16> {
        Reader(&self.extensions[&SUPPORTED_GROUPS]).vector(2).shorts()
    }

    /// The groups of which it brings a share.
    pub fn shares(&self) -> Vec<u16> {
        let mut shares = Reader(&self.extensions[&KEY_SHARE]).vector(2);
        std::iter::from_fn(|| {
            let group = (!shares.0.is_empty()).then(|| shares.short())?;
            shares.vector(2);
            Some(group)
        })
        .collect()
    }
}
