//! What the API server is given is what stands in `deploy/`.

use std::{env, fs, path::Path};

use martlet_kubernetes::api::definitions;
use serde_json::Value;

fn text() -> String {
    let head = "# The kinds of martlet.dev. Made from userspace/kubernetes/src/api by \
                `MARTLET_BLESS=1 cargo test -p martlet-kubernetes`.\n";
    let each = definitions().into_iter().map(|one| {
        let yaml = serde_saphyr::to_string(&one).expect("a definition is YAML");
        format!("---\n{}\n", yaml.trim_end())
    });
    head.to_owned() + &each.collect::<String>()
}

#[test]
fn the_definitions_in_deploy_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes/crds.yaml");
    if env::var_os("MARTLET_BLESS").is_some() {
        fs::write(&path, text()).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == text(), "deploy/kubernetes/crds.yaml is old; MARTLET_BLESS=1 makes it anew");
}

/// What an API server demands of a schema: <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>.
#[test]
fn every_schema_is_structural() {
    fn check(schema: &Value, at: &str) {
        if let Some(fields) = schema.as_object() {
            let both =
                fields.contains_key("properties") && fields.contains_key("additionalProperties");
            assert!(!both, "{at} has properties and additionalProperties");
            assert!(!fields.contains_key("$ref"), "{at} has a reference");
            for (name, inner) in fields {
                check(inner, &format!("{at}.{name}"));
            }
        }
        for (index, inner) in schema.as_array().into_iter().flatten().enumerate() {
            check(inner, &format!("{at}[{index}]"));
        }
    }
    for definition in definitions() {
        for version in definition["spec"]["versions"].as_array().unwrap() {
            check(&version["schema"]["openAPIV3Schema"], "schema");
        }
    }
}

#[test]
fn what_a_schema_does_not_know_of_a_policy_is_kept_for_whoever_refuses_it() {
    let policies = &definitions()[0];
    let spec = &policies["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let keeps = |schema: &Value| schema["x-kubernetes-preserve-unknown-fields"] == true;
    let rule = &spec["properties"]["rules"]["items"];
    let parts = [
        spec,
        &spec["properties"]["selector"],
        rule,
        &rule["properties"]["from"]["items"],
        &rule["properties"]["to"]["items"],
    ];
    for part in parts {
        assert!(keeps(part), "{part:#}");
    }
}
