//! The framing inside a lane, as `docs/lanes.md` specifies it. Pure: bytes in, frames out.
//!
//! The payload of `DATA` is passed on as it arrives; only the short payloads of other frames are
//! ever held together.

use martlet_model::{Closed, ConnectionId};
use thiserror::Error;

pub const HEADER_BYTES: usize = 4;
/// The longest payload of `DATA`.
pub const DATA_MAX: usize = 256 * 1024;
/// The longest text of a refusal.
pub const TEXT_MAX: usize = 255;

const OPEN: u8 = 1;
const DATA: u8 = 2;
const FINISH: u8 = 3;
const RESET: u8 = 4;
const REFUSED: u8 = 5;
const DONE: u8 = 6;
const PING: u8 = 7;
const PONG: u8 = 8;

const OPEN_BYTES: usize = 10;

/// The beginning of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Of the calling application's socket.
    pub source_port: u16,
    pub id: ConnectionId,
}

/// Anything but application bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Open(Open),
    /// No more bytes from this side.
    Finish,
    /// The called side has finished, has heard that the caller has, and has delivered everything.
    Done,
    /// The connection ends here and now.
    Reset(Closed),
    /// The called side does not carry this connection.
    Refused {
        reason: Closed,
        text: String,
    },
    /// The caller asks on an idle lane whether there is still somebody.
    Ping,
    /// The called side is there.
    Pong,
}

/// What stands next in a lane.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Application bytes, never none. They stay next until [`Decoder::take`] takes them.
    Bytes(&'a [u8]),
    Frame(Frame),
}

/// How a peer can break the framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("unknown frame type {0}")]
    Type(u8),
    #[error("a frame of type {kind} cannot have {length} bytes")]
    Length { kind: u8, length: usize },
    #[error("a frame of type {kind} cannot give the reason {code}")]
    Reason { kind: u8, code: u8 },
    #[error("a refusal's text is not UTF-8")]
    Text,
}

/// Takes a lane's bytes apart, however they are cut into pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    /// A header, and the payload after it unless it is `DATA`, as far as they have arrived.
    partial: Vec<u8>,
    /// How many bytes of the current `DATA` are still to come.
    data_left: usize,
}

impl Decoder {
    /// The next part of `input`, which is moved behind what was used. `None` asks for more.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Part<'a>>, FrameError> {
        if self.data_left > 0 {
            return Ok(bytes(input, self.data_left));
        }
        let Some(header) = self.gather(input, HEADER_BYTES) else { return Ok(None) };
        let (kind, length) = parse_header([header[0], header[1], header[2], header[3]])?;
        if kind == DATA {
            self.partial.clear();
            self.data_left = length;
            return Ok(bytes(input, self.data_left));
        }
        let Some(frame) = self.gather(input, HEADER_BYTES + length) else { return Ok(None) };
        let frame = parse_control(kind, &frame[HEADER_BYTES..])?;
        self.partial.clear();
        Ok(Some(Part::Frame(frame)))
    }

    /// The first `count` of the bytes that came last are used.
    pub fn take(&mut self, input: &mut &[u8], count: usize) {
        debug_assert!(count <= self.data_left && count <= input.len());
        *input = &input[count..];
        self.data_left -= count;
    }

    /// Whether the lane stands between two frames.
    pub fn is_between_frames(&self) -> bool {
        self.data_left == 0 && self.partial.is_empty()
    }

    /// The first `wanted` bytes of the frame, once they are there.
    fn gather(&mut self, input: &mut &[u8], wanted: usize) -> Option<&[u8]> {
        let missing = wanted.saturating_sub(self.partial.len()).min(input.len());
        self.partial.extend_from_slice(&input[..missing]);
        *input = &input[missing..];
        self.partial.get(..wanted)
    }
}

fn bytes<'a>(input: &&'a [u8], data_left: usize) -> Option<Part<'a>> {
    let available = &input[..input.len().min(data_left)];
    (!available.is_empty()).then_some(Part::Bytes(available))
}

fn parse_header([kind, a, b, c]: [u8; HEADER_BYTES]) -> Result<(u8, usize), FrameError> {
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let fits = match kind {
        // Empty DATA would let a peer keep us busy with nothing.
        DATA => (1..=DATA_MAX).contains(&length),
        OPEN => length == OPEN_BYTES,
        FINISH | DONE | PING | PONG => length == 0,
        RESET => length == 1,
        REFUSED => (1..=1 + TEXT_MAX).contains(&length),
        _ => return Err(FrameError::Type(kind)),
    };
    if fits { Ok((kind, length)) } else { Err(FrameError::Length { kind, length }) }
}

/// `payload` has the length that the header announced.
fn parse_control(kind: u8, payload: &[u8]) -> Result<Frame, FrameError> {
    let wrong = FrameError::Length { kind, length: payload.len() };
    match kind {
        OPEN => {
            let (port, id) = payload.split_first_chunk().ok_or(wrong)?;
            let id = id.try_into().map_err(|_| wrong)?;
            let id = ConnectionId(u64::from_be_bytes(id));
            Ok(Frame::Open(Open { source_port: u16::from_be_bytes(*port), id }))
        }
        FINISH => Ok(Frame::Finish),
        DONE => Ok(Frame::Done),
        PING => Ok(Frame::Ping),
        PONG => Ok(Frame::Pong),
        RESET => {
            let (code, _) = payload.split_first().ok_or(wrong)?;
            let reason = Closed::from_code(*code).filter(|reason| *reason != Closed::Finished);
            Ok(Frame::Reset(reason.ok_or(FrameError::Reason { kind, code: *code })?))
        }
        REFUSED => {
            let (code, text) = payload.split_first().ok_or(wrong)?;
            let reason = Closed::from_code(*code).filter(|reason| reason.is_refusal());
            let reason = reason.ok_or(FrameError::Reason { kind, code: *code })?;
            let text = str::from_utf8(text).map_err(|_| FrameError::Text)?.to_owned();
            Ok(Frame::Refused { reason, text })
        }
        other => Err(FrameError::Type(other)),
    }
}

impl Frame {
    pub fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Open(open) => to.extend_from_slice(&open.bytes()),
            Self::Finish => to.extend_from_slice(&header(FINISH, 0)),
            Self::Done => to.extend_from_slice(&header(DONE, 0)),
            Self::Ping => to.extend_from_slice(&header(PING, 0)),
            Self::Pong => to.extend_from_slice(&header(PONG, 0)),
            Self::Reset(reason) => {
                to.extend_from_slice(&header(RESET, 1));
                to.push(reason.code());
            }
            Self::Refused { reason, text } => {
                let text = &text[..text.floor_char_boundary(TEXT_MAX)];
                to.extend_from_slice(&header(REFUSED, 1 + text.len()));
                to.push(reason.code());
                to.extend_from_slice(text.as_bytes());
            }
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes
    }
}

impl Open {
    pub fn bytes(&self) -> [u8; HEADER_BYTES + OPEN_BYTES] {
        let mut bytes = [0; HEADER_BYTES + OPEN_BYTES];
        bytes[..4].copy_from_slice(&header(OPEN, OPEN_BYTES));
        bytes[4..6].copy_from_slice(&self.source_port.to_be_bytes());
        bytes[6..].copy_from_slice(&self.id.0.to_be_bytes());
        bytes
    }
}

/// The header of `DATA` with `length` bytes, which is at most [`DATA_MAX`].
pub fn data_header(length: usize) -> [u8; HEADER_BYTES] {
    debug_assert!((1..=DATA_MAX).contains(&length));
    header(DATA, length)
}

fn header(kind: u8, length: usize) -> [u8; HEADER_BYTES] {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    [kind, a, b, c]
}

#[cfg(test)]
mod tests;
