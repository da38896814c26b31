//! Waiting for a condition with a deadline: the only sleep of the cluster.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Looks until it is so, or fails with the name of the file that tells why not.
pub fn until(
    what: &str,
    seconds: u64,
    log: &Path,
    mut look: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !look()? {
        if Instant::now() >= deadline {
            bail!("waited {seconds} s in vain for {what}; see {}", log.display());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
