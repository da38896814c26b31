//! Where the authorities of a rotation are: each generation is a directory of the same form.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use martlet_model::TrustDomain;

use super::{TrustError, document::Document};
use crate::{Authority, NewRoot, files, settings};

const NAME: &str = "generations";
pub const FIRST: u64 = 1;

/// Where the next one goes, whatever is there.
pub fn place(directory: &Path, number: u64) -> PathBuf {
    directory.join(NAME).join(number.to_string())
}

/// The first one may be where `martlet authority init` has made it.
pub fn path(directory: &Path, number: u64) -> PathBuf {
    let path = place(directory, number);
    match number == FIRST && !path.exists() {
        true => directory.to_owned(),
        false => path,
    }
}

/// Whether there is one that no directory has without a rotation.
pub fn has_later(directory: &Path) -> Result<bool, TrustError> {
    let names = files::names(&directory.join(NAME))?;
    Ok(names.iter().any(|name| name.parse().is_ok_and(|number: u64| number != FIRST)))
}

/// A whole authority beside its place. Without `keys`, its keys are kept as those in `from`.
pub fn prepare(
    (from, keys): (&Path, Option<&[u8]>),
    place: &Path,
    domain: &TrustDomain,
    root: NewRoot,
    now: SystemTime,
) -> Result<PathBuf, TrustError> {
    let made = place.with_extension("tmp");
    files::remove_directory(&made)?;
    files::make_directory(&made)?;
    let written = settings::hand_over(from, keys, &made)
        .and_then(|()| Authority::init_below(&made, domain, root, now));
    match written {
        Ok(_) => Ok(made),
        Err(error) => {
            // Whatever is left is removed at the next start.
            let _ = fs::remove_dir_all(&made);
            Err(error.into())
        }
    }
}

pub fn finish(made: &Path, place: &Path) -> Result<(), TrustError> {
    files::remove_directory(place)?;
    files::rename(made, place)?;
    Ok(place.parent().map_or(Ok(()), files::sync)?)
}

/// Removes what no generation of the document is: left by a process that died, or retired.
pub fn clean(directory: &Path, document: &Document) -> Result<(), TrustError> {
    let is_used = |number: u64| document.generations().any(|used| used == number);
    let generations = directory.join(NAME);
    for name in files::names(&generations)? {
        if !name.parse().is_ok_and(is_used) {
            files::remove_directory(&generations.join(name))?;
        }
    }
    if !is_used(FIRST) {
        // The key first: it is what must not be left.
        for name in files::ALL {
            files::remove(&directory.join(name))?;
        }
    }
    Ok(())
}
