//! Random 32-byte strings that only the programs under test and the sniffer know.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use rand::Rng;

#[derive(Clone)]
pub struct Canaries {
    bytes: Vec<u8>,
}

impl Canaries {
    pub const LENGTH: usize = 32;

    pub fn random(count: usize) -> Canaries {
        let mut bytes = vec![0; count * Self::LENGTH];
        rand::rng().fill_bytes(&mut bytes);
        Canaries { bytes }
    }

    /// Printable ones, for protocols that only carry text: 32 hexadecimal digits.
    pub fn printable(count: usize) -> Canaries {
        let mut bytes = Vec::with_capacity(count * Self::LENGTH);
        for _ in 0..count {
            bytes.extend_from_slice(format!("{:032x}", rand::random::<u128>()).as_bytes());
        }
        Canaries { bytes }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / Self::LENGTH
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(Self::LENGTH)
    }

    /// Both lists in one, ours first.
    pub fn and(&self, other: &Canaries) -> Canaries {
        Canaries { bytes: [self.bytes.as_slice(), &other.bytes].concat() }
    }

    /// Back to back, as the probe reads them.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        fs::write(path, &self.bytes)
            .with_context(|| format!("writing canaries to {}", path.display()))
    }
}

impl std::fmt::Debug for Canaries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} canaries", self.len())
    }
}
