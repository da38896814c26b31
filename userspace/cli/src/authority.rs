//! `martlet authority`: makes an authority, gives it new issuers, and looks at its log. No agent is
//! asked.

use std::{fs, path::Path, process::ExitCode, time::SystemTime};

use anyhow::{Context, Result};
use martlet_authority::{
    Authority, NewRoot,
    log::{Anchor, verify},
    sign_issuer,
};
use martlet_model::{TrustDomain, report::CertificateReport};

use crate::{
    args::{AuthorityCommand, LogCommand, Place},
    human,
    paint::{Tone, paint},
    table::{Table, plain},
};

/// What is said, and with which code the program ends.
pub fn run(command: &AuthorityCommand) -> Result<(String, ExitCode)> {
    let said = match command {
        AuthorityCommand::Init { directory, trust_domain, root, root_key } => {
            init(directory, trust_domain, root.as_deref(), root_key.as_deref())?
        }
        AuthorityCommand::Csr { authority } => {
            let asked = Authority::request(&authority.directory, &domain(authority)?);
            asked.context("asking for an issuer")?
        }
        AuthorityCommand::Sign { authority, request } => sign(authority, request)?,
        AuthorityCommand::Install { authority, certificate, long_lived } => {
            install(authority, certificate, *long_lived)?
        }
        AuthorityCommand::Log(LogCommand::Verify { directory, anchor }) => {
            return look(directory, anchor.as_ref());
        }
    };
    Ok((said, ExitCode::SUCCESS))
}

fn init(
    directory: &Path,
    domain: &TrustDomain,
    root: Option<&Path>,
    key: Option<&Path>,
) -> Result<String> {
    let now = SystemTime::now();
    let new = match root {
        Some(root) => NewRoot::from_files(root, key).context("reading the root")?,
        None => NewRoot::Made,
    };
    let has_issuer = Authority::init_below(directory, domain, new, now);
    let place = directory.display();
    if !has_issuer.context("making the authority")? {
        return Ok(format!(
            "prepared the authority of {domain} in {place}

The root's key is kept elsewhere. To get an issuer, and again each week:
  martlet authority csr {place} > issuer.csr
  … have issuer.csr signed by the root, as `martlet authority sign` does …
  martlet authority install {place} issuer.crt
"
        ));
    }
    // Read again as an agent would, so that what does not work is noticed now.
    let made = Authority::load(directory, domain).context("reading what was just made")?;
    let certificates = made.certificates().context("reading what was just made")?;
    Ok(format!(
        "made the authority of {domain} in {place}

{}
Keep safe:
  root.key    signs issuers, and can speak for everybody in {domain}.
              Where it is, a new issuer is made every few days; without it somebody must sign
              one each week (`martlet authority csr`).
  issuer.key  signs the certificates of workloads for a week.

Every node of {domain} needs these files; its node file says
  trustDomain: {domain}
  authority: {{ directory: {place} }}
",
        table(&certificates, now)
    ))
}

fn table(certificates: &[CertificateReport], now: SystemTime) -> String {
    let mut table = Table::new(&["CERTIFICATE", "SUBJECT", "EXPIRES", "SHA-256"]);
    for (number, certificate) in (1..).zip(certificates) {
        table.row([
            plain(if number == certificates.len() { "issuer.crt" } else { "root.crt" }),
            plain(&certificate.subject),
            plain(human::relative(certificate.not_after, now)),
            plain(&certificate.fingerprint),
        ]);
    }
    table.text()
}

fn sign(authority: &Place, request: &Path) -> Result<String> {
    let csr = fs::read(request).with_context(|| format!("reading {}", request.display()))?;
    let signed = sign_issuer(&authority.directory, &domain(authority)?, &csr, SystemTime::now());
    signed.context("signing the request")
}

fn install(authority: &Place, certificate: &Path, long_lived: bool) -> Result<String> {
    let (domain, now) = (domain(authority)?, SystemTime::now());
    let directory = &authority.directory;
    let pem =
        fs::read(certificate).with_context(|| format!("reading {}", certificate.display()))?;
    Authority::install(directory, &domain, &pem, long_lived, now)
        .context("installing the issuer")?;
    let installed = Authority::load(directory, &domain).context("reading what was installed")?;
    let certificates = installed.certificates().context("reading what was installed")?;
    Ok(format!("the authority of {domain} has a new issuer\n\n{}", table(&certificates, now)))
}

fn domain(authority: &Place) -> Result<TrustDomain> {
    if let Some(domain) = &authority.trust_domain {
        return Ok(domain.clone());
    }
    let named = Authority::named_domain(&authority.directory).context("reading the authority")?;
    named.context("no certificate in the directory names a trust domain; give --trust-domain")
}

fn look(directory: &Path, anchor: Option<&Anchor>) -> Result<(String, ExitCode)> {
    let verdict = verify(directory, anchor).context("reading the log")?;
    let head = &verdict.head;
    let mut said = String::new();
    for problem in &verdict.problems {
        said.push_str(&format!("{}\n", paint(&format!("✗ {problem}"), Tone::Bad)));
    }
    said.push_str(&format!(
        "lines     {} to {}\nissued    {}\nrefused   {}\nhead      {head}\n\n",
        verdict.first, head.sequence, verdict.issued, verdict.refused
    ));
    match (verdict.is_whole(), anchor) {
        (false, _) => {
            said.push_str("the log is not what was written\n");
            return Ok((said, ExitCode::FAILURE));
        }
        (true, Some(anchor)) => {
            let line = anchor.sequence;
            said.push_str(&format!("the log is what was written, up to line {line} for certain\n"));
        }
        (true, None) => said.push_str(
            "the chain is whole; that its end was not cut off is known only with an anchor: keep \
             the head elsewhere, and give it as --anchor the next time\n",
        ),
    }
    Ok((said, ExitCode::SUCCESS))
}
