//! Private keys as an attacker would look for them: in another process's memory by nothing but the
//! public keys there, and in any bytes by every form that a key is written in.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use aho_corasick::AhoCorasick;
use anyhow::{Context as _, Result};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};

/// A SubjectPublicKeyInfo (RFC 5280, section 4.1) of P-256, up to the point itself.
const SPKI: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\
    \xce\x3d\x03\x01\x07\x03\x42\x00";
const POINT: usize = 65;
const SCALAR: usize = 32;
/// In a leaf the SPIFFE ID stands no farther behind the key, and in an authority's certificate the
/// key is farther from its end: what may lie behind it in memory is not taken for its name.
const NAME_WITHIN: usize = 150;
/// Random bytes have at least so many different ones among 32: fewer has one key of 10^9.
const DISTINCT: usize = 22;

/// A scalar of P-256, big-endian as in PKCS#8.
pub type Scalar = [u8; SCALAR];

/// What a process could write: where keys may be.
pub struct Memory {
    regions: Vec<Vec<u8>>,
}

impl Memory {
    /// Of a process, also of one that is not dumpable: root's capabilities are enough.
    pub fn of(pid: u32) -> Result<Memory> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let mut regions = Vec::new();
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (start, end) = line
                .split_once(' ')
                .and_then(|(range, _)| range.split_once('-'))
                .context("a mapping has a range")?;
            let start = u64::from_str_radix(start, 16)?;
            let length = usize::try_from(u64::from_str_radix(end, 16)? - start)?;
            let mut bytes = vec![0; length];
            // Rings of the kernel are in there too, and some can't be read.
            if memory.read_exact_at(&mut bytes, start).is_ok() {
                regions.push(bytes);
            }
        }
        Ok(Memory { regions })
    }

    /// The private keys in there, by the SPIFFE ID of a certificate there; a public key without one
    /// is not looked for.
    pub fn keys(&self) -> Result<BTreeMap<String, Vec<Scalar>>> {
        self.keys_of(&self.public_keys()?)
    }

    /// The private keys of these public ones, uncompressed points, each by its name.
    pub fn keys_of(
        &self,
        named: &HashMap<Vec<u8>, String>,
    ) -> Result<BTreeMap<String, Vec<Scalar>>> {
        let mut found: BTreeMap<String, Vec<Scalar>> = BTreeMap::new();
        for region in &self.regions {
            for bytes in region.windows(SCALAR).step_by(8).filter(|bytes| looks_random(bytes)) {
                let mut scalar: Scalar = bytes.try_into().context("a window has this size")?;
                // As the cryptographic library holds it, in words of the machine.
                scalar.reverse();
                let Some(name) = public_key(&scalar).and_then(|key| named.get(&key)) else {
                    continue;
                };
                let known = found.entry(name.clone()).or_default();
                if !known.contains(&scalar) {
                    known.push(scalar);
                }
            }
        }
        Ok(found)
    }

    fn public_keys(&self) -> Result<HashMap<Vec<u8>, String>> {
        let search = AhoCorasick::new([SPKI])?;
        let mut named = HashMap::new();
        for region in &self.regions {
            for found in search.find_iter(region) {
                let Some(point) = region.get(found.end()..found.end() + POINT) else { continue };
                let rest = &region[found.end() + POINT..];
                let near = String::from_utf8_lossy(&rest[..rest.len().min(NAME_WITHIN)]);
                if let Some(start) = near.find("spiffe://") {
                    let name = near[start..].split(|c: char| !c.is_ascii_graphic()).next();
                    // The certificate's next field may begin with a letter.
                    let name = name.unwrap_or_default().trim_end_matches('0').to_owned();
                    named.insert(point.to_vec(), name);
                }
            }
        }
        Ok(named)
    }

    pub fn finds(&self, secrets: &Secrets) -> usize {
        self.regions.iter().map(|region| secrets.found_in(region)).sum()
    }
}

/// Keys in all the forms in which they could have got somewhere.
pub struct Secrets {
    search: AhoCorasick,
}

impl Secrets {
    pub fn new<'a>(scalars: impl IntoIterator<Item = &'a Scalar>) -> Result<Secrets> {
        let forms: Vec<_> = scalars.into_iter().flat_map(forms).collect();
        Ok(Secrets { search: AhoCorasick::new(forms)? })
    }

    pub fn found_in(&self, bytes: &[u8]) -> usize {
        self.search.find_iter(bytes).count()
    }
}

/// Raw and in hex in both orders of bytes, and in base64 (which PEM is) at each of its three
/// alignments, less the characters that depend on what stands before and behind.
pub fn forms(scalar: &Scalar) -> Vec<Vec<u8>> {
    let mut reversed = *scalar;
    reversed.reverse();
    let mut forms = vec![scalar.to_vec(), reversed.to_vec()];
    for bytes in [scalar, &reversed] {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        forms.extend([hex.to_uppercase().into_bytes(), hex.into_bytes()]);
    }
    // A line of PEM may break anywhere: half of the scalar is enough.
    for half in [&scalar[..16], &scalar[16..]] {
        for before in 0..3 {
            let mut bytes = vec![0; before];
            bytes.extend(half);
            let text = base64(&bytes);
            let from = [0, 2, 3][before];
            forms.push(text[from..bytes.len() / 3 * 4].to_vec());
        }
    }
    forms
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextets = bytes.chunks(3).flat_map(|chunk| {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        [18, 12, 6, 0].map(|shift| ALPHABET[(word >> shift & 63) as usize])
    });
    sextets.collect()
}

fn looks_random(bytes: &[u8]) -> bool {
    let mut seen = [0_u64; 4];
    for byte in bytes {
        seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    seen.iter().map(|word| word.count_ones() as usize).sum::<usize>() >= DISTINCT
}

fn public_key(scalar: &Scalar) -> Option<Vec<u8>> {
    let key = PrivateKey::from_private_key(&ECDH_P256, scalar).ok()?;
    Some(key.compute_public_key().ok()?.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_every_form_and_its_neighbor_in_none() -> Result<()> {
        let scalar: Scalar = std::array::from_fn(|index| (index * 37 + 11) as u8);
        let secrets = Secrets::new([&scalar])?;
        for before in 0..3 {
            let mut der = vec![7; before];
            der.extend(scalar);
            der.extend([9; 5]);
            assert_eq!(secrets.found_in(&der), 1);
            assert!(secrets.found_in(&base64(&der)) > 0, "{before}");
        }
        let hex: String = scalar.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(secrets.found_in(hex.as_bytes()), 1);
        let other: Scalar = std::array::from_fn(|index| (index * 41 + 12) as u8);
        assert_eq!(forms(&other).iter().map(|form| secrets.found_in(form)).sum::<usize>(), 0);
        Ok(())
    }

    /// This process has a key whose certificate's shape stands beside it.
    #[test]
    fn a_key_in_a_process_is_found_by_its_public_key() -> Result<()> {
        let key = PrivateKey::generate(&ECDH_P256)?;
        let point = key.compute_public_key()?;
        let certificate =
            [SPKI, point.as_ref(), &[1, 2, 3], b"spiffe://a.org/ns/b/sa/c", &[0]].concat();
        let found = Memory::of(std::process::id())?.keys()?;
        let scalars = found.get("spiffe://a.org/ns/b/sa/c").context("it is found")?;
        assert_eq!(public_key(&scalars[0]).as_deref(), Some(point.as_ref()));
        drop(certificate);
        Ok(())
    }
}
