//! What is set for all nodes, and where an agent's own node is.

use martlet_model::{Failure, Zone};

use super::{Malformed, parsed};
use crate::proto;

pub fn settings_to(failure: Option<Failure>) -> proto::Settings {
    let failure = match failure {
        None => proto::Failure::Unspecified,
        Some(Failure::Closed) => proto::Failure::Closed,
        Some(Failure::Open) => proto::Failure::Open,
    };
    proto::Settings { failure: failure.into() }
}

pub fn settings_from(settings: &proto::Settings) -> Result<Option<Failure>, Malformed> {
    match proto::Failure::try_from(settings.failure) {
        Ok(proto::Failure::Unspecified) => Ok(None),
        Ok(proto::Failure::Closed) => Ok(Some(Failure::Closed)),
        Ok(proto::Failure::Open) => Ok(Some(Failure::Open)),
        Err(_) => Err(Malformed::new("settings.failure", "is unknown")),
    }
}

pub fn here_to(zone: Option<&Zone>) -> proto::Here {
    proto::Here { zone: zone.map(Zone::to_string).unwrap_or_default() }
}

pub fn here_from(here: &proto::Here) -> Result<Option<Zone>, Malformed> {
    match here.zone.as_str() {
        "" => Ok(None),
        zone => parsed("here.zone", zone).map(Some),
    }
}
