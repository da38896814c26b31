//! As much of Go's templates as the chart uses: `.path`, `or`, `toYaml … | nindent`, `if`, `if .list.Has`,
//! `else`, `end`, comments, and `{{-`. Written from its documentation, not from how the chart is made:
//! <https://pkg.go.dev/text/template>.

use serde_json::Value;

pub fn render(template: &str, data: &Value) -> String {
    let mut said = String::new();
    // For each `if` that is open: whether its part is said, and whether what is around it is.
    let mut open: Vec<(bool, bool)> = Vec::new();
    let mut rest = template;
    while let Some((before, tag)) = rest.split_once("{{") {
        let is_said = open.last().is_none_or(|(inner, around)| *inner && *around);
        let trims = tag.starts_with("- ");
        if is_said {
            said.push_str(if trims { before.trim_end() } else { before });
        }
        let (inner, after) = tag.split_once("}}").expect("a tag ends");
        rest = after;
        let words: Vec<_> = inner.trim_start_matches("- ").split_whitespace().collect();
        match words[..] {
            ["/*", .., "*/."] | ["/*", .., "*/"] => {}
            ["if", path] => open.push((is_true(at(data, path)), is_said)),
            ["if", has, kind] => {
                let list = at(data, has.strip_suffix(".Has").expect("a list is asked"));
                let is_there =
                    list.as_array().unwrap().iter().any(|one| one == kind.trim_matches('"'));
                open.push((is_there, is_said));
            }
            ["else"] => open.last_mut().map(|(inner, _)| *inner = !*inner).expect("there is an if"),
            ["end"] => open.pop().map(drop).expect("there is an if"),
            _ if !is_said => {}
            ["toYaml", path, "|", "nindent", indent] => {
                let yaml = serde_saphyr::to_string(at(data, path)).unwrap();
                let indent = " ".repeat(indent.parse().unwrap());
                for line in yaml.trim_end().lines() {
                    said.push_str(&format!("\n{indent}{line}"));
                }
            }
            ["or", one, other] => {
                let one = at(data, one);
                said.push_str(&text(if is_true(one) { one } else { at(data, other) }));
            }
            [path] => said.push_str(&text(at(data, path))),
            _ => panic!("the chart has a construct that is not known here: {inner}"),
        }
    }
    assert!(open.is_empty(), "an if does not end");
    said + rest
}

fn at<'a>(data: &'a Value, path: &str) -> &'a Value {
    let pointer = path.replace('.', "/");
    data.pointer(&pointer).unwrap_or_else(|| panic!("there is no {path}"))
}

/// Of Go: false, 0, nil, and what is empty, are not.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(all) => !all.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
