//! What the kernel programs count: one number per hook and verdict.

macro_rules! events {
    ($($variant:ident = $hook:literal / $verdict:literal;)*) => {
        /// A hook's verdict; the number is the index into the counters' array.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Event { $($variant,)* }

        impl Event {
            pub const ALL: &'static [Event] = &[$(Event::$variant,)*];
            pub const COUNT: u32 = Self::ALL.len() as u32;

            pub const fn hook(self) -> &'static str {
                match self { $(Event::$variant => $hook,)* }
            }

            pub const fn verdict(self) -> &'static str {
                match self { $(Event::$variant => $verdict,)* }
            }
        }
    };
}

events! {
    ConnectSteered = "connect" / "steered";
    ConnectOutside = "connect" / "passed_outside_mesh";
    ConnectOwn = "connect" / "passed_own_address";
    ConnectAgent = "connect" / "passed_agent";
    ConnectFailedOpen = "connect" / "passed_failed_open";
    ConnectUndecided = "connect" / "refused_undecided";
    ConnectNoFamily = "connect" / "refused_address_family";
    ConnectDevice = "connect" / "refused_bound_to_device";
    ConnectNoMemory = "connect" / "refused_no_memory";
    ConnectDialQuota = "connect" / "refused_dial_quota";
    PublishedOrigin = "establish" / "published_origin";
    PublishedClient = "establish" / "published_client";
    PublishedOwn = "establish" / "published_own";
    PublishFailed = "establish" / "publish_failed";
    PublishQuota = "establish" / "refused_in_flight_quota";
    Intercepted = "establish" / "origin_attached";
    ClientShown = "establish" / "client_attached";
    AttachFailed = "establish" / "attach_failed";
    ListenSeen = "establish" / "listen_seen";
    ListenEnded = "establish" / "listen_ended";
    ListenEndUntold = "establish" / "listen_end_untold";
    ListenLost = "establish" / "listen_lost";
    ListenQuota = "establish" / "listen_quota";
    LookupOutbound = "lookup" / "to_outbound";
    LookupInbound = "lookup" / "to_inbound";
    LookupOwn = "lookup" / "passed_own";
    LookupPlaintext = "lookup" / "passed_plaintext";
    LookupProbe = "lookup" / "passed_probe";
    LookupFailedOpen = "lookup" / "passed_failed_open";
    LookupRefusedPlaintext = "lookup" / "refused_plaintext";
    LookupRefusedAddress = "lookup" / "refused_undeclared_address";
    LookupRefusedNoOrigin = "lookup" / "refused_no_origin";
    LookupRefusedNoListener = "lookup" / "refused_nobody_listens";
    LookupRefusedNoAgent = "lookup" / "refused_no_agent";
    PeernameShown = "peername" / "shown";
    GuardAgent = "guard" / "passed_agent";
    GuardOutside = "guard" / "passed_outside_mesh";
    GuardBare = "guard" / "passed_without_payload";
    GuardOwn = "guard" / "passed_own_connection";
    GuardOlder = "guard" / "passed_older_connection";
    GuardEnded = "guard" / "passed_ended_connection";
    GuardProbe = "guard" / "passed_probe";
    GuardFailedOpen = "guard" / "passed_failed_open";
    GuardUdp = "guard" / "passed_udp";
    GuardControl = "guard" / "passed_control";
    GuardOther = "guard" / "passed_other_protocol";
    GuardForged = "guard" / "refused_forged_source";
    GuardPlaintext = "guard" / "refused_plaintext";
    GuardFragment = "guard" / "refused_fragment";
    GuardTunnel = "guard" / "refused_tunnel";
    GuardProtocol = "guard" / "refused_protocol";
    GuardUdpRefused = "guard" / "refused_udp";
    GuardUnreadable = "guard" / "refused_unreadable";
    GuardUnknown = "guard" / "refused_unknown_interface";
    LedgerFull = "ledger" / "counted_among_others";
}
