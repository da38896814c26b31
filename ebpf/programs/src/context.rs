//! Access to context fields, one instruction each.
//!
//! The verifier accepts only loads and stores at a constant offset from the unmodified context
//! pointer. LLVM likes to merge neighbouring accesses into a computed address, also volatile ones;
//! an instruction written out leaves it nothing to merge.

/// Reads a 32-bit field.
macro_rules! load {
    ($context:expr, $offset:expr) => {
        $crate::context::load_pointer!($context, $offset) as u32
    };
}

/// Reads a field that is declared as 32 bits, and may be a pointer to the program.
macro_rules! load_pointer {
    ($context:expr, $offset:expr) => {{
        let value: u64;
        // SAFETY: the context pointer is valid while the program runs, and the verifier has checked
        // the offset and knows what the field is.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({context} + {offset})",
                value = out(reg) value,
                context = in(reg) $context,
                offset = const $offset,
                options(nostack, readonly, preserves_flags)
            )
        };
        value as usize
    }};
}

/// Writes a 32-bit field.
macro_rules! store {
    ($context:expr, $offset:expr, $value:expr) => {{
        let value = u64::from($value);
        // SAFETY: as in `load`; the verifier knows which fields may be written.
        unsafe {
            core::arch::asm!(
                "*(u32 *)({context} + {offset}) = {value}",
                value = in(reg) value,
                context = in(reg) $context,
                offset = const $offset,
                options(nostack, preserves_flags)
            )
        };
    }};
}

/// Reads four 32-bit fields that follow each other: an IPv6 address.
macro_rules! load_v6 {
    ($context:expr, $offset:expr) => {
        martlet_ebpf_shared::Address::v6([
            $crate::context::load!($context, $offset),
            $crate::context::load!($context, $offset + 4),
            $crate::context::load!($context, $offset + 8),
            $crate::context::load!($context, $offset + 12),
        ])
    };
}

/// Writes four 32-bit fields that follow each other.
macro_rules! store_v6 {
    ($context:expr, $offset:expr, $address:expr) => {{
        let words = $address.words;
        $crate::context::store!($context, $offset, words[0]);
        $crate::context::store!($context, $offset + 4, words[1]);
        $crate::context::store!($context, $offset + 8, words[2]);
        $crate::context::store!($context, $offset + 12, words[3]);
    }};
}

pub(crate) use {load, load_pointer, load_v6, store, store_v6};
