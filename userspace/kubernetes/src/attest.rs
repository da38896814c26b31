//! What only the API server itself may answer: whether a pod runs there now, and whose a token is.
//!
//! What was watched is old by some milliseconds, or by minutes. That is good enough to take something
//! away, and not to grant a certificate.

use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use martlet_model::{Label, WorkloadName};
use thiserror::Error;
use tokio::time::timeout;

use crate::{
    limits,
    seen::{Pod, PodObject},
};

/// The agents' service account, and what their tokens must be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agents {
    pub namespace: Label,
    pub service_account: Label,
    pub audience: String,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub node: Label,
    pub pod: WorkloadName,
}

/// Why a token proves no agent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("the API server does not take the token: {0}")]
    NotAuthentic(String),
    #[error("the token is not for the audience {0:?}")]
    Audience(String),
    #[error("the token is {found}'s, and agents are {wanted}")]
    Account { found: String, wanted: String },
    #[error("the token is bound to no pod; agents have projected ones")]
    Unbound,
    #[error("the pod that the token is bound to is not there any more")]
    PodGone,
    #[error("the token says that the pod is on node {said}, and it is on {is}")]
    OtherNode { said: String, is: String },
    #[error("the API server could not be asked: {0}")]
    Unavailable(String),
}

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Since Kubernetes 1.30.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The pod of this name, from the server itself.
///
/// # Errors
///
/// The server did not answer, or with something that is no pod.
pub async fn pod(client: &Client, name: &WorkloadName) -> Result<Option<Pod>, String> {
    let api: Api<PodObject> = Api::namespaced(client.clone(), name.namespace.as_str());
    let asked = timeout(limits::QUESTION, api.get_opt(name.name.as_str())).await;
    let answer = asked.map_err(|_| "no answer in time".to_owned())?;
    match answer.map_err(|error| error.to_string())? {
        None => Ok(None),
        Some(object) => Pod::read(object).map_err(|problem| problem.message),
    }
}

/// Which node's agent has this token.
///
/// # Errors
///
/// See [`TokenError`]: whatever is not known for certain is one.
pub async fn agent(client: &Client, agents: &Agents, token: &str) -> Result<Agent, TokenError> {
    let review = TokenReview {
        metadata: ObjectMeta::default(),
        spec: TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: Some(vec![agents.audience.clone()]),
        },
        status: None,
    };
    let (api, parameters) = (Api::<TokenReview>::all(client.clone()), PostParams::default());
    let asked = timeout(limits::QUESTION, api.create(&parameters, &review)).await;
    let unavailable = |why: String| TokenError::Unavailable(why);
    let answer = asked.map_err(|_| unavailable("no answer in time".to_owned()))?;
    let review = answer.map_err(|error| unavailable(error.to_string()))?;
    let bound = bound(agents, review.status.unwrap_or_default())?;
    let pod = pod(client, &bound.pod).await.map_err(TokenError::Unavailable)?;
    let pod =
        pod.filter(|pod| *pod.uid == *bound.uid && !pod.is_over).ok_or(TokenError::PodGone)?;
    match bound.node {
        Some(said) if said != pod.node.as_str() => {
            Err(TokenError::OtherNode { said, is: pod.node.to_string() })
        }
        _ => Ok(Agent { node: pod.node, pod: bound.pod }),
    }
}

/// What a token is bound to.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    pod: WorkloadName,
    uid: String,
    node: Option<String>,
}

fn bound(agents: &Agents, status: TokenReviewStatus) -> Result<Bound, TokenError> {
    if status.authenticated != Some(true) {
        return Err(TokenError::NotAuthentic(status.error.unwrap_or_default()));
    }
    // A server that knows no audiences says none: then the token could be for anybody.
    if !status.audiences.unwrap_or_default().contains(&agents.audience) {
        return Err(TokenError::Audience(agents.audience.clone()));
    }
    let UserInfo { username, extra, .. } = status.user.unwrap_or_default();
    let (found, extra) = (username.unwrap_or_default(), extra.unwrap_or_default());
    let wanted = format!("system:serviceaccount:{}:{}", agents.namespace, agents.service_account);
    if found != wanted {
        return Err(TokenError::Account { found, wanted });
    }
    let one = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) => Some(value.clone()),
        _ => None,
    };
    let (Some(name), Some(uid)) = (one(POD_NAME), one(POD_UID)) else {
        return Err(TokenError::Unbound);
    };
    let name = name.parse().map_err(|_| TokenError::Unbound)?;
    let pod = WorkloadName { namespace: agents.namespace.clone(), name };
    Ok(Bound { pod, uid, node: one(NODE_NAME) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn agents() -> Agents {
        Agents {
            namespace: "martlet-system".parse().unwrap(),
            service_account: "martlet-agent".parse().unwrap(),
            audience: "martlet-controller".to_owned(),
        }
    }

    fn good() -> TokenReviewStatus {
        let extra = [(POD_NAME, "agent-x"), (POD_UID, "u1"), (NODE_NAME, "one")];
        let extra: BTreeMap<_, _> =
            extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into();
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec!["martlet-controller".to_owned()]),
            error: None,
            user: Some(UserInfo {
                username: Some("system:serviceaccount:martlet-system:martlet-agent".to_owned()),
                extra: Some(extra),
                ..UserInfo::default()
            }),
        }
    }

    fn changed(change: impl FnOnce(&mut TokenReviewStatus)) -> Result<Bound, TokenError> {
        let mut status = good();
        change(&mut status);
        bound(&agents(), status)
    }

    fn extra(status: &mut TokenReviewStatus) -> &mut BTreeMap<String, Vec<String>> {
        status.user.as_mut().unwrap().extra.as_mut().unwrap()
    }

    #[test]
    fn an_agents_token_is_bound_to_its_pod() {
        let bound = changed(|_| {}).unwrap();
        assert_eq!(bound.pod.to_string(), "martlet-system/agent-x");
        assert_eq!((bound.uid.as_str(), bound.node.as_deref()), ("u1", Some("one")));
        // Before Kubernetes 1.30.
        let old = changed(|status| drop(extra(status).remove(NODE_NAME))).unwrap();
        assert_eq!(old.node, None);
    }

    #[test]
    fn no_other_token_is_an_agents() {
        let no = |change: fn(&mut TokenReviewStatus)| changed(change).unwrap_err();
        assert!(matches!(no(|s| s.authenticated = None), TokenError::NotAuthentic(_)));
        assert!(matches!(no(|s| s.authenticated = Some(false)), TokenError::NotAuthentic(_)));
        assert!(matches!(no(|s| s.audiences = None), TokenError::Audience(_)));
        let other = |s: &mut TokenReviewStatus| s.audiences = Some(vec!["kubernetes".to_owned()]);
        assert!(matches!(no(other), TokenError::Audience(_)));
        assert!(matches!(no(|s| s.user = None), TokenError::Account { .. }));
        let stranger = |s: &mut TokenReviewStatus| {
            let name = "system:serviceaccount:shop:martlet-agent".to_owned();
            s.user.as_mut().unwrap().username = Some(name);
        };
        assert!(matches!(no(stranger), TokenError::Account { .. }));
        assert_eq!(no(|s| drop(extra(s).remove(POD_NAME))), TokenError::Unbound);
        assert_eq!(no(|s| drop(extra(s).remove(POD_UID))), TokenError::Unbound);
        let two = |s: &mut TokenReviewStatus| {
            extra(s).insert(POD_UID.to_owned(), vec!["u1".to_owned(), "u2".to_owned()]);
        };
        assert_eq!(no(two), TokenError::Unbound);
    }
}
