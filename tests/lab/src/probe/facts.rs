//! What is said about one end of one connection.

use std::{
    io,
    net::TcpStream,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use serde_json::{Value, json};

#[derive(Default)]
pub struct Facts {
    pub local: Option<String>,
    pub peer: Option<String>,
    pub sent: u64,
    pub sent_checksum: u32,
    pub received: u64,
    pub received_checksum: u32,
    /// The other end finished in order.
    pub is_finished: bool,
    pub read_error: Option<String>,
    pub write_error: Option<String>,
    pub first_byte: Option<Duration>,
    /// Replies that were not the expected ones.
    pub mismatches: u64,
    /// The first bytes that came, as text.
    pub beginning: Vec<u8>,
}

impl Facts {
    pub fn of(stream: &TcpStream) -> Facts {
        Facts {
            local: stream.local_addr().ok().map(|address| address.to_string()),
            peer: stream
                .peer_addr()
                .map_or_else(|error| Some(name(&error)), |address| Some(address.to_string())),
            ..Facts::default()
        }
    }

    pub fn to_json(&self) -> Value {
        json!({
            "local": self.local,
            "peer": self.peer,
            "sent": self.sent,
            "sent_checksum": self.sent_checksum,
            "received": self.received,
            "received_checksum": self.received_checksum,
            "finished": self.is_finished,
            "read_error": self.read_error,
            "write_error": self.write_error,
            "first_byte_us": self.first_byte.map(micros),
            "mismatches": self.mismatches,
            "beginning": String::from_utf8_lossy(&self.beginning),
        })
    }
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds of the wall clock, which all programs of a lab share.
pub fn wall_clock() -> u64 {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// `ECONNREFUSED` rather than a sentence.
pub fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => format!("{:?}", error.kind()),
    }
}

/// Thousands of connections need as many files.
pub fn raise_file_limit() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.max(200_000);
    // Only root may go beyond the hard limit.
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}
