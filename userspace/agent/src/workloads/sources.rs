//! Where workloads come from: the node file, the authority's files, and the controller.

use std::{sync::Arc, time::SystemTime};

use anyhow::{Context as _, Result};
use martlet_control::Declared;
use tracing::{error, info, warn};

use super::Workloads;
use crate::configuration::Loaded;

impl Workloads {
    /// Enrolls what is declared now.
    pub fn begin(&mut self) -> Result<()> {
        if let Some(declared) = self.told.declared() {
            self.trust(&declared)?;
        }
        let result = self.take_over();
        self.told.acknowledge(result.as_ref().err().map(|error| format!("{error:#}")));
        if result.is_ok() {
            self.arrivals.open();
        }
        result
    }

    /// Takes over a new node file.
    pub(super) fn replace(&mut self, loaded: Loaded) {
        match self.issuer.refresh() {
            Ok(true) => self.take_over_authority(),
            Ok(false) => {}
            Err(error) => {
                warn!(error = format!("{error:#}"), "the authority's files were not taken");
            }
        }
        self.file = loaded;
        if let Err(error) = self.take_over() {
            let error = format!("{error:#}");
            error!(error, "the node file could not be taken over completely");
            self.shared.set_configuration_error(error);
        }
    }

    /// Takes over what the controller says, and tells it so.
    pub(super) fn hear(&mut self, declared: &Declared) {
        let result = self.trust(declared).and_then(|()| self.take_over());
        let error = result.err().map(|error| format!("{error:#}"));
        if let Some(error) = &error {
            error!(error, "what the controller says could not be taken over completely");
        }
        self.told.acknowledge(error);
    }

    fn trust(&mut self, declared: &Declared) -> Result<()> {
        let trust = &declared.trust;
        if self.issuer.take(trust).context("taking over whom to trust")? {
            info!(version = trust.version, "whom to trust has changed");
            self.certificates.set_trust();
            self.certificates.renew_superseded(SystemTime::now());
        }
        Ok(())
    }

    fn take_over(&mut self) -> Result<()> {
        let file = Arc::new(self.told.complete(&self.file.file));
        self.apply(&file)?;
        self.shared.set_configuration(self.file.digest.clone(), file);
        Ok(())
    }

    /// Whoever takes over the same files believes no certificate of the old authority any more, so
    /// none is kept for the rest of its life.
    fn take_over_authority(&mut self) {
        info!("the authority's files changed");
        self.certificates.set_trust();
        self.certificates.renew_all(SystemTime::now());
        self.handing.renew_all(SystemTime::now());
    }
}
