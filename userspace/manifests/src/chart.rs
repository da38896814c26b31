//! The template in Helm's language.
//!
//! | here | there |
//! |---|---|
//! | `{{ Values.a.b }}` | `{{ .Values.a.b }}` |
//! | `{{ Values.a or Chart.b }}` | `{{ or .Values.a .Chart.b }}` |
//! | `{{ Values.a \| yaml(8) }}` | `{{- toYaml .Values.a \| nindent 8 }}` |
//! | `{% if "a/b/C" in Capabilities.APIVersions %}` | `{{ if .Capabilities.APIVersions.Has "a/b/C" }}` |
//! | `{% if Values.a %}`, `{% else %}`, `{% endif %}` | `{{ if .Values.a }}`, `{{ else }}`, `{{ end }}`; with `{{-` if alone on a line |

use crate::render::REST;

const HEAD: &str = "{{- /* Made from userspace/manifests/src/template by \
                    `MARTLET_BLESS=1 cargo test -p martlet-manifests`. */}}\n";

/// The chart's only template of objects.
pub fn template() -> String {
    let lines = REST.lines().map(|line| format!("{}\n", translated(line)));
    HEAD.to_owned() + &lines.collect::<String>()
}

fn translated(line: &str) -> String {
    let is_block = line.trim().starts_with("{%") && line.matches("{%").count() == 1;
    let (mut said, mut rest) = (String::new(), line);
    while let Some(at) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let (before, tag) = rest.split_at(at);
        let end = tag.find("}}").into_iter().chain(tag.find("%}")).min();
        let end = end.expect("what begins in the template ends there");
        said.push_str(before);
        let inner = tag[2..end].trim();
        said.push_str(&match &tag[..2] {
            "{%" => statement(inner, if is_block { "{{-" } else { "{{" }),
            _ => expression(inner),
        });
        rest = &tag[end + 2..];
    }
    said + rest
}

fn statement(inner: &str, open: &str) -> String {
    match inner {
        "else" => format!("{open} else }}}}"),
        "endif" => format!("{open} end }}}}"),
        condition => {
            let value = condition.strip_prefix("if ").expect("there are if, else and endif");
            match value.split_once(" in ") {
                Some((kind, list)) => format!("{open} if .{list}.Has {kind} }}}}"),
                None => format!("{open} if .{value} }}}}"),
            }
        }
    }
}

fn expression(inner: &str) -> String {
    if let Some((value, rest)) = inner.split_once(" | yaml(") {
        return format!("{{{{- toYaml .{value} | nindent {} }}}}", rest.trim_end_matches(')'));
    }
    match inner.split_once(" or ") {
        Some((one, other)) => format!("{{{{ or .{one} .{other} }}}}"),
        None => format!("{{{{ .{inner} }}}}"),
    }
}
