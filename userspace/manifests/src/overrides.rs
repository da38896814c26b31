//! What a user says of the values: maps are merged, everything else is replaced, as Helm does it.

use serde_json::{Map, Value};

use crate::ValuesError;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides(Map<String, Value>);

impl Overrides {
    /// Of a file of values; `name` is what errors call it.
    ///
    /// # Errors
    ///
    /// It is not YAML, or no map.
    pub fn read(name: &str, yaml: &str) -> Result<Self, ValuesError> {
        let read: Value = serde_saphyr::from_str(yaml)
            .map_err(|error| ValuesError::NotYaml(name.to_owned(), error.to_string()))?;
        match read {
            Value::Object(map) => Ok(Self(map)),
            Value::Null => Ok(Self::default()),
            _ => Err(ValuesError::NotMap(name.to_owned())),
        }
    }

    /// Of `image.tag=1.2.3`; the value is read as YAML, but where a text is wanted it stays one.
    ///
    /// # Errors
    ///
    /// It is no such pair.
    pub fn pair(text: &str) -> Result<Self, ValuesError> {
        let refused = || ValuesError::NotPair(text.to_owned());
        let (path, value) = text.split_once('=').ok_or_else(refused)?;
        if path.split('.').any(str::is_empty) {
            return Err(refused());
        }
        let value = match crate::check::is_text(path) {
            true => Value::String(value.to_owned()),
            false => serde_saphyr::from_str(value).map_err(|_| refused())?,
        };
        let nested = path
            .rsplit('.')
            .fold(value, |inner, key| Value::Object(Map::from_iter([(key.to_owned(), inner)])));
        match nested {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(refused()),
        }
    }

    /// What `other` says wins.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        merge(&mut self.0, other.0);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn value(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(into)), Value::Object(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
