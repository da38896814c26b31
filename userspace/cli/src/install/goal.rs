//! Which of two versions is later.

/// As semantic versions are compared; what is none is not newer.
pub fn is_newer(one: &str, other: &str) -> bool {
    match (numbers(one), numbers(other)) {
        (Some(one), Some(other)) => one > other,
        _ => false,
    }
}

/// A version with a suffix comes before that without one.
fn numbers(version: &str) -> Option<([u64; 3], bool, &str)> {
    let version = version.strip_prefix('v').unwrap_or(version);
    let version = version.split('+').next()?;
    let (numbers, suffix) = version.split_once('-').unwrap_or((version, ""));
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some((numbers, suffix.is_empty(), suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_versions_are_newer() {
        for (one, other) in [
            ("0.2.0", "0.1.9"),
            ("1.0.0", "0.99.0"),
            ("0.10.0", "0.9.0"),
            ("0.2.0", "0.2.0-rc1"),
            ("v0.2.0", "0.1.0"),
        ] {
            assert!(is_newer(one, other) && !is_newer(other, one), "{one} {other}");
        }
    }

    #[test]
    fn the_same_version_and_what_is_none_are_not_newer() {
        for one in ["0.1.0", "0.1", "new", "", "0.1.0.0", "0.1.0+build"] {
            assert!(!is_newer(one, "0.1.0"), "{one}");
        }
    }
}
