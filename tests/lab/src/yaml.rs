//! JSON values as YAML that a person likes to read.

use std::fmt::Write;

use serde_json::Value;

/// Strings are always quoted as JSON does, which YAML understands.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    write_block(&mut text, value, 0);
    text
}

fn write_block(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if is_long(value) => {
            for (name, field) in fields {
                let _ = write!(text, "{:indent$}{name}:", "");
                write_after(text, field, indent + 2);
            }
        }
        Value::Array(items) if is_long(value) => {
            for item in items {
                let _ = write!(text, "{:indent$}-", "");
                write_after(text, item, indent + 2);
            }
        }
        _ => {
            let _ = writeln!(text, "{:indent$}{}", "", flow(value));
        }
    }
}

fn write_after(text: &mut String, value: &Value, indent: usize) {
    if is_long(value) {
        text.push('\n');
        write_block(text, value, indent);
    } else {
        let _ = writeln!(text, " {}", flow(value));
    }
}

/// What does not fit one line, or holds other lists and maps.
fn is_long(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty() && flow(value).len() > 60,
        Value::Array(items) => items.iter().any(Value::is_object) || flow(value).len() > 90,
        _ => false,
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::Object(fields) if fields.is_empty() => "{}".into(),
        Value::Object(fields) => {
            let inner: Vec<_> =
                fields.iter().map(|(name, field)| format!("{name}: {}", flow(field))).collect();
            format!("{{ {} }}", inner.join(", "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn short_maps_stay_on_one_line_and_long_ones_do_not() {
        let value = json!({
            "node": { "name": "one" },
            "workloads": [{ "name": "web-0", "addresses": ["10.1.0.2", "fd00::2"], "netns": { "path": "/run/netns/x" } }],
            "policies": [],
        });
        let expected = "node: { name: \"one\" }\npolicies: []\nworkloads:\n  -\n    addresses: [\"10.1.0.2\", \"fd00::2\"]\n    \
                        name: \"web-0\"\n    netns: { path: \"/run/netns/x\" }\n";
        assert_eq!(to_yaml(&value), expected);
    }
}
