//! Numbers, times and identities as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use martlet_model::{Party, SpiffeId, TrustDomain};

/// `77 B`, `4.0 KiB`, `1.2 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    let mut scaled = count as f64 / 1024.0;
    // What would be printed as 1024.0 belongs to the next unit.
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// At most two units, cut off: `850µs`, `12ms`, `5s`, `3m 12s`, `10d 12h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |large: u64, small: u64, names: (&str, &str)| match small {
        0 => format!("{large}{}", names.0),
        _ => format!("{large}{} {small}{}", names.0, names.1),
    };
    match seconds {
        0 if span.as_millis() == 0 => format!("{}µs", span.as_micros()),
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, seconds % 60, ("m", "s")),
        3600..86_400 => two(seconds / 3600, seconds / 60 % 60, ("h", "m")),
        _ => two(seconds / 86_400, seconds / 3600 % 24, ("d", "h")),
    }
}

/// `in 12h`, or `2h ago`.
pub fn relative(unix_seconds: u64, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = Duration::from_secs(unix_seconds);
    match then.checked_sub(now) {
        Some(left) => format!("in {}", span(left)),
        None => format!("{} ago", span(now - then)),
    }
}

/// How identities are written in one answer: those of the first one's trust domain by their path.
#[derive(Default)]
pub struct Names {
    home: Option<TrustDomain>,
}

impl Names {
    pub fn of<'a>(identities: impl IntoIterator<Item = &'a SpiffeId>) -> Self {
        Self { home: identities.into_iter().next().map(SpiffeId::trust_domain) }
    }

    /// `ns/shop/sa/web`, or in full if it belongs to another trust domain.
    pub fn identity(&self, identity: &SpiffeId) -> String {
        match &self.home {
            Some(home) if *home == identity.trust_domain() => identity.path()[1..].to_owned(),
            _ => identity.to_string(),
        }
    }

    pub fn party(&self, party: &Party) -> String {
        party.identity.as_ref().map_or_else(unknown, |identity| self.identity(identity))
    }

    /// Says what was left out above; nothing if nothing was.
    pub fn legend(&self) -> String {
        let home = self.home.as_ref();
        home.map(|home| format!("\nidentities are within spiffe://{home}/\n")).unwrap_or_default()
    }
}

/// The workload, or the address of one that is not known.
pub fn place(party: &Party) -> String {
    match (&party.workload, party.address) {
        (Some(workload), _) => workload.to_string(),
        (None, Some(address)) => address.to_string(),
        (None, None) => unknown(),
    }
}

/// The workload and the port that is called; in parentheses, the service that was asked for.
pub fn destination(party: &Party, origin: Option<std::net::SocketAddr>) -> String {
    let reached = match (&party.workload, party.address) {
        (Some(workload), Some(address)) => format!("{workload}:{}", address.port()),
        _ => place(party),
    };
    match origin {
        Some(origin) if Some(origin) != party.address => format!("{reached} ({origin})"),
        _ => reached,
    }
}

pub fn unknown() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_bytes_are_short() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn spans_have_at_most_two_units() {
        for (microseconds, text) in [
            (0, "0µs"),
            (850, "850µs"),
            (1_500, "1ms"),
            (999_999, "999ms"),
            (59_999_999, "59s"),
            (60_000_000, "1m"),
            (192_000_000, "3m 12s"),
            (3_600_000_000, "1h"),
            (907_200_000_000, "10d 12h"),
        ] {
            assert_eq!(span(Duration::from_micros(microseconds)), text);
        }
    }

    #[test]
    fn times_are_told_from_now() {
        let now = UNIX_EPOCH + Duration::from_secs(10_000);
        assert_eq!(relative(10_060, now), "in 1m");
        assert_eq!(relative(2_800, now), "2h ago");
        assert_eq!(relative(u64::MAX, now).split_once('d').unwrap().0.get(..3), Some("in "));
    }

    #[test]
    fn identities_of_another_trust_domain_are_written_in_full() {
        let ours: SpiffeId = "spiffe://demo.example/ns/shop/sa/web".parse().unwrap();
        let theirs: SpiffeId = "spiffe://other.example/ns/shop/sa/web".parse().unwrap();
        let names = Names::of([&ours, &theirs]);
        assert_eq!(names.identity(&ours), "ns/shop/sa/web");
        assert_eq!(names.identity(&theirs), theirs.as_str());
        assert_eq!(Names::default().identity(&ours), ours.as_str());
        assert_eq!(Names::default().legend(), "");
    }

    #[test]
    fn a_service_is_shown_beside_the_endpoint_that_was_reached() {
        let party = Party { address: Some("10.1.0.3:8080".parse().unwrap()), ..Party::default() };
        let service = Some("10.96.0.10:80".parse().unwrap());
        assert_eq!(destination(&party, service), "10.1.0.3:8080 (10.96.0.10:80)");
        assert_eq!(destination(&party, party.address), "10.1.0.3:8080");
        assert_eq!(destination(&Party::default(), None), "-");
    }
}
