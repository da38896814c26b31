//! A node: its name, and in which zone it is.

use k8s_openapi::api::core::v1 as core;
use kube::api::PartialObjectMeta;
use martlet_model::{Label, Zone};

use super::Problem;

/// The server is asked for the metadata only: the rest is large, and changes all the time.
pub type NodeObject = PartialObjectMeta<core::Node>;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: Label,
    /// `None`: it says none, or one that no hint could name.
    pub zone: Option<Zone>,
}

impl TryFrom<NodeObject> for Node {
    type Error = Problem;

    fn try_from(object: NodeObject) -> Result<Self, Problem> {
        let metadata = object.metadata;
        let name = metadata.name.as_deref().unwrap_or_default();
        let name = name.parse().map_err(|error| Problem::new("Name", format!("{error}")))?;
        let zone = metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
        Ok(Self { name, zone: zone.and_then(|zone| zone.parse().ok()) })
    }
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;

    use super::*;

    #[test]
    fn a_node_is_in_the_zone_of_its_label_or_in_none() {
        let node = |zone: Option<&str>| {
            let labels = zone.map(|zone| [(ZONE_LABEL.to_owned(), zone.to_owned())].into());
            let name = Some("one".to_owned());
            let metadata = ObjectMeta { name, labels, ..ObjectMeta::default() };
            Node::try_from(NodeObject { metadata, ..NodeObject::default() }).unwrap()
        };
        assert_eq!(node(Some("a")).zone.unwrap().as_str(), "a");
        assert_eq!((node(None).zone, node(Some("")).zone), (None, None));
    }
}
