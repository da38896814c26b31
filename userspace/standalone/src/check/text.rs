//! From the file's texts to values, one kind of text at a time.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Component, Path, PathBuf},
};

use ipnet::IpNet;
use martlet_model::{Label, SpiffeId, TrustDomain};
use martlet_policy::{IdentityMatch, PortRange};

use super::Findings;
use crate::{
    limits,
    mark::{At, Texts},
    problem::Fault,
};

pub(super) fn label(text: &At<String>, found: &mut Findings) -> Option<Label> {
    found.keep(text.mark, text.value.parse::<Label>())
}

pub(super) fn labels(texts: &Texts, found: &mut Findings) -> Vec<Label> {
    texts.value.iter().filter_map(|text| label(text, found)).collect()
}

pub(super) fn trust_domain(text: &At<String>, found: &mut Findings) -> Option<TrustDomain> {
    let parsed = text.value.parse();
    let refused = |reason| Fault::TrustDomain { text: shown(&text.value), reason };
    found.keep(text.mark, parsed.map_err(refused))
}

/// A whole identity, or with `/` at its end all below it.
pub(super) fn identity(text: &At<String>, found: &mut Findings) -> Option<IdentityMatch> {
    found.keep(text.mark, parse_identity(&text.value))
}

pub(super) fn path(text: &At<String>, found: &mut Findings) -> Option<PathBuf> {
    found.keep(text.mark, parse_path(&text.value, limits::MAX_PATH_BYTES))
}

pub(super) fn socket_path(text: &At<String>, found: &mut Findings) -> Option<PathBuf> {
    found.keep(text.mark, parse_path(&text.value, limits::MAX_SOCKET_PATH_BYTES))
}

pub(super) fn pid(text: &At<String>, found: &mut Findings) -> Option<u32> {
    let parsed = number::<u32>(&text.value).filter(|pid| (1..=i32::MAX as u32).contains(pid));
    found.keep(text.mark, parsed.ok_or_else(|| Fault::Pid(shown(&text.value))))
}

/// An address by which something in the mesh can be reached.
pub(super) fn address(text: &At<String>, found: &mut Findings) -> Option<IpAddr> {
    let parsed = text.value.parse().map_err(|_| Fault::Address(shown(&text.value)));
    found.keep(text.mark, parsed.and_then(reachable))
}

pub(super) fn endpoint(text: &At<String>, found: &mut Findings) -> Option<SocketAddr> {
    let refused = |_| Fault::AddressAndPort(shown(&text.value));
    let parsed = text.value.parse::<SocketAddr>().map_err(refused).and_then(with_port);
    found.keep(text.mark, parsed.and_then(|endpoint| reachable(endpoint.ip()).map(|_| endpoint)))
}

/// Where to listen; `0.0.0.0` and loopback addresses are fine here.
pub(super) fn listen(text: &At<String>, found: &mut Findings) -> Option<SocketAddr> {
    let refused = |_| Fault::Metrics(shown(&text.value));
    found.keep(text.mark, text.value.parse().map_err(refused).and_then(with_port))
}

/// The same for agents.
pub(super) fn listen_at(text: &At<String>, found: &mut Findings) -> Option<SocketAddr> {
    let refused = |_| Fault::Listen(shown(&text.value));
    found.keep(text.mark, text.value.parse().map_err(refused).and_then(with_port))
}

/// Whom to connect to: a DNS name (RFC 1123, section 2.1) or an address, and a port.
pub(super) fn host_and_port(text: &At<String>, found: &mut Findings) -> Option<String> {
    found.keep(text.mark, parse_host_and_port(&text.value))
}

/// `https`, a host, a port if it is another than 443, and a path.
pub(super) fn https_url(text: &At<String>, found: &mut Findings) -> Option<String> {
    let refused = || Fault::Url(shown(&text.value));
    let parsed = match text.value.strip_prefix("https://") {
        Some(rest) if text.value.len() <= limits::MAX_URL_BYTES => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let (is_port_said, is_v6) = (authority.contains(':'), authority.ends_with(']'));
            let host = match is_port_said && !is_v6 {
                true => parse_host_and_port(authority),
                false => parse_host_and_port(&format!("{authority}:443")),
            };
            let is_whole = host.is_ok() && (path.is_empty() || is_url_path(path, "?&=%"));
            if is_whole { Ok(text.value.clone()) } else { Err(refused()) }
        }
        _ => Err(refused()),
    };
    found.keep(text.mark, parsed)
}

/// As it is compared with what callers ask for: without a query, and nothing encoded.
pub(super) fn url_path(text: &At<String>, found: &mut Findings) -> Option<String> {
    let is_path = text.value.len() <= limits::MAX_URL_PATH_BYTES && is_url_path(&text.value, "");
    let parsed =
        if is_path { Ok(text.value.clone()) } else { Err(Fault::UrlPath(shown(&text.value))) };
    found.keep(text.mark, parsed)
}

fn is_url_path(text: &str, more: &str) -> bool {
    // Unreserved characters (RFC 3986, section 2.3) and slashes.
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "/-._~".contains(char);
    text.starts_with('/') && text.chars().all(|char| is_plain(char) || more.contains(char))
}

pub(super) fn port(text: &At<String>, found: &mut Findings) -> Option<u16> {
    found.keep(text.mark, parse_port(&text.value))
}

/// One port, or two with `-` between them.
pub(super) fn port_range(text: &At<String>, found: &mut Findings) -> Option<PortRange> {
    let parsed = match text.value.split_once('-') {
        None => parse_port(&text.value).map(|port| PortRange { first: port, last: port }),
        Some((first, last)) => match (number(first), number(last)) {
            (Some(first), Some(last)) if 0 < first && first <= last => {
                Ok(PortRange { first, last })
            }
            _ => Err(Fault::PortRange(shown(&text.value))),
        },
    };
    found.keep(text.mark, parsed)
}

pub(super) fn network(text: &At<String>, found: &mut Findings) -> Option<IpNet> {
    found.keep(text.mark, parse_network(&text.value))
}

fn parse_identity(text: &str) -> Result<IdentityMatch, Fault> {
    let refused = |reason| Fault::Identity { text: shown(text), reason };
    match text.strip_suffix('/') {
        None => text.parse().map(IdentityMatch::Exact).map_err(refused),
        // What is below a path is judged by the name of somebody who could be there.
        Some(_) => match format!("{text}x").parse::<SpiffeId>() {
            Ok(_) => Ok(IdentityMatch::Below(text.to_owned())),
            Err(reason) => Err(refused(reason)),
        },
    }
}

fn parse_path(text: &str, max: usize) -> Result<PathBuf, Fault> {
    if !text.starts_with('/') {
        return Err(Fault::RelativePath(shown(text)));
    }
    if text.len() > max {
        return Err(Fault::LongPath { length: text.len(), max });
    }
    if text.contains('\0') {
        return Err(Fault::ZeroInPath);
    }
    let path = Path::new(text);
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(Fault::ParentInPath(shown(text)));
    }
    // Without doubled and trailing slashes, so that equal paths are equal values.
    Ok(path.components().collect())
}

fn reachable(address: IpAddr) -> Result<IpAddr, Fault> {
    let plain = address.to_canonical();
    if plain != address {
        return Err(Fault::MappedAddress { address, plain });
    }
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let kind = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        _ if broadcast => "the broadcast address",
        _ if link_local => "a link-local address",
        _ => return Ok(address),
    };
    Err(Fault::UnreachableAddress { address, kind })
}

fn with_port(address: SocketAddr) -> Result<SocketAddr, Fault> {
    if address.port() == 0 { Err(Fault::PortZero) } else { Ok(address) }
}

fn parse_port(text: &str) -> Result<u16, Fault> {
    match number(text) {
        Some(0) => Err(Fault::PortZero),
        Some(port) => Ok(port),
        None => Err(Fault::Port(shown(text))),
    }
}

fn parse_host_and_port(text: &str) -> Result<String, Fault> {
    let refused = || Fault::HostAndPort(shown(text));
    if let Ok(address) = text.parse::<SocketAddr>() {
        return with_port(address).map(|_| text.to_owned());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
    // What looks like an address and is none is no name either.
    let is_number = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if is_number || host.len() > limits::MAX_HOST_BYTES || !host.split('.').all(is_label) {
        return Err(refused());
    }
    parse_port(port).map(|_| text.to_owned())
}

fn parse_network(text: &str) -> Result<IpNet, Fault> {
    let refused = || Fault::Network(shown(text));
    let given = match text.contains('/') {
        true => text.parse::<IpNet>().map_err(|_| refused())?,
        false => text.parse::<IpAddr>().map_err(|_| refused())?.into(),
    };
    let plain = given.addr().to_canonical();
    if plain != given.addr() {
        return Err(Fault::MappedAddress { address: given.addr(), plain });
    }
    let network = given.trunc();
    if network == given { Ok(given) } else { Err(Fault::HostBits { given, network }) }
}

/// Enough of a text to find it again.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(limits::MAX_SHOWN).collect()
}

/// Digits only: what `parse` also takes, a plus sign, is a slip in this file.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}
