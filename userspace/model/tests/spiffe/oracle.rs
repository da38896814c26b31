//! What a workload's SPIFFE ID is, slowly and obviously: the sentences of the standard one after
//! the other (SPIFFE-ID, section 2; X509-SVID, section 3.1). Shares nothing with the parser.

const LOWER_CASE: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPER_CASE: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const OTHERS: &str = "0123456789.-_";

/// Trust domain and path of a workload's SPIFFE ID, or `None` for any other text.
pub fn parts(text: &str) -> Option<(String, String)> {
    let characters: Vec<char> = text.chars().collect();
    // "valid SPIFFE IDs MUST have the scheme set to spiffe": written in lower case here, as the
    // trust domain has to be.
    for (at, expected) in "spiffe://".chars().enumerate() {
        if characters.get(at) != Some(&expected) {
            return None;
        }
    }
    let mut domain = String::new();
    let mut at = 9;
    while at < characters.len() && characters[at] != '/' {
        domain.push(characters[at]);
        at += 1;
    }
    let path: String = characters[at..].iter().collect();
    is_trust_domain(&domain).then_some(())?;
    is_path(&path).then_some(())?;
    // Section 2.3. All characters are ASCII by now, so there are as many as bytes.
    (characters.len() <= 2048).then_some((domain, path))
}

/// Section 2.1.
pub fn is_trust_domain(text: &str) -> bool {
    let allowed = |character: char| LOWER_CASE.contains(character) || OTHERS.contains(character);
    !text.is_empty() && text.chars().count() <= 255 && text.chars().all(allowed)
}

/// Section 2.2, and a leaf's path must not be the root.
fn is_path(text: &str) -> bool {
    let mut segments = Vec::new();
    for character in text.chars() {
        match (character, segments.last_mut()) {
            ('/', _) => segments.push(String::new()),
            (_, None) => return false,
            (other, Some(segment)) => segment.push(other),
        }
    }
    let allowed = |character: char| {
        LOWER_CASE.contains(character)
            || UPPER_CASE.contains(character)
            || OTHERS.contains(character)
    };
    let is_segment = |segment: &String| {
        !segment.is_empty() && segment != "." && segment != ".." && segment.chars().all(allowed)
    };
    !segments.is_empty() && segments.iter().all(is_segment)
}
