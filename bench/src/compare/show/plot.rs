//! The plot: how much better than HAProxy, and how the long runs went on.

mod ratios;
mod runs;

use std::fmt::{Display, Write as _};

use crate::{outcome::Outcome, subject::Subject};

const WIDTH: f64 = 760.0;
const GAP: f64 = 24.0;

/// Colors that stand out on white and on black alike.
const TEXT: &str = "#808080";

/// Shapes below one another.
struct Drawing {
    shapes: String,
    height: f64,
}

pub fn svg(outcome: &Outcome) -> String {
    let mut drawing = Drawing { shapes: String::new(), height: GAP };
    ratios::draw(&mut drawing, &outcome.filled(), &outcome.settings);
    runs::draw(&mut drawing, outcome);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n{shapes}</svg>\n",
        height = drawing.height,
        shapes = drawing.shapes,
    )
}

fn color(subject: Subject) -> &'static str {
    match subject {
        Subject::Direct | Subject::Outside => "#808080",
        Subject::Haproxy | Subject::Earlier => "#c8783c",
        Subject::Martlet => "#3c82c8",
    }
}

impl Drawing {
    fn text(&mut self, (x, y): (f64, f64), anchor: &str, color: &str, text: impl Display) {
        let text = text.to_string().replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.shapes,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{color}\">{text}</text>"
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str, width: f64) {
        self.path(&[from, to], color, width);
    }

    fn path(&mut self, points: &[(f64, f64)], color: &str, width: f64) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.shapes,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\"/>",
            points.join(" ")
        );
    }

    fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), color: &str) {
        let _ = writeln!(
            self.shapes,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{color}\"/>"
        );
    }
}

#[cfg(test)]
mod tests {
    use martlet_bench::Report;

    use super::*;
    use crate::outcome::tests::{bulk, sample};

    fn with_a_long_run() -> Outcome {
        let mut outcome = bulk();
        let mut long = sample("long-client", Subject::Martlet, 0, &[]);
        long.report = Some(Report { per_second: vec![5000, 0, 4000], ..Report::default() });
        outcome.samples.push(long);
        outcome
    }

    #[test]
    fn every_ratio_with_a_bar_is_drawn() {
        let svg = svg(&bulk());
        assert!(svg.contains("bulk, 1 connection: Gbit/s"), "{svg}");
        assert!(svg.contains("2.50×"), "{svg}");
        assert!(!svg.contains("client closes first"), "{svg}");
    }

    #[test]
    fn a_long_run_is_a_line_through_its_seconds() {
        let svg = svg(&with_a_long_run());
        assert!(svg.contains("client closes first"), "{svg}");
        let line = svg.lines().find(|line| line.contains("#3c82c8\" stroke-width=\"2\"")).unwrap();
        assert_eq!(line.matches(',').count(), 3, "{line}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn signs_of_the_language_are_escaped() {
        let mut drawing = Drawing { shapes: String::new(), height: 0.0 };
        drawing.text((0.0, 0.0), "start", TEXT, "a < b & c");
        assert!(drawing.shapes.contains("a &lt; b &amp; c"));
    }
}
