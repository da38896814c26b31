//! Taking back what the controller has said of pods' enrolment, when it is gone and nobody could say it
//! again.
//!
//! By the rights of whoever uninstalls: the controller cannot know that it is its last moment, and
//! another replica would say it anew.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use kube::{
    Api,
    api::{ListParams, PatchParams},
};

use super::{CONTROLLER, InstallError, Installer, asked};
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
        // What runs on a node that does not answer has no rights any more.
        self.until_ended(CONTROLLER, patience, tell).await?;
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
