//! New roots, and issuers of those whose keys are elsewhere.

use axum::{Json, extract::State, http::StatusCode};
use martlet_authority::{NewRoot, trust::Whose};
use martlet_model::report::{
    Advanced, AskIssuer, BroughtKey, InstallIssuer, IssuerAsked, IssuerOf, Rotate,
};
use tracing::info;

use super::{Answer, Desk, No};

/// Without a root one is made.
pub async fn rotate(
    State(desk): State<Desk>,
    Json(asked): Json<Option<Rotate>>,
) -> Answer<Advanced> {
    let (root, keys) = match asked {
        None => (NewRoot::Made, None),
        Some(Rotate { certificates, key }) => {
            let certificates = certificates.into_bytes();
            let (key, keys) = match key {
                BroughtKey::Here(pem) => (Some(pem.into_bytes().into()), None),
                BroughtKey::Command(settings) => (None, Some(settings)),
                BroughtKey::Elsewhere => (None, None),
            };
            (NewRoot::Brought { certificates, key }, keys)
        }
    };
    desk.change(move |store, said, now| {
        let keys = keys.as_ref().map(String::as_bytes);
        store.rotate(root, keys, said, now)
    })
    .await?;
    info!("a rotation of the root has begun");
    Ok(Json(Advanced::default()))
}

pub async fn csr(State(desk): State<Desk>, Json(asked): Json<AskIssuer>) -> Answer<IssuerAsked> {
    let whose = asked.of.map(whose);
    let request = desk.change(move |store, _, now| store.request(whose, now)).await?;
    Ok(Json(IssuerAsked { request }))
}

pub async fn install(
    State(desk): State<Desk>,
    Json(asked): Json<InstallIssuer>,
) -> Result<Json<Advanced>, No> {
    let InstallIssuer { of, certificate, may_last_long } = asked;
    if certificate.is_empty() {
        return Err(No(StatusCode::BAD_REQUEST, "there is no certificate in it".to_owned()));
    }
    let whose = of.map(whose);
    desk.change(move |store, _, now| {
        store.install(whose, certificate.as_bytes(), may_last_long, now)
    })
    .await?;
    info!("an issuer was installed");
    Ok(Json(Advanced::default()))
}

fn whose(of: IssuerOf) -> Whose {
    match of {
        IssuerOf::Issuing => Whose::Issuing,
        IssuerOf::Other => Whose::Other,
    }
}
