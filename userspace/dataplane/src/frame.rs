//! The framing inside a lane, as `docs/lanes.md` specifies it. Pure.
//!
//! Four bytes of header, type and length, then the payload. The payload of `DATA` is not part of
//! a [`Frame`]: it is passed on as it arrives.

use martlet_model::{Closed, ConnectionId};
use thiserror::Error;

pub const HEADER_BYTES: usize = 4;
/// The longest payload of `DATA`.
pub const DATA_MAX: usize = 64 * 1024;
/// The longest payload of any other frame: a refusal with its text.
const CONTROL_MAX: usize = 1 + 255;
const OPEN_BYTES: usize = 10;

const OPEN: u8 = 1;
const DATA: u8 = 2;
const FINISH: u8 = 3;
const RESET: u8 = 4;
const REFUSED: u8 = 5;

/// What a header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// So many bytes of the application follow; never 0.
    Data(usize),
    /// A control frame with a payload of so many bytes.
    Control { kind: u8, length: usize },
}

/// A control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The caller begins a connection; its application's source port, and a name for records.
    Open { source_port: u16, id: ConnectionId },
    /// No more bytes from this side.
    Finish,
    /// This side's application has reset the connection.
    Reset,
    /// The called side will not carry this connection.
    Refused { reason: Closed, policy: String },
}

/// How a peer can break the framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("unknown frame type {0}")]
    Type(u8),
    #[error("a frame of type {kind} cannot have {length} bytes")]
    Length { kind: u8, length: usize },
    #[error("unknown refusal {0}")]
    Reason(u8),
    #[error("a refusal's text is not UTF-8")]
    Text,
}

impl Header {
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [kind, a, b, c] = bytes;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let fits = match kind {
            DATA => (1..=DATA_MAX).contains(&length),
            OPEN => length == OPEN_BYTES,
            FINISH | RESET => length == 0,
            REFUSED => (1..=CONTROL_MAX).contains(&length),
            _ => return Err(FrameError::Type(kind)),
        };
        match (fits, kind) {
            (false, _) => Err(FrameError::Length { kind, length }),
            (true, DATA) => Ok(Self::Data(length)),
            (true, _) => Ok(Self::Control { kind, length }),
        }
    }
}

impl Frame {
    /// `payload` has the length that the header announced.
    pub fn parse(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        let length = FrameError::Length { kind, length: payload.len() };
        match kind {
            OPEN => {
                let (port, id) = payload.split_at_checked(2).ok_or(length)?;
                let port = port.try_into().map_err(|_| length)?;
                let id = id.try_into().map_err(|_| length)?;
                Ok(Self::Open {
                    source_port: u16::from_be_bytes(port),
                    id: ConnectionId(u64::from_be_bytes(id)),
                })
            }
            FINISH => Ok(Self::Finish),
            RESET => Ok(Self::Reset),
            REFUSED => {
                let (code, text) = payload.split_first().ok_or(length)?;
                let reason = Closed::from_code(*code).ok_or(FrameError::Reason(*code))?;
                let policy = str::from_utf8(text).map_err(|_| FrameError::Text)?.to_owned();
                Ok(Self::Refused { reason, policy })
            }
            other => Err(FrameError::Type(other)),
        }
    }

    pub fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Open { source_port, id } => {
                header(OPEN, OPEN_BYTES, to);
                to.extend_from_slice(&source_port.to_be_bytes());
                to.extend_from_slice(&id.0.to_be_bytes());
            }
            Self::Finish => header(FINISH, 0, to),
            Self::Reset => header(RESET, 0, to),
            Self::Refused { reason, policy } => {
                let end = policy.floor_char_boundary(CONTROL_MAX - 1);
                header(REFUSED, 1 + end, to);
                to.push(reason.code());
                to.extend_from_slice(&policy.as_bytes()[..end]);
            }
        }
    }
}

/// The header of `DATA` with `length` bytes, which is at most [`DATA_MAX`].
pub fn data_header(length: usize) -> [u8; HEADER_BYTES] {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    [DATA, a, b, c]
}

fn header(kind: u8, length: usize, to: &mut Vec<u8>) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    to.extend_from_slice(&[kind, a, b, c]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Frame, FrameError> {
        match Header::parse([bytes[0], bytes[1], bytes[2], bytes[3]])? {
            Header::Data(length) => panic!("{length} bytes of data"),
            Header::Control { kind, length } => {
                assert_eq!(length, bytes.len() - HEADER_BYTES);
                Frame::parse(kind, &bytes[HEADER_BYTES..])
            }
        }
    }

    #[test]
    fn control_frames_round_trip() {
        for frame in [
            Frame::Open { source_port: 40_000, id: ConnectionId(u64::MAX - 1) },
            Frame::Finish,
            Frame::Reset,
            Frame::Refused { reason: Closed::Denied, policy: "shop/only-cart: rule 1".into() },
        ] {
            let mut bytes = Vec::new();
            frame.write(&mut bytes);
            assert_eq!(read(&bytes), Ok(frame));
        }
        assert_eq!(Header::parse(data_header(65_536)), Ok(Header::Data(65_536)));
    }

    #[test]
    fn a_long_refusal_is_cut_between_characters() {
        let mut bytes = Vec::new();
        Frame::Refused { reason: Closed::Denied, policy: "ü".repeat(200) }.write(&mut bytes);
        let Ok(Frame::Refused { policy, .. }) = read(&bytes) else { panic!("a refusal") };
        assert_eq!(policy, "ü".repeat(127));
    }

    #[test]
    fn what_the_specification_does_not_know_is_refused() {
        for (bytes, error) in [
            ([0, 0, 0, 0], FrameError::Type(0)),
            ([6, 0, 0, 0], FrameError::Type(6)),
            ([255, 255, 255, 255], FrameError::Type(255)),
            ([DATA, 0, 0, 0], FrameError::Length { kind: DATA, length: 0 }),
            ([DATA, 1, 0, 1], FrameError::Length { kind: DATA, length: 65_537 }),
            ([OPEN, 0, 0, 9], FrameError::Length { kind: OPEN, length: 9 }),
            ([FINISH, 0, 0, 1], FrameError::Length { kind: FINISH, length: 1 }),
            ([RESET, 0, 0, 1], FrameError::Length { kind: RESET, length: 1 }),
            ([REFUSED, 0, 0, 0], FrameError::Length { kind: REFUSED, length: 0 }),
            ([REFUSED, 0, 1, 1], FrameError::Length { kind: REFUSED, length: 257 }),
        ] {
            assert_eq!(Header::parse(bytes), Err(error));
        }
        assert_eq!(Frame::parse(REFUSED, &[0]), Err(FrameError::Reason(0)));
        assert_eq!(Frame::parse(REFUSED, &[19, 0xff]), Err(FrameError::Text));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(head: [u8; 4], payload: Vec<u8>) {
            if let Ok(Header::Control { kind, .. }) = Header::parse(head) {
                let _ = Frame::parse(kind, &payload);
            }
        }
    }
}
