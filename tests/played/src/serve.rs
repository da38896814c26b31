//! Answers.

use std::{collections::HashMap, future::pending, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{
    Gets, Lists, Shared, Watches,
    path::Target,
    store::{merge, singular},
    watching,
};

/// Of a request; an object of a real server has 1.5 MiB at most.
const BODY_BYTES: usize = 16 * 1024 * 1024;

type Parameters = HashMap<String, String>;

pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/version", get(async || object(json!({ "major": "1", "minor": "33" }))))
        .route("/apis", get(groups))
        .fallback(answer)
        .with_state(shared)
}

async fn groups() -> Response {
    let groups = [("discovery.k8s.io", "v1"), ("martlet.dev", "v1alpha1")];
    let groups = groups.map(|(name, version)| {
        let version = json!({ "groupVersion": format!("{name}/{version}"), "version": version });
        json!({ "name": name, "versions": [version], "preferredVersion": version })
    });
    object(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let parameters = parameters(request.uri().query().unwrap_or_default());
    let Some(target) = Target::parse(request.uri().path()) else {
        return refused(404, "NotFound", "there is nothing at this path");
    };
    let method = request.method().clone();
    if method == Method::GET {
        return match (target.name.is_empty(), parameters.contains_key("watch")) {
            (false, _) => one(&shared, &target).await,
            (true, true) => watch(shared, target, &parameters).await,
            (true, false) => list(&shared, &target, &parameters).await,
        };
    }
    let body = to_bytes(request.into_body(), BODY_BYTES).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    write(&shared, &target, &method, &parameters, body)
}

/// What is escaped in them is only what stands in no version and no token of ours.
fn parameters(query: &str) -> Parameters {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn one(shared: &Shared, target: &Target) -> Response {
    let gets = {
        let mut store = shared.store();
        let of = store.faults.of(&target.of.plural);
        of.got += 1;
        of.gets.clone()
    };
    match gets {
        Gets::Refused(status) => refused(status, "Unavailable", "not now"),
        Gets::Silent => pending().await,
        Gets::Right => {
            let found = shared.store().get(&target.of, &target.namespace, &target.name);
            found.map_or_else(|| missing(target), object)
        }
    }
}

fn missing(target: &Target) -> Response {
    let Target { of, name, .. } = target;
    refused(404, "NotFound", &format!("{} \"{name}\" not found", of.plural))
}

async fn list(shared: &Shared, target: &Target, parameters: &Parameters) -> Response {
    let (of, token) = (&target.of, parameters.get("continue"));
    let lists = {
        let mut store = shared.store();
        let of = store.faults.of(&of.plural);
        of.listed += u64::from(token.is_none());
        of.lists.clone()
    };
    let all = match (lists, token) {
        (Lists::Silent, _) => pending().await,
        (Lists::Refused(status, wait), _) => return refused_for(status, wait),
        (Lists::Garbage, _) => return text("{\"kind\": \"PodList\", \"items\": [{\"met"),
        (Lists::Expired, Some(_)) => return expired(),
        (Lists::Empty, _) => Some((shared.store().version(), Vec::new())),
        (Lists::AsTheyWere { version, items }, None) => Some((version, items)),
        (_, Some(token)) => shared.store().rest(token),
        (_, None) => {
            let within = Some(target.namespace.as_str()).filter(|name| !name.is_empty());
            Some(shared.store().list(of, within))
        }
    };
    let Some((version, mut items)) = all else { return expired() };
    let limit = parameters.get("limit").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if limit != 0 && items.len() > limit {
        let rest = items.split_off(limit);
        metadata["remainingItemCount"] = json!(rest.len());
        metadata["continue"] = json!(shared.store().keep_rest(version, rest));
    }
    let (kind, api) = (singular(&of.plural), of.api_version());
    text(&format!(
        "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{api}\",\"metadata\":{metadata},\"items\":[{}]}}",
        items.join(",")
    ))
}

async fn watch(shared: Arc<Shared>, target: Target, parameters: &Parameters) -> Response {
    let watches = {
        let mut store = shared.store();
        let of = store.faults.of(&target.of.plural);
        of.watched += 1;
        of.watches.clone()
    };
    match watches {
        Watches::Silent => pending().await,
        Watches::Refused(status, wait) => refused_for(status, wait),
        Watches::Expired => expired(),
        Watches::Right | Watches::Ended => {
            let number = |name: &str| parameters.get(name).and_then(|text| text.parse().ok());
            let seconds = number("timeoutSeconds").unwrap_or(1800);
            let body = watching::body(shared, target, number("resourceVersion"), seconds);
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
    }
}

fn write(
    shared: &Shared,
    target: &Target,
    method: &Method,
    parameters: &Parameters,
    mut body: Value,
) -> Response {
    if target.of.plural == "tokenreviews" {
        return review(shared, body);
    }
    if body["metadata"].is_null() {
        body["metadata"] = json!({});
    }
    let Target { of, namespace, name } = target;
    if !namespace.is_empty() {
        body["metadata"]["namespace"] = json!(namespace);
    }
    let wanted = body["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    let name = match name.as_str() {
        "" => body["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        name => name.to_owned(),
    };
    shared.change(|store| {
        let before = store.get(of, namespace, &name);
        let is_other = |before: &Value| {
            let is = before["metadata"]["resourceVersion"].as_str();
            wanted.as_deref().is_some_and(|wanted| is != Some(wanted))
        };
        let is_apply = parameters.contains_key("fieldManager") && parameters.contains_key("force");
        match (method.as_str(), before) {
            ("POST", Some(_)) => refused(409, "AlreadyExists", "it exists already"),
            ("PUT" | "PATCH", Some(before)) if is_other(&before) => {
                refused(409, "Conflict", "the object has been modified")
            }
            ("POST", None) => created(store.set(of, body)),
            ("PUT", Some(_)) => object(store.set(of, body)),
            ("PATCH", Some(mut now)) => {
                merge(&mut now, &body);
                object(store.set(of, now))
            }
            ("PATCH", None) if is_apply => created(store.set(of, body)),
            ("DELETE", Some(_)) => object(store.remove(of, namespace, &name).unwrap_or_default()),
            ("DELETE" | "PATCH" | "PUT", None) => missing(target),
            _ => refused(405, "MethodNotAllowed", "not here"),
        }
    })
}

fn review(shared: &Shared, mut review: Value) -> Response {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let user = shared.store().tokens.get(token).cloned();
    review["status"] = match user {
        Some(user) => {
            let audiences = review["spec"]["audiences"].clone();
            json!({ "authenticated": true, "user": user, "audiences": audiences })
        }
        None => json!({ "authenticated": false, "error": "unknown token" }),
    };
    created(review)
}

fn object(object: Value) -> Response {
    text(&object.to_string())
}

fn created(value: Value) -> Response {
    (StatusCode::CREATED, object(value)).into_response()
}

fn text(text: &str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], Body::from(text.to_owned())).into_response()
}

pub fn expired() -> Response {
    refused(410, "Expired", "the provided version is too old")
}

fn refused_for(status: u16, wait: Option<u32>) -> Response {
    let mut answer = refusal(status, "Unavailable", "not now");
    let Some(seconds) = wait else { return refused(status, "Unavailable", "not now") };
    answer["details"] = json!({ "retryAfterSeconds": seconds });
    let status = StatusCode::from_u16(status).unwrap();
    let headers = [(header::RETRY_AFTER, seconds.to_string())];
    (status, headers, object(answer)).into_response()
}

fn refused(status: u16, reason: &str, message: &str) -> Response {
    let answer = object(refusal(status, reason, message));
    (StatusCode::from_u16(status).unwrap(), answer).into_response()
}

pub fn refusal(status: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status,
    })
}
