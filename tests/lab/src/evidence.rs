//! What a test has measured, for the table in `docs/promises.md`.
//!
//! `cargo xtask test` says where to by `MARTLET_EVIDENCE` and reads it back; elsewhere nothing is
//! written. Which promise a test belongs to is said once, in `xtask/src/promises/list.rs`.

use std::{fmt::Display, fs, fs::OpenOptions, io::Write as _, path::Path};

use anyhow::{Context, Result};
use serde_json::json;

/// To be called at the end of a test, when all of its claims have held.
///
/// `test` is the name of its function. Figures are shown in this order, as `name value`; a value
/// carries its unit. A test may say more in a later call.
pub fn evidence(test: &str, figures: &[(&str, &dyn Display)]) -> Result<()> {
    match std::env::var_os("MARTLET_EVIDENCE") {
        Some(directory) => write(Path::new(&directory), test, figures),
        None => Ok(()),
    }
}

fn write(directory: &Path, test: &str, figures: &[(&str, &dyn Display)]) -> Result<()> {
    let figures: Vec<_> =
        figures.iter().map(|(name, value)| json!([name, value.to_string()])).collect();
    let line = json!({ "test": test, "figures": figures });
    let path = directory.join(format!("{test}.jsonl"));
    fs::create_dir_all(directory)
        .and_then(|()| OpenOptions::new().create(true).append(true).open(&path))
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_appended_in_the_order_in_which_they_are_given() -> Result<()> {
        let directory =
            std::env::temp_dir().join(format!("martlet-evidence-{}", std::process::id()));
        write(&directory, "a_claim", &[("faults", &30), ("canaries on the wire", &0)])?;
        write(&directory, "a_claim", &[("slowest", &"12 ms")])?;
        let text = fs::read_to_string(directory.join("a_claim.jsonl"))?;
        fs::remove_dir_all(&directory)?;
        assert_eq!(
            text,
            "{\"figures\":[[\"faults\",\"30\"],[\"canaries on the wire\",\"0\"]],\"test\":\"a_claim\"}\n\
             {\"figures\":[[\"slowest\",\"12 ms\"]],\"test\":\"a_claim\"}\n"
        );
        Ok(())
    }
}
