//! From template and values to manifests.

use martlet_model::Label;
use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior, context, syntax::SyntaxConfig, value::Serde,
};
use serde_json::Value;

use crate::{MANAGED_BY, VERSION, Values};

/// Where Martlet is, if nothing else is said.
pub const NAMESPACE: &str = "martlet-system";

/// The chart is installed into a namespace that is there.
pub(crate) const OWN_NAMESPACE: &str = include_str!("template/namespace.yaml");
pub(crate) const REST: &str = include_str!("template/martlet.yaml");

/// All objects but the kinds themselves, with comments for whoever reads them. Of kinds that not every
/// server knows, those in `served`.
pub fn manifests(values: &Values, namespace: &Label, served: &[&str]) -> String {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let mut syntax = SyntaxConfig::builder();
    let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("its marks are the usual ones"));
    environment.add_filter("yaml", yaml);
    let context = context! {
        Values => Serde(values),
        Release => context! { Namespace => namespace.as_str(), Service => MANAGED_BY.1 },
        Chart => context! { AppVersion => VERSION },
        Capabilities => context! { APIVersions => Serde(served) },
    };
    let text = format!("{OWN_NAMESPACE}---\n{REST}");
    let rendered = environment.render_str(&text, context);
    let rendered = rendered.expect("the template is right for all values, as the tests show");
    rendered.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// On lines of its own, as Helm's `toYaml | nindent`.
fn yaml(value: Serde<Value>, indent: usize) -> Result<String, Error> {
    let text = serde_saphyr::to_string(&value.0);
    let text = text.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let indent = " ".repeat(indent);
    Ok(text.trim_end().lines().map(|line| format!("\n{indent}{line}")).collect())
}

/// The objects in a text of several documents.
///
/// # Errors
///
/// The text is not YAML.
pub fn objects(text: &str) -> Result<Vec<Value>, serde_saphyr::Error> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(all.into_iter().filter(|object| !object.is_null()).collect())
}
