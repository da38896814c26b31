//! A packet's bytes, from programs on interfaces.

use core::mem::offset_of;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use martlet_ebpf_shared::packet::Bytes;

use crate::context::{load, load_pointer};

const LENGTH: usize = offset_of!(__sk_buff, len);
const DATA: usize = offset_of!(__sk_buff, data);
const DATA_END: usize = offset_of!(__sk_buff, data_end);

pub struct Frame(pub *mut __sk_buff);

impl Frame {
    /// Headers are almost always where the program can read them itself.
    #[inline(always)]
    fn linear(&self, at: u32, length: usize) -> Option<*const u8> {
        let start = load_pointer!(self.0, DATA) as *const u8;
        let end = load_pointer!(self.0, DATA_END) as *const u8;
        let bytes = start.wrapping_add(at as usize);
        (bytes.wrapping_add(length) <= end).then_some(bytes)
    }

    #[inline(always)]
    fn copy<T: Copy>(&self, at: u32, mut into: T) -> Option<T> {
        let length = size_of::<T>() as u32;
        // SAFETY: the helper writes all of it, or nothing and fails.
        let failed =
            unsafe { bpf_skb_load_bytes(self.0.cast(), at, (&raw mut into).cast(), length) };
        (failed == 0).then_some(into)
    }
}

impl Bytes for Frame {
    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        match self.linear(at, N) {
            // SAFETY: between the packet's start and its end, as the verifier checks.
            Some(bytes) => Some(unsafe { bytes.cast::<[u8; N]>().read_unaligned() }),
            None => self.copy(at, [0; N]),
        }
    }

    #[inline(always)]
    fn words<const N: usize>(&self, at: u32) -> Option<[u32; N]> {
        let Some(bytes) = self.linear(at, 4 * N) else { return self.copy(at, [0; N]) };
        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            // The verifier has checked that it is between the packet's start and its end.
            *word = load!(bytes.wrapping_add(4 * i), 0);
        }
        Some(words)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        load!(self.0, LENGTH)
    }
}
