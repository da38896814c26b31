//! Pins that somebody removes, under an agent that runs and under one that is dead.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::wait_for;
use martlet_tests_kernel::tamper;
use rand::{RngExt as _, seq::IndexedRandom as _};

use crate::{
    deaths::nothing_passed,
    files::nothing_was_interrupted,
    trial::{Struck, Trial, Victim, now},
};

const PATIENCE: Duration = Duration::from_secs(20);
const HOLD: Duration = Duration::from_millis(150);

/// What a pin is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Maps,
    Guard,
    /// All links but the guard's.
    Steering,
}

impl Kind {
    fn of(pin: &Path) -> Kind {
        match pin.starts_with("maps") {
            true => Kind::Maps,
            false if pin.to_string_lossy().starts_with("links/martlet_guard_") => Kind::Guard,
            false => Kind::Steering,
        }
    }
}

pub fn removed(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    if trial.rng.random_ratio(1, 3) { under_none(trial, victim) } else { under_one(trial, victim) }
}

/// All, or some: the agent holds what was pinned, so nothing is detached and nobody sees anything.
fn under_one(trial: &mut Trial, victim: Victim) -> Result<Struck> {
    let version = tamper::version(&trial.agent(victim).node().pin())?;
    let before = pins(&version)?;
    let began = now();
    if trial.rng.random_ratio(1, 2) {
        println!("all of {victim:?}");
        fs::remove_dir_all(&version).context("removing all pins")?;
    } else {
        let all: Vec<_> = before.iter().collect();
        let some = trial.rng.random_range(1..all.len());
        let some: Vec<_> = all.sample(&mut trial.rng, some).collect();
        println!("some of {victim:?}: {some:?}");
        some.into_iter().try_for_each(fs::remove_file).context("removing a pin")?;
    }
    wait_for("all to be pinned again", PATIENCE, || {
        Ok(pins(&version).is_ok_and(|now| now == before).then_some(()))
    })?;
    trial.measure("pinned again after", Duration::from_micros(now() - began));
    trial.wait_for_service(now())?;
    nothing_was_interrupted(trial)?;
    Ok(Struck { ended: began, spared_near: true })
}

/// The guard is detached then, and what steers still refuses; or nothing steers any more, and the
/// guard refuses; or the next agent finds no maps. Without an agent nobody brings back what was
/// pinned.
fn under_none(trial: &mut Trial, victim: Victim) -> Result<Struck> {
    let version = tamper::version(&trial.agent(victim).node().pin())?;
    trial.agent(victim).kill()?;
    let dead = now();
    let kind =
        *[Kind::Maps, Kind::Guard, Kind::Steering].choose(&mut trial.rng).context("a kind")?;
    println!("{kind:?} of {victim:?}, which is dead");
    let mut removed = pins(&version)?;
    removed.retain(|pin| pin.strip_prefix(&version).is_ok_and(|pin| Kind::of(pin) == kind));
    ensure!(!removed.is_empty(), "there is none of {kind:?}");
    removed.iter().try_for_each(fs::remove_file).context("removing a pin")?;
    trial.hold(HOLD)?;
    nothing_passed(trial, victim, dead, now())?;
    trial.agent(victim).launch()?;
    let launched = now();
    trial.agent(victim).wait_until_ready()?;
    ensure!(removed.iter().all(|pin| pin.exists()), "not all is pinned again");
    Ok(Struck { ended: launched, spared_near: victim == Victim::Callee })
}

/// Of maps and links.
fn pins(version: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for part in ["maps", "links"] {
        for entry in fs::read_dir(version.join(part)).context("listing pins")? {
            all.insert(entry?.path());
        }
    }
    Ok(all)
}
