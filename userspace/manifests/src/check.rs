//! What is wrong with values: where, and what is wanted there.

use martlet_model::{Collector, Label, Ratio, TrustDomain};
use serde_json::Value;

use crate::{Overrides, Traces, Values, ValuesError, values::DEFAULTS};

/// Maps whose keys are the user's.
const FREE: [&str; 3] = ["resources", "nodeSelector", "podAnnotations"];

/// Whether the keys are known, and what stands there is of the right kind.
pub fn shape(given: &Value, defaults: &Value) -> Result<(), ValuesError> {
    let mut problems = Vec::new();
    compare("", given, defaults, &mut problems);
    refuse(problems)
}

fn compare(path: &str, given: &Value, defaults: &Value, problems: &mut Vec<String>) {
    let is_free = FREE.contains(&path.rsplit('.').next().unwrap_or_default());
    match (given, defaults) {
        (Value::Object(_), Value::Object(_)) if is_free => {}
        (Value::Object(given), Value::Object(known)) => {
            for (key, value) in given {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(default) => compare(&path, value, default, problems),
                    None => {
                        let known: Vec<_> = known.keys().map(String::as_str).collect();
                        problems
                            .push(format!("{path}: no such value; there are {}", known.join(", ")));
                    }
                }
            }
        }
        (given, default) if kind(given) != kind(default) => {
            problems.push(format!("{path}: {} is wanted, not {}", kind(default), kind(given)));
        }
        _ => {}
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text (put it in quotes if it looks like something else)",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// Whether the default of this value is a text.
pub fn is_text(path: &str) -> bool {
    let defaults = Overrides::read("the defaults", DEFAULTS).unwrap_or_default().value();
    defaults.pointer(&format!("/{}", path.replace('.', "/"))).is_some_and(Value::is_string)
}

/// Whether it makes sense, and can be written into a manifest.
pub fn meaning(values: &Values) -> Result<(), ValuesError> {
    let Values { trust_domain, image, log, metrics: _, traces, controller, agent } = values;
    let mut problems = Vec::new();
    if let Err(error) = trust_domain.parse::<TrustDomain>() {
        problems.push(format!("trustDomain: {trust_domain:?} is not one: {error}"));
    }
    let mut text = |path: &str, value: &str, others: &str, wanted: &str| {
        if !value.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c)) {
            problems.push(format!("{path}: {value:?} is not {wanted}"));
        }
    };
    text("image.repository", &image.repository, "./:_-", "a repository such as registry/martlet");
    text("image.tag", &image.tag, "._-", "a tag such as 1.2.3");
    text("image.digest", &image.digest, ":", "a digest such as sha256:0123…");
    text("log.level", &log.level, "_=,:-", "a filter such as info,martlet_dataplane=debug");
    text("agent.prober", &agent.prober, "._-", "the name of a process, such as kubelet");
    let exempt = &agent.cni.exempt;
    for namespace in exempt.iter().filter(|name| name.parse::<Label>().is_err()) {
        problems.push(format!("agent.cni.exempt: {namespace:?} is no namespace"));
    }
    for (whose, path) in [("programs", &agent.cni.programs), ("networks", &agent.cni.networks)] {
        let is_one = path.starts_with('/')
            && path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        if !is_one {
            problems.push(format!("agent.cni.{whose}: {path:?} is no directory of a node"));
        }
    }
    problems.extend(traced(traces));
    if image.repository.is_empty() {
        problems.push("image.repository: there is none".to_owned());
    }
    if !(1..=15).contains(&agent.prober.len()) {
        problems.push("agent.prober: the kernel keeps 1 to 15 bytes of a name".to_owned());
    }
    let ports = [("controller", controller.metrics_port), ("agent", agent.metrics_port)];
    for (whose, port) in ports {
        // The controller's port for agents cannot be had twice.
        if port == 0 || port == 15012 {
            problems.push(format!(
                "{whose}.metricsPort: {port} cannot be used; 15020 and 15021 are usual"
            ));
        }
    }
    refuse(problems)
}

fn traced(Traces { endpoint, ratio, authorities }: &Traces) -> Vec<String> {
    let mut problems = Vec::new();
    let is_tls = match endpoint.parse::<Collector>() {
        Ok(collector) => collector.is_tls(),
        Err(_) if endpoint.is_empty() => return problems,
        Err(reason) => return vec![format!("traces.endpoint: {endpoint:?} {reason}")],
    };
    if let Err(reason) = Ratio::try_from(*ratio) {
        problems.push(format!("traces.ratio: {ratio} {reason}"));
    }
    match is_tls {
        true if authorities.parse::<Label>().is_err() => problems.push(format!(
            "traces.authorities: {authorities:?} is no ConfigMap; with https one is needed, whose ca.crt \
             has what the collector's certificate leads to"
        )),
        false if !authorities.is_empty() => problems.push(
            "traces.authorities: they belong to https, and the endpoint begins with http".to_owned(),
        ),
        _ => {}
    }
    problems
}

fn refuse(problems: Vec<String>) -> Result<(), ValuesError> {
    if problems.is_empty() { Ok(()) } else { Err(ValuesError::Refused(problems)) }
}
