//! Waiting for pods of ours to end.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;

use super::{InstallError, Installer, NAME_LABEL, asked, until};

impl Installer {
    /// Until no pod of this name is left on nodes that are ready. Of a node that does not answer nobody
    /// hears that a pod has ended there.
    pub(super) async fn until_ended(
        &self,
        name: &str,
        patience: Duration,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), InstallError> {
        let pods = self.within::<Pod>();
        let chosen = ListParams::default().labels(&format!("{NAME_LABEL}={name}"));
        let (ready, _) = self.nodes().await?;
        until(&format!("the pods of {name} to end"), patience, tell, async || {
            let pods = asked(&"pods", pods.list(&chosen)).await?;
            let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let left =
                pods.items.iter().filter_map(node).filter(|node| ready.contains(node)).count();
            Ok((left > 0).then(|| format!("{left} pods of {name} are ending")))
        })
        .await
    }
}
