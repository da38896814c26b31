//! What is built once and used by all clusters of this machine, whichever clone makes them.
//!
//! Everything here can be deleted while no cluster is up; it is made again.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

/// Outside of `target`: it takes minutes to make, and is the same for every clone.
pub fn directory() -> Result<PathBuf> {
    let of = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = of("MARTLET_CACHE")
        .or_else(|| Some(of("XDG_CACHE_HOME")?.join("martlet")))
        .or_else(|| Some(of("HOME")?.join(".cache/martlet")));
    cache.context("set MARTLET_CACHE (or HOME) to say where to keep what is built once")
}

/// A directory that `make` fills: complete, or not there. Its name has the hash of the recipe, so
/// that what another recipe has made is never taken for it.
pub fn once(
    name: &str,
    recipe: &[&str],
    make: impl FnOnce(&Workshop<'_>) -> Result<()>,
) -> Result<PathBuf> {
    let cache = directory()?;
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let made = cache.join(format!("{name}-{}", &crate::image::sha256(recipe.concat())[..16]));
    if made.exists() {
        return Ok(made);
    }
    let lock = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock).with_context(|| lock.display().to_string())?;
    // Somebody else may be making it just now.
    lock.lock().context("waiting until nobody else makes it")?;
    if made.exists() {
        return Ok(made);
    }
    let directory = cache.join(format!("{name}.partial"));
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    fs::create_dir_all(&directory)?;
    let log = cache.join(format!("{name}.log"));
    let _ = fs::remove_file(&log);
    println!("{name}: made once, in {}; {} tells more", made.display(), log.display());
    let workshop = Workshop { name, directory: &directory, log: &log, began: Instant::now() };
    make(&workshop)?;
    fs::rename(&directory, &made).context("moving what was made to its place")?;
    workshop.say("done");
    Ok(made)
}

/// Where something is made, step by step.
pub struct Workshop<'a> {
    name: &'a str,
    pub directory: &'a Path,
    log: &'a Path,
    began: Instant,
}

impl Workshop<'_> {
    pub fn say(&self, what: &str) {
        println!("{} [{:3} s]: {what}", self.name, self.began.elapsed().as_secs());
    }

    /// Runs a program until it ends or its time is over. What it says goes into the log.
    pub fn run(&self, seconds: u32, command: &Command) -> Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut log = File::options().create(true).append(true).open(self.log)?;
        writeln!(log, "+ {command:?}").context("writing the log")?;
        let mut timed = Command::new("timeout");
        timed.args(["--foreground", "--kill-after", "5", &seconds.to_string()]);
        timed.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => timed.env(name, value),
                None => timed.env_remove(name),
            };
        }
        timed.current_dir(command.get_current_dir().unwrap_or(self.directory));
        let status = timed
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("the log for output")?)
            .stderr(log)
            .status()
            .with_context(|| format!("starting {name}"))?;
        if status.code() == Some(124) {
            bail!("{name} did not end within {seconds} s; see {}", self.log.display());
        }
        ensure!(status.success(), "{name} failed ({status}); see {}", self.log.display());
        Ok(())
    }
}
