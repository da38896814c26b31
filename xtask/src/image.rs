//! Images of containers, written without a daemon.

pub mod archive;

use sha2::{Digest as _, Sha256};

/// In hexadecimal, as image formats and names of caches have it.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
