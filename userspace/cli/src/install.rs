//! `martlet install`, `upgrade` and `uninstall`: Martlet in a cluster, and out of it again.

mod goal;
mod options;
mod removal;

pub use options::{Install, Uninstall, Upgrade};
pub use removal::uninstall;

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use martlet_kubernetes::{
    installation::{Change, Found, InstallError, Installer, Manner, Named, VALUES_ANNOTATION},
    remote::{self, Remote},
};
use martlet_manifests::{
    BUDGET, DEFINITIONS, MANAGED_BY, Overrides, POD_MONITOR, SURGE, VERSION, Values, manifests,
    objects,
};
use martlet_model::Label;
use serde_json::{Value, json};

use crate::{args::Reach, write};
use goal::is_newer;
use options::{Choice, Form, Kept};

pub async fn install(reach: &Reach, options: Install) -> Result<ExitCode> {
    let namespace = reach.system();
    let given = given(&options.choice)?;
    if options.output == Some(Form::Yaml) {
        let values = Values::with(&given)?;
        let all = manifests(&values, &namespace, &[BUDGET, SURGE]);
        write(&format!("{DEFINITIONS}---\n{all}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    Values::with(&given)?;
    let installer = installer(reach).await?;
    let served = installer.served(&[BUDGET, POD_MONITOR, SURGE]).await?;
    demand_rights(&installer, &namespace, &served).await?;
    let found = installer.found().await?;
    if let Some(found) = &found {
        refuse_helm(found)?;
        match found.version.as_deref() {
            Some(VERSION) | None => {}
            Some(other) => bail!(
                "Martlet {other} is installed in {namespace}; `martlet upgrade` makes it {VERSION}"
            ),
        }
    }
    let plan = plan(found.as_ref(), given, &namespace, &served, options.choice.reset_values)?;
    apply(&installer, &plan, &options.kept).await?;
    if !options.kept.is_dry() {
        say(&next_commands(&namespace));
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn upgrade(reach: &Reach, options: Upgrade) -> Result<ExitCode> {
    let namespace = reach.system();
    let given = given(&options.choice)?;
    Values::with(&given)?;
    let installer = installer(reach).await?;
    let served = installer.served(&[BUDGET, POD_MONITOR, SURGE]).await?;
    demand_rights(&installer, &namespace, &served).await?;
    let Some(found) = installer.found().await? else {
        bail!("Martlet is not installed in {namespace}; `martlet install` installs it");
    };
    refuse_helm(&found)?;
    if let Some(there) = found.version.as_deref().filter(|there| is_newer(there, VERSION)) {
        bail!(
            "Martlet {there} is installed, and this is martlet {VERSION}: it only goes forward; use the martlet of {there} or a later one"
        );
    }
    for (kind, there) in installer.kinds().await? {
        if let Some(there) = there.filter(|there| is_newer(there, VERSION)) {
            bail!(
                "{kind} is of {there}, and this is martlet {VERSION}: an older one could lose what stands in it; use the martlet of {there} or a later one"
            );
        }
    }
    let plan = plan(Some(&found), given, &namespace, &served, options.choice.reset_values)?;
    apply(&installer, &plan, &options.kept).await?;
    for stale in installer.stale(&plan.objects).await? {
        if options.kept.is_dry() {
            say(&format!("would remove {stale}"));
        } else if installer.delete(&stale).await? {
            say(&format!("removed {stale}: {VERSION} has none"));
        }
    }
    if !options.kept.is_dry() {
        say(&format!("Martlet {VERSION} runs in {namespace}."));
    }
    Ok(ExitCode::SUCCESS)
}

/// Of the cluster as a whole. Asks nobody yet.
async fn installer(reach: &Reach) -> Result<Installer> {
    ensure!(
        reach.nodes.is_empty(),
        "--node: Martlet is installed into a cluster, upgraded in it and removed from it, not from \
         single nodes; the value agent.nodeSelector says which nodes have agents"
    );
    let Reach { context, kubeconfig, .. } = reach.clone();
    let opened =
        Remote::open(&remote::Choice { kubeconfig, context, system: reach.system() }).await;
    let remote = opened.context("name a cluster by --kubeconfig or --context")?;
    Ok(Installer::new(remote.client, remote.system.as_str()))
}

/// What is to be there.
struct Plan {
    definitions: Vec<Value>,
    objects: Vec<Value>,
}

/// What was said at the last time counts until something else is said.
fn plan(
    found: Option<&Found>,
    given: Overrides,
    namespace: &Label,
    served: &[&str],
    is_reset: bool,
) -> Result<Plan> {
    let before = found.and_then(|found| found.values.as_deref()).filter(|_| !is_reset);
    let before = match before {
        Some(text) => Overrides::read("the annotation martlet.dev/values", text)?,
        None => Overrides::default(),
    };
    let domain = |values: &Overrides| Values::with(values).map(|values| values.trust_domain);
    let all = before.clone().and(given);
    let values = Values::with(&all)?;
    if found.is_some_and(|found| found.has_controller)
        && !is_reset
        && domain(&before)? != values.trust_domain
    {
        bail!(
            "trustDomain: it is {} in this cluster, where identities have it in them; to change it, \
             `martlet uninstall --purge` first",
            domain(&before)?
        );
    }
    if values.metrics.pod_monitor && !served.contains(&POD_MONITOR) {
        bail!(
            "metrics.podMonitor: this cluster has no such kind; install the Prometheus operator \
             first, or say --set metrics.podMonitor=false"
        );
    }
    let all_of_it = manifests(&values, namespace, served);
    let mut objects = objects(&all_of_it).context("reading our manifests")?;
    if !all.is_empty() {
        let settings = objects.iter_mut().find(|one| one["kind"] == "ConfigMap");
        let settings = settings.context("our manifests have a ConfigMap")?;
        settings["metadata"]["annotations"] = json!({ VALUES_ANNOTATION: all.value().to_string() });
    }
    let definitions = martlet_manifests::objects(DEFINITIONS).context("reading our kinds")?;
    Ok(Plan { definitions, objects })
}

async fn apply(installer: &Installer, plan: &Plan, kept: &Kept) -> Result<()> {
    let patience = kept.timeout;
    let manner = Manner { force: kept.force_conflicts, dry_run: kept.is_dry() };
    let mut counts = Counts::default();
    for definition in &plan.definitions {
        counts.note(&Named::of(definition), applied(installer, definition, manner).await?, manner);
    }
    let kinds = plan.definitions.iter().map(|one| Named::of(one).name).collect::<Vec<_>>();
    if !manner.dry_run {
        installer.until_served(&kinds, patience, &mut |why| say(why)).await?;
    }
    for object in &plan.objects {
        counts.note(&Named::of(object), applied(installer, object, manner).await?, manner);
    }
    if counts.changes == 0 {
        say("everything is there already, nothing was changed");
    }
    if kept.wait && !manner.dry_run {
        installer.until_ready(patience, &mut |why| say(why)).await?;
        say("controller and agents are ready");
    }
    Ok(())
}

/// Before anything else is asked: then all that is lacking can be said at once.
async fn demand_rights(installer: &Installer, namespace: &Label, served: &[&str]) -> Result<()> {
    let plan = plan(None, Overrides::default(), namespace, served, false)?;
    let all: Vec<_> = plan.definitions.iter().chain(&plan.objects).cloned().collect();
    let missing = installer.missing_rights(&all).await?;
    if !missing.is_empty() {
        bail!(
            "you may not do all of this in the cluster; what you lack:\n         {}\n       \
             let somebody with the role cluster-admin do it",
            missing.join("\n         ")
        );
    }
    Ok(())
}

async fn applied(installer: &Installer, object: &Value, manner: Manner) -> Result<Change> {
    let applied = installer.apply(object, manner).await;
    Ok(match applied {
        Err(error @ InstallError::Conflict { .. }) => {
            return Err(anyhow::Error::new(error)
                .context("let them be, or take them over by --force-conflicts"));
        }
        applied => applied?,
    })
}

#[derive(Default)]
struct Counts {
    changes: usize,
}

impl Counts {
    fn note(&mut self, named: &Named, change: Change, manner: Manner) {
        let (done, would) = match change {
            Change::Same => return,
            Change::Created => ("created", "would be created"),
            Change::Changed => ("changed", "would be changed"),
            Change::Unseen => {
                ("not seen", "would be created, unseen by the server until its namespace is there")
            }
        };
        self.changes += 1;
        say(&format!("{named}: {}", if manner.dry_run { would } else { done }));
    }
}

/// Of files first, then of the command line.
fn given(choice: &Choice) -> Result<Overrides> {
    let mut all = Overrides::default();
    for path in &choice.values {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| format!("reading {name}"))?;
        all = all.and(Overrides::read(&name, &text)?);
    }
    for pair in &choice.set {
        all = all.and(Overrides::pair(pair)?);
    }
    Ok(all)
}

fn refuse_helm(found: &Found) -> Result<()> {
    match found.managed_by.as_deref() {
        None => Ok(()),
        Some(by) if by == MANAGED_BY.1 => Ok(()),
        Some(by) => {
            bail!("Martlet was installed by {by}, which looks after it; upgrade it by {by}")
        }
    }
}

fn next_commands(namespace: &Label) -> String {
    format!(
        "\nMartlet {VERSION} is installed. Enroll a namespace, whose pods need no restart, and look:\n\n  \
         kubectl label namespace NAME martlet.dev/mode=permissive\n  \
         kubectl --namespace {namespace} exec daemonset/martlet-agent -- /usr/bin/martlet workloads"
    )
}

/// For people who wait: standard output is for what was asked for.
fn say(what: &str) {
    eprintln!("{what}");
}
