//! What a text's color means. Colors are taken off again where nobody sees them.

use owo_colors::OwoColorize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
    /// Of less interest.
    Faint,
}

pub fn paint(text: &str, tone: Tone) -> String {
    match tone {
        Tone::Plain => text.to_owned(),
        Tone::Good => text.green().to_string(),
        Tone::Warning => text.yellow().to_string(),
        Tone::Bad => text.red().to_string(),
        Tone::Faint => text.bright_black().to_string(),
    }
}
