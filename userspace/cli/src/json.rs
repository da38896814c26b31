//! The agent's JSON: as it came for programs, indented for a person, and read for a table.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

/// Whether this is JSON at all.
pub fn is_json(answer: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(answer).is_ok()
}

/// Unknown fields are passed over: an agent that is newer may say more.
pub fn read<T: DeserializeOwned>(answer: &[u8]) -> serde_json::Result<T> {
    let mut value: Value = serde_json::from_slice(answer)?;
    disarm(&mut value);
    serde_json::from_value(value)
}

/// Takes control characters out of every text, so that none reaches the terminal.
fn disarm(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(char::is_control) => {
            *text = text.replace(char::is_control, "\u{fffd}");
        }
        Value::Array(values) => values.iter_mut().for_each(disarm),
        Value::Object(fields) => fields.values_mut().for_each(disarm),
        _ => {}
    }
}

/// Puts each member on a line of its own; order, numbers and texts stay as they are.
/// What is given must be JSON.
pub fn indent(json: &str) -> String {
    let mut pretty = String::with_capacity(json.len() * 2);
    let mut depth = 0;
    let mut rest = json.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '"' => text(&mut rest, &mut pretty),
            '{' | '[' => {
                pretty.push(character);
                while rest.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                if let Some(end) = rest.next_if(|next| matches!(next, '}' | ']')) {
                    pretty.push(end);
                } else {
                    depth += 1;
                    line(&mut pretty, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                line(&mut pretty, depth);
                pretty.push(character);
            }
            ',' => {
                pretty.push(',');
                line(&mut pretty, depth);
            }
            ':' => pretty.push_str(": "),
            space if space.is_ascii_whitespace() => {}
            other => pretty.push(other),
        }
    }
    pretty
}

/// Copies a text, from behind its first quote to its last.
fn text(rest: &mut impl Iterator<Item = char>, to: &mut String) {
    to.push('"');
    while let Some(character) = rest.next() {
        to.push(character);
        match character {
            '"' => return,
            '\\' => to.extend(rest.next()),
            _ => {}
        }
    }
}

fn line(to: &mut String, depth: usize) {
    to.push('\n');
    to.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_indented_means_the_same_in_the_same_order() {
        let json = r#"{"z":[1,2.50,{}],"a":{"b": "x, {\"y\"}: [\\"},"n":null,"e":[ ]}"#;
        let pretty = indent(json);
        assert_eq!(
            pretty,
            r#"{
  "z": [
    1,
    2.50,
    {}
  ],
  "a": {
    "b": "x, {\"y\"}: [\\"
  },
  "n": null,
  "e": []
}"#
        );
        let value = |json| serde_json::from_str::<Value>(json).unwrap();
        assert_eq!(value(&pretty), value(json));
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let read: Vec<String> = read(br#"["a\u001b[2Jb\nc\u009b"]"#).unwrap();
        assert_eq!(read, ["a\u{fffd}[2Jb\u{fffd}c\u{fffd}"]);
    }

    #[test]
    fn what_is_not_json_is_noticed() {
        assert!(is_json(b"{\"a\":[1]}"));
        assert!(!is_json(b"<html>"));
        assert!(!is_json(b"{\"a\":"));
    }
}
