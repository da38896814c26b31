//! Addresses as the maps hold them.

/// An IPv6 address, or an IPv4 address in its v4-mapped form (RFC 4291, section 2.5.5.2), as four
/// words in network byte order: the form in which socket contexts hold them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Address {
    pub words: [u32; 4],
}

/// An address and a port in host byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Endpoint {
    pub address: Address,
    pub port: u16,
    pub padding: u16,
}

/// The third word of a v4-mapped address.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Address {
    pub const UNSPECIFIED: Address = Address { words: [0; 4] };
    /// 0.0.0.0 in its mapped form.
    pub const UNSPECIFIED_V4: Address = Address::v4(0);

    /// `word` is the IPv4 address in network byte order.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    #[inline(always)]
    pub const fn v6(words: [u32; 4]) -> Self {
        Self { words }
    }

    #[inline(always)]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let o = octets;
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }

    pub fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(self.words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        octets
    }

    /// The IPv4 address in network byte order, if this is a v4-mapped one.
    #[inline(always)]
    pub const fn as_v4(&self) -> Option<u32> {
        match self.words[0] | self.words[1] {
            0 if self.words[2] == MAPPED => Some(self.words[3]),
            _ => None,
        }
    }

    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        (self.words[0] | self.words[1] | self.words[2]) == 0 && self.words[3] == 0
            || matches!(self.as_v4(), Some(0))
    }

    /// 127.0.0.0/8 or ::1.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        match self.as_v4() {
            Some(word) => word.to_ne_bytes()[0] == 127,
            None => {
                (self.words[0] | self.words[1] | self.words[2]) == 0
                    && self.words[3] == 1_u32.to_be()
            }
        }
    }
}

impl Endpoint {
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self { address, port, padding: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(octets: [u8; 4]) -> Address {
        Address::v4(u32::from_ne_bytes(octets))
    }

    #[test]
    fn v4_is_held_mapped() {
        let address = v4([10, 1, 2, 3]);
        assert_eq!(address.octets(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 1, 2, 3]);
        assert_eq!(Address::from_octets(address.octets()), address);
        assert_eq!(address.as_v4(), Some(u32::from_ne_bytes([10, 1, 2, 3])));
    }

    #[test]
    fn special_addresses_are_known() {
        let mut one = [0; 16];
        one[15] = 1;
        assert!(Address::from_octets(one).is_loopback());
        assert!(v4([127, 9, 9, 9]).is_loopback());
        assert!(!v4([128, 0, 0, 1]).is_loopback());
        assert!(v4([0, 0, 0, 0]).is_unspecified());
        assert!(Address::UNSPECIFIED.is_unspecified());
        assert!(!Address::from_octets(one).is_unspecified());
        assert_eq!(Address::from_octets(one).as_v4(), None);
    }
}
