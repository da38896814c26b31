//! Runs the fuzz targets for a while, guided by coverage, with the stable toolchain.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::command::{cargo, run};

/// What libFuzzer needs to see which branches an input takes. cargo-fuzz sets the same, and
/// sanitizers on top, which only nightly has; without `unsafe` they would find nothing here.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions=on";

const TARGETS: &[&str] = &["frame", "spiffe_id", "certificate"];

pub fn all(seconds: u32) -> Result<()> {
    // Not for build scripts: with a target named, RUSTFLAGS are for that target only.
    let host = "x86_64-unknown-linux-gnu".replace("x86_64", std::env::consts::ARCH);
    let mut build = cargo("build");
    build.args(["--release", "--manifest-path", "fuzz/Cargo.toml", "--target", &host]);
    run(build.env("RUSTFLAGS", COVERAGE))?;
    for target in TARGETS {
        let corpus = Path::new("fuzz/corpus").join(target);
        fs::create_dir_all(&corpus).context("making the corpus")?;
        let mut fuzz = std::process::Command::new(format!("fuzz/target/{host}/release/{target}"));
        fuzz.arg(corpus).arg(format!("-max_total_time={seconds}"));
        run(fuzz.arg("-print_final_stats=1"))?;
    }
    Ok(())
}
