//! Ends the show on a signal at any moment, and leaves nothing behind.
//!
//! Signals are blocked in all threads but one, which waits for them. It removes the lab, whatever
//! the story is doing, and then ends the process; the story's own errors are of no interest then.

use std::{
    process,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, bail};
use martlet_lab::Lab;
use nix::sys::signal::{SigSet, Signal};

type Closer = Box<dyn Fn() -> Result<()> + Send>;

/// What there is to be removed, and whether that has begun.
#[derive(Default)]
struct State {
    close: Option<Closer>,
    is_falling: bool,
}

#[derive(Clone)]
pub struct Curtain {
    /// Held while a lab is being made, so that a signal then waits until it can be removed.
    state: Arc<Mutex<State>>,
}

impl Curtain {
    /// To be called before there are other threads: they inherit what is blocked.
    pub fn hang() -> Result<Curtain> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        signals.thread_block().context("blocking signals")?;
        let curtain = Curtain { state: Arc::default() };
        let falling = curtain.clone();
        thread::spawn(move || {
            if let Ok(signal) = signals.wait() {
                falling.fall(signal);
            }
        });
        Ok(curtain)
    }

    pub fn raise(&self) -> Result<Lab> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_falling {
            bail!("interrupted");
        }
        let lab = Lab::new()?;
        state.close = Some(Box::new(lab.closer()));
        Ok(lab)
    }

    fn fall(&self, signal: Signal) -> ! {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_falling = true;
        let close = state.close.take();
        drop(state);
        eprintln!("\n{signal}: removing what was made");
        if let Some(Err(error)) = close.map(|close| close()) {
            eprintln!("not everything was removed: {error:#}");
        }
        // As a shell tells it: 130 for Ctrl-C.
        process::exit(128 + signal as i32)
    }

    pub fn is_falling(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_falling
    }

    /// Returns only if no signal has come.
    pub fn wait_if_falling(&self) {
        if self.is_falling() {
            self.wait_for_signal();
        }
    }

    /// The other thread ends the process.
    pub fn wait_for_signal(&self) -> ! {
        loop {
            thread::park();
        }
    }
}
