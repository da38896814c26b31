//! Taking back what the controller has said of pods' enrolment, when it is gone and nobody could say it
//! again.
//!
//! By the rights of whoever uninstalls: the controller cannot know that it is its last moment, and
//! another replica would say it anew.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, PatchParams},
};

use super::{CONTROLLER, InstallError, Installer, NAME_LABEL, asked, until};
use crate::{
    limits,
    seen::PodObject,
    standing::{self, Said},
};

/// What has become of pods of which something was said.
#[derive(Debug, Default)]
pub struct Silenced {
    /// Of so many it was taken.
    pub count: usize,
    /// These are ready only while it is said: they keep it, with another reason.
    pub gated: Vec<String>,
}

impl Installer {
    /// Waits for the controller's pods to be gone, and takes the condition from all pods but those that
    /// would not be ready without it.
    ///
    /// # Errors
    ///
    /// It could not be taken from one of them. Everything can be done again.
    pub async fn silence(
        &self,
        patience: Duration,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Silenced, InstallError> {
        self.until_silent(patience, tell).await?;
        let mut silenced = Silenced::default();
        let pods: Api<PodObject> = Api::all(self.client.clone());
        let mut page = ListParams::default().limit(limits::PODS_PAGE);
        loop {
            let found = asked(&"pods", pods.list(&page)).await?;
            let said = found.items.into_iter().filter_map(|pod| Some((pod.said()?, pod)));
            let taken = stream::iter(said).map(|(said, pod)| self.take_back(said, pod));
            let mut taken = taken.buffer_unordered(limits::ASKED_AT_ONCE);
            while let Some(taken) = taken.next().await {
                match taken? {
                    Taken::Yes => silenced.count += 1,
                    Taken::Gated(name) => silenced.gated.push(name),
                    Taken::NoSuchPod => {}
                }
            }
            match found.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => page.continue_token = Some(next),
                None => return Ok(silenced),
            }
        }
    }

    /// Of a node that does not answer nobody hears that a pod has ended; what runs there has no rights
    /// any more.
    async fn until_silent(
        &self,
        patience: Duration,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), InstallError> {
        let pods = self.within::<Pod>();
        let chosen = ListParams::default().labels(&format!("{NAME_LABEL}={CONTROLLER}"));
        let (ready, _) = self.nodes().await?;
        until("the controller to end", patience, tell, async || {
            let pods = asked(&"pods", pods.list(&chosen)).await?;
            let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let left =
                pods.items.iter().filter_map(node).filter(|node| ready.contains(node)).count();
            Ok((left > 0).then(|| "the controller is ending".to_owned()))
        })
        .await
    }

    async fn take_back(&self, said: Said, pod: PodObject) -> Result<Taken, InstallError> {
        let is_gated = pod.is_gated();
        let metadata = pod.metadata;
        let (namespace, name) =
            (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
        let pods: Api<PodObject> = Api::namespaced(self.client.clone(), &namespace);
        let patch = standing::last_word(&metadata.uid.unwrap_or_default(), &said, is_gated);
        let whole = format!("{namespace}/{name}");
        let parameters = PatchParams::default();
        let patching = async {
            match pods.patch_status(&name, &parameters, &patch).await {
                Ok(_) if is_gated => Ok(Taken::Gated(whole.clone())),
                Ok(_) => Ok(Taken::Yes),
                // Or another life of its name.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
                    Ok(Taken::NoSuchPod)
                }
                Err(error) => Err(error),
            }
        };
        asked(&whole, patching).await
    }
}

enum Taken {
    Yes,
    Gated(String),
    NoSuchPod,
}
