//! `martlet uninstall`: the nodes first, while there is something that can be sent to them.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use martlet_kubernetes::installation::{Installer, Named};
use martlet_manifests::{Overrides, Values, manifests, objects};
use serde_json::Value;

use super::{Uninstall, installer, say};
use crate::args::Reach;

pub async fn uninstall(reach: &Reach, options: Uninstall) -> Result<ExitCode> {
    let namespace = reach.system();
    let installer = installer(reach).await?;
    let found = installer.found().await?;
    match &found {
        None => say(&format!("Martlet is not installed in {namespace}")),
        // The nodes' settings say where what is on them lies: without them there were no agents.
        Some(found) if found.has_settings || found.has_agent => {
            let before = found.values.as_deref();
            let before =
                Overrides::read("the annotation martlet.dev/values", before.unwrap_or(""))?;
            let values = Values::with(&before)?;
            let all =
                objects(&manifests(&values, &namespace, &[])).context("reading our manifests")?;
            let set = all.into_iter().find(|one| one["kind"] == "DaemonSet");
            leave(&installer, &options, &set.context("our manifests have a DaemonSet")?).await?;
        }
        Some(_) => {}
    }
    if found.is_some() {
        remove(&installer, options.timeout).await?;
    }
    let (again, kept) = installer.made_by_controller();
    let (has_authority, is_ours) = installer.remains().await?;
    let kinds = installer.kinds().await?;
    if !options.purge {
        if found.is_some() {
            say("Martlet is gone, and what was enrolled talks in plaintext.");
        }
        if has_authority || !kinds.is_empty() {
            say(
                "The authority and the policies are kept for another time; --purge removes them, too.",
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    for (kind, _) in kinds {
        if installer.delete(&kind).await? {
            say(&format!("removed {kind} with all its objects"));
        }
    }
    delete(&installer, again.into_iter().chain(kept).collect()).await?;
    if is_ours {
        let space = installer.own_namespace();
        installer.delete(&space).await?;
        say(&format!("removed {space}"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn leave(installer: &Installer, options: &Uninstall, set: &Value) -> Result<()> {
    let (_, unready) = installer.nodes().await?;
    if !unready.is_empty() && !options.skip_unready {
        bail!(
            "not ready, so that what is on them cannot be removed: {}; wait for them, or go on \
             without them by --skip-unready",
            unready.join(", ")
        );
    }
    let left = installer.leave_nodes(set, options.timeout, &mut |why| say(why)).await?;
    for (node, said) in left.nodes {
        let count = said.iter().filter(|line| line.starts_with("removed: ")).count();
        say(&format!("{node}: left as it was, {count} things removed"));
    }
    for node in left.skipped {
        say(&format!(
            "{node}: not ready, and what is on it stays there; when it is back, install and uninstall \
             once more, or restart it"
        ));
    }
    Ok(())
}

async fn remove(installer: &Installer, patience: Duration) -> Result<()> {
    let (again, _) = installer.made_by_controller();
    let mut all = installer.everything().await?;
    all.extend(again);
    // The settings last: as long as they are there, this can be done again.
    let (settings, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|named| named.kind == "ConfigMap");
    delete(installer, others).await?;
    let silenced = installer.silence(patience, &mut |why| say(why)).await?;
    if silenced.count > 0 {
        say(&format!("removed the condition martlet.dev/enrolled of {} pods", silenced.count));
    }
    for pod in silenced.gated {
        say(&format!(
            "{pod}: the condition martlet.dev/enrolled stays, with the reason Uninstalled, since a \
             readiness gate of the pod asks for it"
        ));
    }
    delete(installer, settings).await
}

async fn delete(installer: &Installer, all: Vec<Named>) -> Result<()> {
    for named in all {
        if installer.delete(&named).await? {
            say(&format!("removed {named}"));
        }
    }
    Ok(())
}
