//! What a request is about, by its path.

/// All objects of a kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Collection {
    /// Empty: of the core.
    pub group: String,
    pub version: String,
    pub plural: String,
}

/// Which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub of: Collection,
    /// Empty: of all, or of none.
    pub namespace: String,
    /// Empty: all.
    pub name: String,
}

impl Collection {
    pub fn new(version: &str, plural: &str) -> Self {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        Self { group: group.to_owned(), version: version.to_owned(), plural: plural.to_owned() }
    }

    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Objects of all versions of a group are the same.
    pub fn key(&self) -> (String, String) {
        (self.group.clone(), self.plural.clone())
    }
}

impl Target {
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, plural, name) = match rest {
            ["namespaces"] => ("", "namespaces", ""),
            ["namespaces", name] | ["namespaces", name, "status"] => ("", "namespaces", *name),
            ["namespaces", namespace, plural] => (*namespace, *plural, ""),
            ["namespaces", namespace, plural, name, ..] => (*namespace, *plural, *name),
            [plural] => ("", *plural, ""),
            [plural, name, ..] => ("", *plural, *name),
            [] => return None,
        };
        let [group, version, plural] = [group, version, plural].map(str::to_owned);
        let of = Collection { group, version, plural };
        Some(Self { of, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> String {
        let Some(Target { of, namespace, name }) = Target::parse(path) else {
            return "nothing".to_owned();
        };
        format!("{} {} {namespace:?} {name:?}", of.api_version(), of.plural)
    }

    #[test]
    fn a_path_says_which_objects_it_is_about() {
        assert_eq!(parsed("/api/v1/pods"), r#"v1 pods "" """#);
        assert_eq!(parsed("/api/v1/namespaces/shop/pods/web"), r#"v1 pods "shop" "web""#);
        assert_eq!(parsed("/api/v1/namespaces/shop/pods/web/status"), r#"v1 pods "shop" "web""#);
        assert_eq!(parsed("/api/v1/namespaces/shop"), r#"v1 namespaces "" "shop""#);
        assert_eq!(parsed("/api/v1/nodes/one"), r#"v1 nodes "" "one""#);
        assert_eq!(
            parsed("/apis/martlet.dev/v1alpha1/trustbundles"),
            r#"martlet.dev/v1alpha1 trustbundles "" """#
        );
        assert_eq!(parsed("/apis"), "nothing");
        assert_eq!(parsed("/version"), "nothing");
    }
}
