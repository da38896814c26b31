//! What a person sees meanwhile: one line for each step, with the time it took. Colors on a terminal only.

use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::Instant,
};

use anyhow::Result;

use crate::curtain::Curtain;

/// Everything fits a terminal of this width.
pub const WIDTH: usize = 80;

#[derive(Clone, Copy)]
pub enum Tone {
    Strong,
    Faint,
    Good,
    Bad,
}

pub struct Terminal {
    curtain: Curtain,
    to_stderr: bool,
    is_terminal: bool,
    has_colors: bool,
}

impl Terminal {
    /// Standard output is left to JSON if there is any.
    pub fn new(has_json: bool, curtain: &Curtain) -> Terminal {
        let is_terminal =
            if has_json { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        // https://no-color.org: present and not empty.
        let is_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|term| term == "dumb");
        Terminal {
            curtain: curtain.clone(),
            to_stderr: has_json,
            is_terminal,
            has_colors: is_terminal && !is_plain,
        }
    }

    pub fn line(&self, text: impl Display) {
        self.write(&format!("{text}\n"));
    }

    pub fn title(&self, text: &str) {
        self.line(format_args!("\n  {}\n", self.paint(Tone::Strong, text)));
    }

    /// Does one step; says what it is while it lasts, and how long it took.
    pub fn step<T>(&mut self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_terminal {
            self.write(&format!("  {} {what} ...", self.paint(Tone::Faint, "·")));
        }
        let begun = Instant::now();
        let result = work();
        let taken = format!("{:.1} s", begun.elapsed().as_secs_f64());
        let mark = match &result {
            Ok(_) => self.paint(Tone::Good, "✓"),
            Err(_) => self.paint(Tone::Bad, "✗"),
        };
        let again = if self.is_terminal { "\r\x1b[2K" } else { "" };
        let room = WIDTH.saturating_sub(4 + what.chars().count());
        let taken = self.paint(Tone::Faint, &format!("{taken:>room$}"));
        self.line(format_args!("{again}  {mark} {what}{taken}"));
        result
    }

    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.has_colors {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Strong => "1",
            Tone::Faint => "2",
            Tone::Good => "32",
            Tone::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// After a signal the story fails everywhere, which means nothing. If nobody reads any more,
    /// nothing is left to say, but everything is left to clean up.
    fn write(&self, text: &str) {
        if self.curtain.is_falling() {
            return;
        }
        let _ = if self.to_stderr {
            io::stderr().write_all(text.as_bytes())
        } else {
            let mut stdout = io::stdout().lock();
            stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        };
    }
}
