//! `martlet authority init`: makes an authority, and says what must be kept safe.

use std::{path::Path, time::SystemTime};

use anyhow::{Context, Result};
use martlet_authority::Authority;
use martlet_model::TrustDomain;

use crate::{
    human,
    table::{Table, plain},
};

/// What was made, for people.
pub fn init(directory: &Path, domain: &TrustDomain) -> Result<String> {
    Authority::init(directory, domain).context("making the authority")?;
    // Read again as an agent would, so that what does not work is noticed now.
    let made = Authority::load(directory, domain).context("reading what was just made")?;
    let certificates = made.certificates().context("reading what was just made")?;
    let now = SystemTime::now();
    let mut table = Table::new(&["CERTIFICATE", "SUBJECT", "EXPIRES", "SHA-256"]);
    for (file, certificate) in ["root.crt", "issuer.crt"].iter().zip(&certificates) {
        table.row([
            plain(*file),
            plain(&certificate.subject),
            plain(human::relative(certificate.not_after, now)),
            plain(&certificate.fingerprint),
        ]);
    }
    let directory = directory.display();
    Ok(format!(
        "made the authority of {domain} in {directory}

{}
Keep safe:
  root.key    signs issuers, and can speak for everybody in {domain}.
              Where it is, a new issuer is made every few days; without it somebody must sign
              one each week (`martlet authority csr`).
  issuer.key  signs the certificates of workloads for a week.

Every node of {domain} needs these files; its node file says
  trustDomain: {domain}
  authority: {{ directory: {directory} }}
",
        table.text()
    ))
}
