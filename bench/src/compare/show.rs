//! What a run is shown as: a table in the terminal and in a document, and a plot.

mod document;
mod plot;
mod table;

pub use document::replace_block;
pub use plot::svg;
pub use table::{markdown, terminal};

/// Three digits count; thousands are set apart.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let digits = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    let scale = 10_f64.powi(2 - digits);
    let rounded = (value * scale).round() / scale;
    let decimals = usize::try_from(2 - digits).unwrap_or(0).min(4);
    let text = format!("{rounded:.decimals$}");
    if rounded.abs() < 1000.0 { text } else { with_commas(&text) }
}

fn with_commas(digits: &str) -> String {
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_shown() {
        for (value, text) in [
            (0.33351, "0.334"),
            (0.9, "0.900"),
            (6.0249, "6.02"),
            (36.04, "36.0"),
            (123.4, "123"),
            (999.6, "1,000"),
            (14_049.0, "14,000"),
            (1_234_567.0, "1,230,000"),
            (0.0, "0.00"),
            (0.000_123, "0.0001"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
