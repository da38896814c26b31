//! Log lines: `tracing` to standard error, as text or JSON, filtered by `RUST_LOG`.
//!
//! Standard output is left to the access log. What libraries say through the `log` crate, such as
//! the eBPF programs' own log, comes out here too.

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt,
};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Error)]
pub enum LogsError {
    #[error("RUST_LOG is not a filter such as \"info,martlet_dataplane=debug\"")]
    Filter(#[source] Box<tracing_subscriber::filter::ParseError>),
    #[error("logging was already set up")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Starts logging, for the whole process, once.
pub fn init(format: Format) -> Result<(), LogsError> {
    let filter = filter(std::env::var("RUST_LOG").ok().as_deref())?;
    let colors = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::registry()
        .with(layer(format, colors, io::stderr).with_filter(filter))
        .try_init()
        .map_err(LogsError::Twice)
}

fn filter(text: Option<&str>) -> Result<EnvFilter, LogsError> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or("info");
    EnvFilter::builder().parse(text).map_err(|error| LogsError::Filter(Box::new(error)))
}

fn layer<W>(format: Format, colors: bool, to: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(to).with_ansi(colors);
    match format {
        Format::Text => layer.boxed(),
        Format::Json => layer.json().flatten_event(true).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(format: Format, text: Option<&str>) -> String {
        let captured = Captured::default();
        let to = captured.clone();
        let layer = layer(format, false, move || to.clone()).with_filter(filter(text).unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(workload = "shop/web-0", "steered");
            tracing::debug!("accepted");
        });
        String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn text_lines_carry_level_and_fields() {
        let text = lines(Format::Text, None);
        assert!(text.contains(" INFO "), "{text}");
        assert!(text.contains("steered workload=\"shop/web-0\""), "{text}");
    }

    #[test]
    fn json_lines_are_one_object_each() {
        let json: serde_json::Value =
            serde_json::from_str(&lines(Format::Json, None)).expect("one object");
        assert_eq!(json["level"], "INFO");
        assert_eq!(json["message"], "steered");
        assert_eq!(json["workload"], "shop/web-0");
    }

    #[test]
    fn the_default_is_info_and_the_filter_decides() {
        assert!(!lines(Format::Text, Some("")).contains("accepted"));
        assert!(lines(Format::Text, Some("debug")).contains("accepted"));
        assert!(!lines(Format::Text, Some("warn")).contains("steered"));
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        let refused = filter(Some("martlet=loud")).unwrap_err();
        assert!(refused.to_string().starts_with("RUST_LOG is not a filter"));
    }

    #[test]
    fn logging_starts_once_and_takes_what_the_log_crate_says() {
        init(Format::Text).unwrap();
        assert!(tracing::enabled!(tracing::Level::INFO));
        assert!(matches!(init(Format::Json), Err(LogsError::Twice(_))));
    }
}
