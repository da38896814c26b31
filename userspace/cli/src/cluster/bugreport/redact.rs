//! Takes keys and tokens out of texts, by what they look like.

/// What stands where something was.
const GONE: &str = "[redacted]";

/// Keys of JSON whose value is a secret, whatever it looks like.
const NAMES: [&str; 5] =
    ["\"token\"", "\"password\"", "\"secret\"", "\"private_key\"", "\"privateKey\""];

/// The beginning of a token with which a node joins.
const JOIN: &str = "martlet-join-";

/// The beginning of PEM in base64: `-----BEGIN`.
const PEM_IN_BASE64: &str = "LS0tLS1CRUdJTi";

pub fn redact(text: &str) -> String {
    let text = words(&without_joins(&without_keys(text)));
    NAMES.iter().fold(text, |text, name| without_value(&text, name))
}

/// PEM blocks of private keys, on lines of their own or within one.
fn without_keys(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    const END: &str = "-----END ";
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(BEGIN) {
        let block = &rest[at..];
        let label = block[BEGIN.len()..].split("-----").next().unwrap_or_default();
        if !label.contains("PRIVATE KEY") {
            kept.push_str(&rest[..at + BEGIN.len()]);
            rest = &rest[at + BEGIN.len()..];
            continue;
        }
        kept.push_str(&rest[..at]);
        kept.push_str(GONE);
        // Without its end it goes on to the end of the text.
        let end = block.find(END).and_then(|end| {
            let after = &block[end + END.len()..];
            Some(end + END.len() + after.find("-----")? + 5)
        });
        rest = end.map_or("", |end| &block[end..]);
    }
    kept.push_str(rest);
    kept
}

/// What a node joins with: `martlet-join-1:NODE:FINGERPRINTS:SECRET`.
fn without_joins(text: &str) -> String {
    let mut parts = text.split(JOIN);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|char| !is_of_word(char) && char != ':' && char != ',');
        kept.push_str(GONE);
        kept.push_str(end.map_or("", |end| &part[end..]));
    }
    kept
}

fn is_of_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || "+/=_-.".contains(char)
}

fn words(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut word = String::new();
    for char in text.chars() {
        if is_of_word(char) {
            word.push(char);
            continue;
        }
        flush(&mut word, &mut kept);
        kept.push(char);
    }
    flush(&mut word, &mut kept);
    kept
}

fn flush(word: &mut String, kept: &mut String) {
    // A JSON web token has three parts, of which the first two are objects.
    let is_token = |rest: &str| rest.split('.').count() == 3 && rest.len() > 40;
    let token = word.find("eyJ").filter(|at| is_token(&word[*at..]));
    // What stands before it is a name, as in `token=`.
    match token.or(word.find(PEM_IN_BASE64)) {
        Some(at) => kept.push_str(&format!("{}{GONE}", &word[..at])),
        None => kept.push_str(word),
    }
    word.clear();
}

fn without_value(text: &str, name: &str) -> String {
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(name) {
        let after = at + name.len();
        kept.push_str(&rest[..after]);
        rest = &rest[after..];
        let value = rest.trim_start().strip_prefix(':').map(str::trim_start);
        let Some(value) = value.and_then(|value| value.strip_prefix('"')) else { continue };
        let mut is_escaped = false;
        let end = value.find(|char| {
            let is_end = char == '"' && !is_escaped;
            is_escaped = char == '\\' && !is_escaped;
            is_end
        });
        kept.push_str(&format!(": \"{GONE}\""));
        rest = end.map_or("", |end| &value[end + 1..]);
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg";

    #[test]
    fn private_keys_go_and_certificates_stay() {
        let key = format!("-----BEGIN EC PRIVATE KEY-----\n{BODY}\n-----END EC PRIVATE KEY-----");
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";
        let text = redact(&format!("a\n{key}\n{certificate}\nb {key} c"));
        assert_eq!(text, format!("a\n{GONE}\n{certificate}\nb {GONE} c"));
        // Within a text of JSON, and cut off.
        let line = redact(&format!("{{\"x\":\"-----BEGIN PRIVATE KEY-----\\n{BODY}\\n"));
        assert_eq!(line, format!("{{\"x\":\"{GONE}"));
    }

    #[test]
    fn tokens_go_wherever_they_stand() {
        let token = format!("eyJhbGciOiJSUzI1NiJ9.{}.{BODY}", "eyJpc3MiOiJrdWJlcm5ldGVzIn0");
        for text in [format!("token={token},"), format!("Bearer {token}"), format!("\"{token}\"")] {
            let kept = redact(&text);
            assert!(kept.contains(GONE) && !kept.contains("eyJ"), "{kept}");
        }
        assert_eq!(
            redact("\"token\": \"a\\\"b\", \"x\": 1"),
            "\"token\": \"[redacted]\", \"x\": 1"
        );
        let join = format!("token martlet-join-1:one:{0},{0}:{0} end", "0a1b".repeat(16));
        assert_eq!(redact(&join), format!("token {GONE} end"));
        let in_base64 = "data: LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCk1JR0hBZ0VB";
        assert_eq!(redact(in_base64), format!("data: {GONE}"));
    }

    #[test]
    fn what_is_no_secret_stays() {
        let text = "spiffe://a.org/ns/shop/sa/web 10.0.0.1:80 \"fingerprint\":\"3f2a9c\" eyJ.a.b";
        assert_eq!(redact(text), text);
    }
}
