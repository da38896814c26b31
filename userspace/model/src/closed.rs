//! Why a connection ended: one closed enum, used by record, metric and test alike.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $code:literal;)*) => {
        /// Why a connection ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Closed {
            $($(#[$doc])* $variant,)*
        }

        impl Closed {
            pub const ALL: &'static [Closed] = &[$(Closed::$variant,)*];

            /// The name in records, metrics and on the command line.
            pub fn as_str(self) -> &'static str {
                match self { $(Closed::$variant => $text,)* }
            }

            /// The number that names this reason inside lanes (docs/lanes.md).
            pub fn code(self) -> u8 {
                match self { $(Closed::$variant => $code,)* }
            }

            pub fn from_code(code: u8) -> Option<Closed> {
                match code { $($code => Some(Closed::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Both directions were finished in order.
    Finished = "finished", 1;
    /// The calling application reset the connection.
    ResetByCaller = "reset_by_caller", 2;
    /// The called application reset the connection.
    ResetByCallee = "reset_by_callee", 3;
    /// Nobody listens on the called port.
    ApplicationRefused = "application_refused", 4;
    /// The called application did not accept in time.
    ApplicationTimedOut = "application_timed_out", 5;

    /// A connection reached the agent without having been steered there.
    NoOrigin = "no_origin", 16;
    /// The directory does not know the destination.
    NoRoute = "no_route", 17;
    /// The service has no endpoint.
    NoEndpoint = "no_endpoint", 18;
    /// A policy refused it; the record names the policy and the rule.
    Denied = "denied", 19;
    /// A bound on connections, handshakes or lanes was reached.
    LimitReached = "limit_reached", 20;
    /// The agent is stopping.
    Draining = "draining", 21;
    /// The permit was taken back while the connection was open.
    PermitLapsed = "permit_lapsed", 22;
    /// It was plaintext that a strict workload must not have.
    PlaintextUnwanted = "plaintext_unwanted", 23;

    /// Connecting to the far pod was refused.
    DialRefused = "dial_refused", 32;
    /// Connecting to the far pod took too long.
    DialTimedOut = "dial_timed_out", 33;
    /// The far pod cannot be reached.
    DialUnreachable = "dial_unreachable", 34;

    /// This workload has no certificate yet.
    OwnCertificateMissing = "own_certificate_missing", 48;
    /// This workload's certificate has expired.
    OwnCertificateExpired = "own_certificate_expired", 49;
    /// The TLS handshake took too long.
    HandshakeTimedOut = "handshake_timed_out", 50;
    /// The TLS handshake failed for another reason, named in the log.
    HandshakeFailed = "handshake_failed", 51;
    /// The peer offered no certificate.
    PeerWithoutCertificate = "peer_without_certificate", 52;
    /// The peer's certificate does not lead to a root of its trust domain.
    PeerUntrusted = "peer_untrusted", 53;
    /// The peer's certificate has expired or is not valid yet.
    PeerExpired = "peer_expired", 54;
    /// The peer's certificate does not carry exactly one valid SPIFFE ID.
    PeerIdentityInvalid = "peer_identity_invalid", 55;
    /// The peer belongs to a trust domain that is not trusted here.
    PeerWrongTrustDomain = "peer_wrong_trust_domain", 56;
    /// The peer is somebody else than the directory says.
    PeerUnexpected = "peer_unexpected", 57;
    /// The peer does not speak the lane protocol.
    PeerWithoutProtocol = "peer_without_protocol", 58;
    /// The peer refused our certificate.
    RefusedByPeer = "refused_by_peer", 59;
    /// One of the two is cut off.
    Quarantined = "quarantined", 60;

    /// The lane's transport ended in the middle of a connection.
    LaneBroken = "lane_broken", 64;
    /// The peer broke the lane protocol.
    LaneViolation = "lane_violation", 65;
}

impl Closed {
    /// Whether the connection was refused, as opposed to having ended after it was relayed.
    pub fn is_refusal(self) -> bool {
        !matches!(
            self,
            Closed::Finished
                | Closed::ResetByCaller
                | Closed::ResetByCallee
                | Closed::PermitLapsed
                | Closed::PlaintextUnwanted
                | Closed::LaneBroken
                | Closed::LaneViolation
                | Closed::Draining
        )
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_round_trip() {
        let mut names = std::collections::HashSet::new();
        for reason in Closed::ALL {
            assert_eq!(Closed::from_code(reason.code()), Some(*reason));
            assert!(names.insert(reason.as_str()));
            let json = serde_json::to_string(reason).unwrap();
            assert_eq!(json, format!("\"{}\"", reason.as_str()));
        }
        assert_eq!(Closed::from_code(0), None);
        assert_eq!(Closed::from_code(255), None);
    }
}
