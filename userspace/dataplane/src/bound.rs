//! Which bound refused a connection: `limit_reached` in its record, counted apart.

/// A bound of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// On the connections that it opens, or that it is called by.
    Connections,
    /// On what one address holds of the latter.
    ConnectionsOfAddress,
    /// On what one identity holds of them.
    ConnectionsOfIdentity,
    /// On handshakes at a time, all of them or one caller's.
    Handshakes,
    /// On handshakes in a second.
    HandshakeRate,
}

impl Bound {
    pub const ALL: [Bound; 5] = [
        Bound::Connections,
        Bound::ConnectionsOfAddress,
        Bound::ConnectionsOfIdentity,
        Bound::Handshakes,
        Bound::HandshakeRate,
    ];

    /// The name of its counter.
    pub fn as_str(self) -> &'static str {
        match self {
            Bound::Connections => "refused_connections",
            Bound::ConnectionsOfAddress => "refused_connections_of_address",
            Bound::ConnectionsOfIdentity => "refused_connections_of_identity",
            Bound::Handshakes => "refused_handshakes",
            Bound::HandshakeRate => "refused_handshake_rate",
        }
    }
}
