//! What a controller is asked about nodes and trust: commands, and what is printed of the answers.

mod nodes;
mod roots;
mod status;

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use martlet_model::{
    Quarantine, TrustDomain,
    report::{
        Advanced, CutOff, Export, Import, Invitation, Invite, NodeName, Nodes, Release,
        TrustReport, Unfederate,
    },
};
use serde::de::DeserializeOwned;

use crate::{
    args::{NodeCommand, Output, TrustCommand, Whom},
    controller::{Controller, ControllerError},
    write,
};

/// A bundle document of a few roots has a few thousand bytes.
const DOCUMENT_BYTES: u64 = 512 * 1024;

pub async fn nodes(controller: &Controller, output: Output) -> Result<ExitCode> {
    let answer = controller.ask("/nodes").await?;
    show(controller, &answer, output, |all: &Nodes| nodes::table(all, SystemTime::now()))
}

pub async fn node(controller: &Controller, command: NodeCommand) -> Result<ExitCode> {
    match command {
        NodeCommand::Join { name, valid, answer } => {
            let valid_seconds = valid.map(|valid| valid.as_secs());
            let asked = Invite { node: name, valid_seconds };
            let told = controller.tell("/nodes/join", &asked).await?;
            show(controller, &told, answer.output, |invitation: &Invitation| {
                nodes::invitation(invitation, SystemTime::now())
            })
        }
        NodeCommand::Remove { name } => {
            controller.tell("/nodes/remove", &NodeName { node: name.clone() }).await?;
            write(&format!(
                "{name} is no node any more; what it was certified as is worth nothing\n"
            ))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub async fn trust(controller: &Controller, command: TrustCommand) -> Result<ExitCode> {
    match command {
        TrustCommand::Status { answer } => {
            let told = controller.ask("/trust").await?;
            return show(controller, &told, answer.output, |report: &TrustReport| {
                status::page(report, SystemTime::now())
            });
        }
        TrustCommand::List { answer } => {
            let told = controller.ask("/trust").await?;
            return show(controller, &told, answer.output, |report: &TrustReport| {
                status::foreign(report, SystemTime::now())
            });
        }
        TrustCommand::Rotate { force: false, root, root_key, keys, offline: _ } => {
            roots::rotate(controller, root.as_deref(), root_key.as_deref(), keys.as_deref()).await?
        }
        TrustCommand::Csr { of } => roots::csr(controller, of).await?,
        TrustCommand::Install { certificate, of, long_lived } => {
            roots::install(controller, &certificate, of, long_lived).await?
        }
        TrustCommand::Rotate { force: true, .. } => {
            let told = controller.tell("/trust/force", &()).await?;
            let Advanced { broken } = controller.read(&told)?;
            let lines: String = broken.iter().map(|what| format!("  {what}\n")).collect();
            let said = match lines.as_str() {
                "" => "the next step was taken; nothing was in its way\n".to_owned(),
                lines => format!("the next step was taken, although:\n{lines}"),
            };
            write(&said)?;
        }
        TrustCommand::Pause => {
            controller.tell("/trust/pause", &()).await?;
            write("the rotation is paused; `martlet trust resume` lets it go on\n")?;
        }
        TrustCommand::Resume => {
            controller.tell("/trust/resume", &()).await?;
            write("the rotation goes on\n")?;
        }
        TrustCommand::Back => {
            controller.tell("/trust/back", &()).await?;
            write("the rotation is taken back; `martlet trust status` shows how far it is\n")?;
        }
        TrustCommand::Export { pem } => {
            let told = controller.ask("/trust/export").await?;
            // As it is: it is for programs, and its lines are part of it.
            let Export { document, .. } =
                serde_json::from_slice(&told).map_err(ControllerError::Differs)?;
            match pem {
                true => write(&roots::pem(&document)?)?,
                false => write(&format!("{}\n", document.trim_end()))?,
            }
        }
        TrustCommand::Import { domain, file } => import(controller, domain, &file).await?,
        TrustCommand::Refresh { domain } => {
            let asked = Unfederate { trust_domain: domain.clone() };
            controller.tell("/trust/refresh", &asked).await?;
            write(&format!("the roots of {domain} are those that its endpoint publishes\n"))?;
        }
        TrustCommand::Remove { domain } => {
            let asked = Unfederate { trust_domain: domain.clone() };
            controller.tell("/trust/remove", &asked).await?;
            write(&format!("{domain} is trusted no more; connections with it end\n"))?;
        }
        TrustCommand::Quarantine { whom, reason } => {
            let whom = quarantine(controller, whom).await?;
            controller.tell("/trust/quarantine", &CutOff { whom: whom.clone(), reason }).await?;
            write(&format!("{whom} is cut off; `martlet trust release` takes it back\n"))?;
        }
        TrustCommand::Release { whom } => {
            let whom = quarantine(controller, whom).await?;
            controller.tell("/trust/release", &Release { whom: whom.clone() }).await?;
            write(&format!("{whom} is cut off no more\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show<T: DeserializeOwned>(
    controller: &Controller,
    answer: &[u8],
    output: Output,
    page: impl Fn(&T) -> String,
) -> Result<ExitCode> {
    match output {
        Output::Json => write(&crate::show::as_json(answer))?,
        Output::Table => write(&page(&controller.read(answer)?))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn import(controller: &Controller, domain: TrustDomain, file: &Path) -> Result<()> {
    let named = || format!("reading {}", file.display());
    let mut document = String::new();
    let opened = fs::File::open(file).with_context(named)?;
    opened.take(DOCUMENT_BYTES + 1).read_to_string(&mut document).with_context(named)?;
    if document.len() as u64 > DOCUMENT_BYTES {
        bail!("{} is longer than any bundle document", file.display());
    }
    let source = fs::canonicalize(file).with_context(named)?.display().to_string();
    let asked = Import { trust_domain: domain.clone(), document, source };
    controller.tell("/trust/import", &asked).await?;
    write(&format!("workloads of {domain} are believed from now on\n"))
}

/// A node or a workload without a trust domain is of the controller's own.
async fn quarantine(controller: &Controller, whom: Whom) -> Result<Quarantine> {
    let Whom { kind, name } = whom;
    let parts = name.split('/').count();
    let is_short = matches!((kind.as_str(), parts), ("node", 1) | ("workload", 2));
    let text = match is_short {
        false => format!("{kind}/{name}"),
        true => {
            let all: Nodes = controller.read(&controller.ask("/nodes").await?)?;
            format!("{kind}/{}/{name}", all.trust_domain)
        }
    };
    Ok(text.parse()?)
}

/// `90m`, `12h`, `7d`, or a number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time like 30m, 12h or 7d");
    let (number, unit) = match text.find(|char: char| !char.is_ascii_digit()) {
        None => (text, 1),
        Some(at) => match &text[at..] {
            "s" => (&text[..at], 1),
            "m" => (&text[..at], 60),
            "h" => (&text[..at], 3600),
            "d" => (&text[..at], 86_400),
            _ => return Err(wrong()),
        },
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, seconds) in
            [("90", 90), ("45s", 45), ("30m", 1800), ("1h", 3600), ("7d", 604_800)]
        {
            assert_eq!(duration(text).unwrap().as_secs(), seconds);
        }
        for bad in ["", "h", "1w", "-1h", "1.5h", "1hh", "99999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
