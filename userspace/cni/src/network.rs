//! The node's network with the plugin at its end: a file of our own that stands before all others, with
//! what the first of these says.
//!
//! Nobody else's file is changed. Whoever has made it may write it anew at any time, as many do when
//! the node begins anew; a plugin in there would be missing then, when it is needed most.

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::invocation::VERSIONS;

/// Runtimes take the first network of the directory, in the order of the files' names.
pub const FILE: &str = "00-martlet.conflist";
/// The type by which a runtime finds the program.
pub const PLUGIN: &str = "martlet-cni";

/// What the plugin is told in the network's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub socket: String,
    pub exempt: Vec<String>,
}

/// Why there is no network with the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NetworkError {
    #[error("it is no JSON: {0}")]
    NoJson(String),
    #[error("it has no name")]
    NoName,
    #[error("it has no plugins")]
    NoPlugins,
    #[error("its cniVersion is {0:?}; the plugin knows {known}", known = VERSIONS.join(", "))]
    Version(String),
    #[error("it stands before {FILE}, so that the runtime takes it first")]
    Before,
}

/// Which file a runtime would take if ours were not there.
pub fn first<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let is_one = |name: &&str| {
        let ending = name.rsplit_once('.').map(|(_, ending)| ending);
        *name != FILE && matches!(ending, Some("conf" | "conflist" | "json"))
    };
    names.into_iter().filter(is_one).min()
}

/// The text of our file, for the network that the file `name` describes.
///
/// # Errors
///
/// It describes none that the plugin can be in.
pub fn with_plugin(name: &str, text: &str, settings: &Settings) -> Result<String, NetworkError> {
    if name < FILE {
        return Err(NetworkError::Before);
    }
    let read = serde_json::from_str(text);
    let mut network = read.map_err(|error| NetworkError::NoJson(error.to_string()))?;
    if !name.ends_with(".conflist") {
        network = alone(network);
    }
    let version = network.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if !VERSIONS.contains(&version) {
        return Err(NetworkError::Version(version.to_owned()));
    }
    if network.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(NetworkError::NoName);
    }
    let plugins = network.get_mut("plugins").and_then(Value::as_array_mut);
    let plugins = plugins.filter(|plugins| !plugins.is_empty()).ok_or(NetworkError::NoPlugins)?;
    plugins.retain(|plugin| plugin["type"] != PLUGIN);
    let Settings { socket, exempt } = settings;
    plugins.push(json!({ "type": PLUGIN, "socket": socket, "exempt": exempt }));
    Ok(format!("{:#}\n", Value::Object(network)))
}

/// One plugin's configuration as a list: name and version are the network's.
fn alone(mut plugin: Map<String, Value>) -> Map<String, Value> {
    let names = ["cniVersion", "name"];
    let taken = names.into_iter().filter_map(|key| Some((key.to_owned(), plugin.remove(key)?)));
    let mut network: Map<String, Value> = taken.collect();
    if plugin.contains_key("type") {
        network.insert("plugins".to_owned(), json!([plugin]));
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let socket = "/run/martlet/cni.sock".to_owned();
        Settings { socket, exempt: vec!["martlet-system".to_owned()] }
    }

    fn made(name: &str, text: &str) -> Result<Value, NetworkError> {
        with_plugin(name, text, &settings()).map(|text| serde_json::from_str(&text).unwrap())
    }

    const LIST: &str = r#"{"cniVersion": "0.3.1", "name": "cbr0", "disableCheck": true,
        "plugins": [{"type": "flannel", "delegate": {"hairpinMode": true}}, {"type": "portmap"}]}"#;

    #[test]
    fn the_first_by_name_is_the_network_and_what_is_no_network_is_none() {
        let names = ["20-b.conflist", "10-a.conf", FILE, "00-x.bak", "05-y.conflist.old", ".z.new"];
        assert_eq!(first(names), Some("10-a.conf"));
        assert_eq!(first([FILE, "calico-kubeconfig"]), None);
    }

    #[test]
    fn the_plugin_stands_last_and_all_else_stays() {
        let ours = json!({ "type": "martlet-cni", "socket": "/run/martlet/cni.sock",
            "exempt": ["martlet-system"] });
        let mut wanted: Value = serde_json::from_str(LIST).unwrap();
        wanted["plugins"].as_array_mut().unwrap().push(ours);
        let once = made("10-flannel.conflist", LIST).unwrap();
        assert_eq!(once, wanted);
        assert_eq!(made("10-flannel.conflist", &once.to_string()), Ok(wanted), "once is enough");
    }

    #[test]
    fn a_plugin_alone_becomes_a_list_of_its_network() {
        let text = r#"{"cniVersion": "0.4.0", "name": "net", "type": "ptp", "mtu": 1400}"#;
        let network = made("87-ptp.conf", text).unwrap();
        assert_eq!((&network["name"], &network["cniVersion"]), (&json!("net"), &json!("0.4.0")));
        let plugins = network["plugins"].as_array().unwrap();
        assert_eq!(plugins[0], json!({ "type": "ptp", "mtu": 1400 }));
        assert_eq!((plugins.len(), &plugins[1]["type"]), (2, &json!(PLUGIN)));
    }

    #[test]
    fn what_is_no_network_for_the_plugin_is_refused() {
        use NetworkError as E;
        let old = r#"{"cniVersion": "0.2.0", "name": "n", "plugins": [{"type": "ptp"}]}"#;
        assert_eq!(made("a.conflist", old), Err(E::Version("0.2.0".to_owned())));
        assert_eq!(made("a.conf", r#"{"name": "n", "type": "x"}"#), Err(E::Version(String::new())));
        let of = |rest: &str| format!(r#"{{"cniVersion": "1.0.0", {rest}}}"#);
        let nameless = of(r#""plugins": [{"type": "ptp"}]"#);
        assert_eq!(made("a.conflist", &nameless), Err(E::NoName));
        for empty in
            [r#""name": "n""#, r#""name": "n", "plugins": []"#, r#""name": "n", "plugins": 1"#]
        {
            assert_eq!(made("a.conflist", &of(empty)), Err(E::NoPlugins), "{empty}");
        }
        assert_eq!(made("a.conf", &of(r#""name": "n""#)), Err(E::NoPlugins));
        for broken in ["", "[]", "null", "{", r#"{"a": }"#] {
            assert!(matches!(made("a.conflist", broken), Err(E::NoJson(_))), "{broken}");
        }
        assert_eq!(made("00-a.conflist", LIST), Err(E::Before));
    }
}
