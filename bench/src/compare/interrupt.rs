//! Ctrl-C and its kin: everything is removed before this process ends.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result};
use martlet_lab::Lab;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// Ended by a signal, as shells say it: 128 and the signal's number.
const STATUS: i32 = 128 + 2;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on, signals that end us remove the lab first.
pub fn remove_when_interrupted(lab: &Lab) -> Result<()> {
    let close = lab.closer();
    let runtime =
        Builder::new_current_thread().enable_all().build().context("waiting for signals")?;
    let mut signals = {
        let _inside = runtime.enter();
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        (interrupt?, terminate?, hangup?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = signals.0.recv() => {}
                _ = signals.1.recv() => {}
                _ = signals.2.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::Release);
        if let Err(error) = close() {
            eprintln!("the lab was not removed: {error:#}");
        }
        std::process::exit(STATUS);
    });
    Ok(())
}

/// To be asked wherever something failed: if because the lab is being removed, nobody wants to know.
pub fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::Acquire) {
        thread::park();
    }
}
