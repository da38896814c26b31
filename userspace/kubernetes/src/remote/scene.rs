//! A part of a cluster as it is now, seen as the controller sees it.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures_util::future::try_join_all;
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Resource, api::ListParams};
use martlet_model::{Label, TrustDomain, Udp};
use serde::de::DeserializeOwned;

use super::{AGENT, Remote, RemoteError, answer};
use crate::{
    api::{DEFAULT, MeshSettings, PolicyObject},
    kept::Mesh,
    seen::{
        NamespaceObject, Pod, PodObject, Service, ServiceKey, ServiceObject, Slice, SliceObject,
        SliceVersion,
    },
    world::{Set, Settings, World},
};

/// Some namespaces with all that is in them.
#[derive(Debug)]
pub struct Scene {
    pub world: World,
    services: HashMap<ServiceKey, Service>,
    slices: Vec<Slice>,
    pods: Vec<Pod>,
}

/// One of those that a service leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceEndpoint {
    pub address: SocketAddr,
    pub is_ready: bool,
}

impl Remote {
    /// # Errors
    ///
    /// The API server did not say all of it.
    pub async fn scene(
        &self,
        domain: &TrustDomain,
        namespaces: &BTreeSet<Label>,
    ) -> Result<Scene, RemoteError> {
        let mut world = World::new(Settings {
            trust_domain: domain.clone(),
            system_namespace: self.system.clone(),
            agent_service_account: AGENT.parse().expect("it is a name"),
            udp: Udp::Pass,
        });
        let configs = self.configs().await?;
        let set = configs.iter().find(|object| object.name() == DEFAULT);
        if let Some(settings) = set.and_then(|object| object.said().in_effect) {
            let settings = MeshSettings::from(&settings);
            let mesh = Arc::new(Mesh { settings, by: None });
            world.set_mesh(Set { mesh, refused: vec![] });
        }
        let version = self.slice_version().await?;
        let all: Api<NamespaceObject> = Api::all(self.client.clone());
        for name in namespaces {
            let what = format!("the namespace {name}");
            let found = answer(&what, all.get_opt(name.as_str())).await?;
            if let Some(Ok(namespace)) = found.map(TryInto::try_into) {
                world.set_namespace(namespace);
            }
        }
        let pods = self.list::<PodObject>("the pods", namespaces).await?;
        let pods: Vec<_> =
            pods.into_iter().filter_map(|object| Pod::read(object).ok().flatten()).collect();
        let services = self.list::<ServiceObject>("the services", namespaces).await?;
        let services = services.into_iter().filter_map(|object| Service::try_from(object).ok());
        let slices = try_join_all(namespaces.iter().map(|name| async {
            let client = self.client.clone();
            let api: Api<SliceObject> = Api::namespaced_with(client, name.as_str(), &version);
            answer("the endpoints", api.list(&ListParams::default())).await
        }));
        let slices = slices.await?.into_iter().flat_map(|list| list.items);
        let slices: Vec<_> = slices.filter_map(|object| Slice::try_from(object).ok()).collect();
        for policy in self.list::<PolicyObject>("the policies", namespaces).await? {
            world.set_policy(&policy);
        }
        let services: HashMap<_, _> =
            services.map(|service| (service.key.clone(), service)).collect();
        for pod in &pods {
            world.set_pod(pod.clone());
        }
        for service in services.values() {
            world.set_service(service.clone());
        }
        for slice in &slices {
            world.set_slice(slice.clone());
        }
        Ok(Scene { world, services, slices, pods })
    }

    async fn slice_version(&self) -> Result<SliceVersion, RemoteError> {
        let groups = answer("its API groups", self.client.list_api_groups()).await?;
        let group = groups.groups.iter().find(|group| group.name == "discovery.k8s.io");
        let mut versions = group.iter().flat_map(|group| &group.versions);
        Ok(match versions.any(|version| version.version == "v1") {
            true => SliceVersion::V1,
            false => SliceVersion::V1Beta1,
        })
    }

    async fn list<K>(&self, what: &str, namespaces: &BTreeSet<Label>) -> Result<Vec<K>, RemoteError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let lists = try_join_all(namespaces.iter().map(|name| async {
            let api: Api<K> = Api::namespaced(self.client.clone(), name.as_str());
            answer(what, api.list(&ListParams::default())).await
        }));
        Ok(lists.await?.into_iter().flat_map(|list| list.items).collect())
    }
}

impl Scene {
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    pub fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        let mut pods = self.pods.iter();
        pods.find(|pod| !pod.is_on_host && !pod.is_over && pod.addresses.contains(&address))
    }

    /// The addresses of a service's port, and where it leads; `None` if there is no such service.
    /// Without endpoints it is a port that the service does not have, or that nobody is behind.
    pub fn service(
        &self,
        key: &ServiceKey,
        port: u16,
    ) -> Option<(Vec<IpAddr>, Vec<ServiceEndpoint>)> {
        let service = self.services.get(key)?;
        let slices = self.slices.iter().filter(|slice| slice.service.as_ref() == Some(key));
        let named = service.ports.iter().find(|one| one.port == port).map(|one| &one.name);
        let mut found = BTreeSet::new();
        for slice in slices {
            let number = match service.addresses.is_empty() {
                // It is reached at its pods' own addresses and ports.
                true => Some(port),
                false => {
                    let mut numbers = slice.ports.iter().filter(|(name, _)| Some(name) == named);
                    numbers.next().map(|(_, number)| *number)
                }
            };
            let endpoints = slice.endpoints.iter().filter(|one| one.is_ready || one.is_leaving);
            found.extend(endpoints.filter_map(|one| {
                let address = SocketAddr::new(one.address, number?);
                Some(ServiceEndpoint { address, is_ready: one.is_ready })
            }));
        }
        Some((service.addresses.clone(), found.into_iter().collect()))
    }

    /// The policies as agents are told them.
    pub fn policies(&self) -> Vec<martlet_policy::Policy> {
        let picture = self.world.picture();
        picture.policies.values().map(|policy| (**policy).clone()).collect()
    }
}
