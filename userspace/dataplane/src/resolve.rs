//! From an origin to a route: which endpoint, and who must answer there.

use std::{net::SocketAddr, sync::Arc};

use martlet_model::{Closed, Directory, Place, Workload};
use rand::seq::SliceRandom as _;

use crate::limits::ENDPOINTS_TRIED;

/// Where a connection goes.
#[derive(Debug, Clone)]
pub enum Route {
    /// Over a lane, to this workload.
    Mesh { address: SocketAddr, workload: Arc<Workload> },
    /// To the calling workload itself, inside its network namespace.
    Own { address: SocketAddr },
    /// To a service's endpoint that is no workload of the mesh, in plaintext.
    Outside { address: SocketAddr },
}

impl Route {
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Mesh { address, .. } | Self::Own { address } | Self::Outside { address } => {
                *address
            }
        }
    }
}

/// The routes to try, in order; at least one.
pub fn resolve(
    directory: &Directory,
    caller: &Workload,
    origin: SocketAddr,
) -> Result<Vec<Route>, Closed> {
    match directory.place(origin) {
        Place::Workload(workload) => Ok(vec![to_workload(caller, workload, origin)]),
        Place::Service(service) => {
            let mut endpoints = service.endpoints.clone();
            endpoints.shuffle(&mut rand::rng());
            endpoints.truncate(ENDPOINTS_TRIED);
            if endpoints.is_empty() {
                return Err(Closed::NoEndpoint);
            }
            let route = |address: SocketAddr| match directory.workload_at(address.ip()) {
                Some(workload) => to_workload(caller, workload, address),
                None => Route::Outside { address },
            };
            Ok(endpoints.into_iter().map(route).collect())
        }
        Place::UnknownPort | Place::Unknown => Err(Closed::NoRoute),
    }
}

fn to_workload(caller: &Workload, workload: &Arc<Workload>, address: SocketAddr) -> Route {
    match caller.name == workload.name {
        true => Route::Own { address },
        false => Route::Mesh { address, workload: workload.clone() },
    }
}
