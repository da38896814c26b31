//! Where another trust domain publishes its roots, and how that place proves itself.

use std::{fmt, str::FromStr};

use hyper::Uri;
use martlet_identity::endpoint::WebRoots;
use martlet_model::{SpiffeId, TrustDomain};
use thiserror::Error;

/// The three things that have to be declared (SPIFFE Federation, section 5.1).
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Whose roots they are.
    pub domain: TrustDomain,
    pub url: EndpointUrl,
    pub profile: Profile,
}

/// How an endpoint proves itself (SPIFFE Federation, section 5.2).
#[derive(Debug, Clone)]
pub enum Profile {
    /// `https_web`: the host's name is proven by these authorities.
    Web(WebRoots),
    /// `https_spiffe`: this identity is proven by a bundle that we hold already.
    Spiffe(SpiffeId),
}

/// An `https` URL without user information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    host: String,
    port: u16,
    path: String,
}

/// Why a text is no URL of a bundle endpoint, or an endpoint cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndpointError {
    #[error("{0:?} is no URL of a bundle endpoint: write https://<host>[:<port>]/<path>")]
    Url(String),
    #[error("{0} is our own trust domain: nobody else may publish its roots")]
    OwnDomain(TrustDomain),
}

impl EndpointUrl {
    /// A name or an address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What the header `host` says.
    pub(crate) fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match self.port {
            443 => host,
            port => format!("{host}:{port}"),
        }
    }
}

impl FromStr for EndpointUrl {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let refused = || EndpointError::Url(text.chars().take(256).collect());
        let uri: Uri = text.parse().map_err(|_| refused())?;
        let authority = uri.authority().ok_or_else(refused)?;
        let is_https = uri.scheme_str() == Some("https");
        // A fragment would be lost without a word.
        if !is_https || authority.as_str().contains('@') || text.contains('#') {
            return Err(refused());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => 443,
            Some(rest) => {
                let port = rest.strip_prefix(':').and_then(|port| port.parse().ok());
                port.filter(|port| *port != 0).ok_or_else(refused)?
            }
            None => return Err(refused()),
        };
        if host.is_empty() {
            return Err(refused());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { host: host.to_owned(), port, path })
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_https_url_has_its_parts_and_is_written_as_it_is_read() {
        for (text, host, port, path) in [
            ("https://b.org/bundle", "b.org", 443, "/bundle"),
            ("https://b.org:8443/a/b?c=d", "b.org", 8443, "/a/b?c=d"),
            ("https://10.0.0.1/", "10.0.0.1", 443, "/"),
            ("https://[fd00::1]:8443/b", "fd00::1", 8443, "/b"),
            ("https://[fd00::1]/b", "fd00::1", 443, "/b"),
        ] {
            let url: EndpointUrl = text.parse().unwrap();
            assert_eq!((url.host(), url.port(), url.path()), (host, port, path));
            assert_eq!(url.to_string(), text);
        }
        assert_eq!("https://b.org".parse::<EndpointUrl>().unwrap().to_string(), "https://b.org/");
    }

    #[test]
    fn whatever_is_no_https_url_is_refused() {
        for text in [
            "",
            "b.org",
            "/bundle",
            "http://b.org/",
            "spiffe://b.org/a",
            "https:///bundle",
            "https://",
            "https://user@b.org/",
            "https://user:word@b.org/",
            "https://b.org:0/",
            "https://b.org:70000/",
            "https://b.org:/",
            "https://b.org:a/",
            "https://b.org/#a",
            "https://b .org/",
            "https://b.org/\n",
        ] {
            assert!(text.parse::<EndpointUrl>().is_err(), "{text:?}");
        }
    }
}
