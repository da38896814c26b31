//! Where spans go, and of how many connections.

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::ConnectionId;

/// Who takes spans: `http://` or `https://`, a name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    is_tls: bool,
    host: String,
    port: u16,
}

/// Why a text names no collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "is not the URL of a collector like http://collector.example.org:4317: http or https, a host and a \
     port, and nothing behind it"
)]
pub struct CollectorError;

/// What part of all connections is traced: above 0, and up to 1. Both agents of a connection decide the
/// same, by its ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio(u64);

/// Why a text or a number is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("is not a part of all connections; use a number above 0 and up to 1, such as 0.1")]
pub struct RatioError;

impl Collector {
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let (scheme, rest) = text.split_once("://").ok_or(CollectorError)?;
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(CollectorError),
        };
        let (host, port) = rest.rsplit_once(':').ok_or(CollectorError)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
            None if is_name_or_v4(host) => host,
            _ => return Err(CollectorError),
        };
        let are_digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| *port != 0 && are_digits);
        Ok(Self { is_tls, host: host.to_owned(), port: port.ok_or(CollectorError)? })
    }
}

/// A DNS name (RFC 1123, section 2.1), or an address, which only then may be of digits alone.
fn is_name_or_v4(host: &str) -> bool {
    let is_number = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match is_number {
        true => host.parse::<std::net::Ipv4Addr>().is_ok(),
        false => host.len() <= 253 && host.split('.').all(is_label),
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl Ratio {
    pub const ALL: Self = Self(u64::MAX);

    /// Whether this connection is traced.
    pub fn takes(self, id: ConnectionId) -> bool {
        // No trace may be named by zeros alone.
        (1..=self.0).contains(&id.0)
    }
}

impl TryFrom<f64> for Ratio {
    type Error = RatioError;

    fn try_from(part: f64) -> Result<Self, RatioError> {
        let is_part = part > 0.0 && part <= 1.0;
        // What is beyond the last number, as all of 2^64 is, becomes the last one.
        if is_part { Ok(Self((part * 2_f64.powi(64)) as u64)) } else { Err(RatioError) }
    }
}

impl FromStr for Ratio {
    type Err = RatioError;

    fn from_str(text: &str) -> Result<Self, RatioError> {
        text.parse::<f64>().map_err(|_| RatioError)?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_written_as_it_is_read() {
        for (text, is_tls, host, port) in [
            ("http://collector:4317", false, "collector", 4317),
            ("https://otel.example.org:443", true, "otel.example.org", 443),
            ("http://10.0.0.1:4317", false, "10.0.0.1", 4317),
            ("https://[fd00::1]:4317", true, "fd00::1", 4317),
        ] {
            let collector: Collector = text.parse().unwrap();
            assert_eq!((collector.is_tls(), collector.host()), (is_tls, host));
            assert_eq!((collector.port(), collector.to_string()), (port, text.to_owned()));
        }
    }

    #[test]
    fn what_is_no_collector_is_refused() {
        for text in [
            "",
            "collector:4317",
            "grpc://collector:4317",
            "http://collector",
            "http://collector:0",
            "http://collector:+1",
            "http://collector:4317/",
            "http://collector:4317/v1/traces",
            "http://me@collector:4317",
            "http://:4317",
            "http://10.0.0:4317",
            "http://fd00::1:4317",
            "http://[fd00::1:4317",
            "http://collector :4317",
        ] {
            assert_eq!(text.parse::<Collector>(), Err(CollectorError), "{text}");
        }
    }

    #[test]
    fn a_ratio_takes_its_part_and_no_other() {
        let half: Ratio = "0.5".parse().unwrap();
        assert!(half.takes(ConnectionId(1)));
        assert!(half.takes(ConnectionId(1 << 62)));
        assert!(!half.takes(ConnectionId(3 << 62)));
        assert_eq!("1".parse(), Ok(Ratio::ALL));
        assert!(Ratio::ALL.takes(ConnectionId(u64::MAX)));
    }

    #[test]
    fn nothing_is_named_by_zeros() {
        assert!(!Ratio::ALL.takes(ConnectionId(0)));
    }

    #[test]
    fn what_is_no_part_is_refused() {
        for text in ["", "0", "-0.1", "1.01", "inf", "NaN", "all", "10%"] {
            assert_eq!(text.parse::<Ratio>(), Err(RatioError), "{text}");
        }
    }
}
