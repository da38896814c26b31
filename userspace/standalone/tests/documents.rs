//! The reference, the schema and the example are about the file that is really read.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use martlet_standalone::{parse, schema};
use serde_json::Value;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `MARTLET_BLESS=1` rewrites the schema.
#[test]
fn the_published_schema_is_that_of_the_code() {
    let path = "docs/node-file.schema.json";
    if std::env::var_os("MARTLET_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&schema()).unwrap();
        fs::write(project(path), format!("{text}\n")).unwrap();
    }
    let published: Value = serde_json::from_str(&read(path)).unwrap();
    assert!(published == schema(), "{path} is old: run this test with MARTLET_BLESS=1");
}

#[test]
fn the_reference_describes_every_key() {
    let reference = read("docs/node-file.md");
    let mut keys = BTreeSet::new();
    collect_keys(&schema(), &mut keys);
    assert!(keys.len() > 30, "{keys:?}");
    let missing: Vec<_> =
        keys.iter().filter(|key| !reference.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "docs/node-file.md says nothing about {missing:?}");
}

#[test]
fn every_key_refuses_unknown_ones_beside_it() {
    let schema = schema();
    let mut open = Vec::new();
    collect_open(&schema, "", &mut open);
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_example_is_accepted() {
    let file = parse(&read("deploy/node.yaml"), "deploy/node.yaml");
    let file = file.unwrap_or_else(|error| panic!("{error}"));
    assert!(!file.local.is_empty());
    assert!(file.directory.services().count() > 0);
}

/// Every `yaml` block of the reference that is a whole file.
#[test]
fn the_files_in_the_reference_are_accepted() {
    let reference = read("docs/node-file.md");
    let blocks = reference.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let files: Vec<_> = blocks.filter(|block| block.contains("trustDomain:")).collect();
    assert!(!files.is_empty());
    for text in files {
        parse(text, "docs/node-file.md").unwrap_or_else(|error| panic!("{error}"));
    }
}

fn collect_keys(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| collect_keys(value, keys));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_keys(value, keys)),
        _ => {}
    }
}

fn collect_open(schema: &Value, place: &str, open: &mut Vec<String>) {
    match schema {
        Value::Object(object) => {
            let is_closed = object.get("additionalProperties") == Some(&Value::Bool(false));
            if object.get("properties").is_some_and(Value::is_object) && !is_closed {
                open.push(place.to_owned());
            }
            for (key, value) in object {
                collect_open(value, &format!("{place}/{key}"), open);
            }
        }
        Value::Array(values) => {
            values.iter().for_each(|value| collect_open(value, place, open));
        }
        _ => {}
    }
}
