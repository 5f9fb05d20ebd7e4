//! Owns what the program says about itself: logs to standard error, as text or JSON, and spans over OTLP when an endpoint is
//! configured. Called once by the binary, before anything else runs.
//!
//! Spans go out over gRPC only: the HTTP exporter with an asynchronous client panics in the exporter's own thread and loses
//! every span without a word. Spans cover batches and checkpoints, never single messages.

use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Longest wait for the collector, at export and at shutdown.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What to say, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TelemetryConfig {
    pub format: LogFormat,
    /// Whether text is coloured: only on a terminal.
    pub colour: bool,
    /// `info`, or directives such as `info,agent=debug`.
    pub level: String,
    /// `http://host:4317`; `None`: no spans leave the process.
    pub otlp_endpoint: Option<String>,
    /// `service.name` of the spans.
    pub service: &'static str,
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not one.
    #[error("log.level: `{level}` is no level or list of directives: {reason}")]
    Level { level: String, reason: String },
    /// The exporter refuses the endpoint.
    #[error("otlp.endpoint: {0}")]
    Endpoint(String),
    /// Somebody else has set a subscriber.
    #[error("telemetry was set up twice")]
    Twice,
}

/// Keeps the exporter; [`Telemetry::shutdown`] sends what is still waiting.
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Checks a level without setting anything.
pub fn check_level(level: &str) -> Result<EnvFilter, TelemetryError> {
    let wrong = |reason: String| TelemetryError::Level { level: level.to_owned(), reason };
    if level.trim().is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    // A single unknown word parses as the name of a module, and would silence everything.
    let words = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in level.split(',').map(str::trim) {
        if !directive.contains('=') && !words.contains(&directive.to_ascii_lowercase().as_str()) {
            return Err(wrong(format!("`{directive}` is none of {}", words.join(", "))));
        }
    }
    EnvFilter::try_new(level).map_err(|error| wrong(error.to_string()))
}

impl Telemetry {
    /// Sets up logging, and exporting when configured. Must be called within the tokio runtime when it is.
    pub fn start(config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
        let filter = check_level(&config.level)?;
        let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(config.colour);
        let logs = match config.format {
            LogFormat::Text => logs.boxed(),
            LogFormat::Json => logs.json().flatten_event(true).boxed(),
        };
        let provider =
            config.otlp_endpoint.as_deref().map(|url| provider(url, config.service)).transpose()?;
        let spans = provider
            .as_ref()
            .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("losstrace")));
        // One filter over both: what is not logged is not exported either, so the exporter never traces itself.
        tracing_subscriber::registry()
            .with(filter)
            .with(spans)
            .with(logs)
            .try_init()
            .map_err(|_| TelemetryError::Twice)?;
        Ok(Telemetry { provider })
    }

    /// Sends the spans that are still waiting. Blocks for at most five seconds; call it outside of the runtime's threads.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(EXPORT_TIMEOUT)
        {
            tracing::warn!(%error, "spans could not be sent at shutdown");
        }
    }
}

fn provider(endpoint: &str, service: &'static str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| TelemetryError::Endpoint(error.to_string()))?;
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(provider.clone());
    Ok(provider)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    #[test]
    fn levels_are_checked_before_anything_is_silenced() {
        for fine in ["info", "INFO", "warn,agent=debug", "off"] {
            assert!(check_level(fine).is_ok(), "{fine}");
        }
        for wrong in ["", " ", "loud", "info,", "agent=loud", "info,verbose"] {
            assert!(check_level(wrong).is_err(), "{wrong:?}");
        }
    }

    /// The collector is a socket that only reads: what matters is that a span's name leaves the process.
    #[test]
    fn spans_reach_the_collector_at_shutdown_at_the_latest() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let arrived = runtime.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            let name = b"checkpoint-of-this-test";
            while !bytes.windows(name.len()).any(|window| window == name) {
                assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "the exporter hung up");
            }
        });
        let config = TelemetryConfig {
            format: LogFormat::Json,
            colour: false,
            level: "info".into(),
            otlp_endpoint: Some(endpoint),
            service: "test",
        };
        let telemetry = runtime.block_on(async { Telemetry::start(&config) }).unwrap();
        tracing::info_span!("checkpoint-of-this-test").in_scope(|| tracing::info!("inside"));
        let shutdown = std::thread::spawn(move || telemetry.shutdown());
        let waited = async { tokio::time::timeout(Duration::from_secs(10), arrived).await };
        runtime.block_on(waited).expect("no span in time").unwrap();
        // nothing answers the exporter: it gives up after its time-out
        shutdown.join().unwrap();
        let again = runtime.block_on(async { Telemetry::start(&config) });
        assert!(matches!(again, Err(TelemetryError::Twice)));
    }
}
