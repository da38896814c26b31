//! A message to an agent, of which a part may have been encoded before, for many agents at once.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType},
};

use crate::proto::ToAgent;

/// On the wire it is a [`ToAgent`]: fields may come in any order, and those that are repeated are
/// joined.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Telling {
    pub said: ToAgent,
    /// More fields of it; none where it was received.
    pub encoded: Bytes,
}

impl From<ToAgent> for Telling {
    fn from(said: ToAgent) -> Self {
        Self { said, encoded: Bytes::new() }
    }
}

impl Message for Telling {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.said.encode_raw(buf);
        buf.put_slice(&self.encoded);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.said.merge_field(tag, wire_type, buf, context)
    }

    fn encoded_len(&self) -> usize {
        self.said.encoded_len() + self.encoded.len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}
