//! Logs and traces of the operator. Logs are JSON lines that carry the fields of the spans around them; traces are sent by OTLP
//! (http/protobuf) where the variables of the OpenTelemetry specification name a receiver.

use std::{env, io, time::Duration};

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::{Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, filter::Targets, fmt::MakeWriter, layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Either of them turns traces on; their values are read by the exporter itself.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
/// How long the end of the process waits for the last spans to be sent.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where spans go, as long as it lives.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// What is logged, unless somebody asks for kube's own words: of an answer that it cannot read it logs the whole, and so the
/// manifests of all tenants.
fn filter(wanted: &str) -> String {
    match wanted {
        "" => "info,kube_client::client=error".to_owned(),
        wanted if wanted.contains("kube_client") => wanted.to_owned(),
        wanted => format!("{wanted},kube_client::client=error"),
    }
}

impl Telemetry {
    /// Writes logs to stdout, chosen by `RUST_LOG`, and sends traces if an endpoint is named.
    pub fn start() -> anyhow::Result<Self> {
        let is_wanted = ENDPOINTS
            .iter()
            .any(|name| env::var_os(name).is_some_and(|endpoint| !endpoint.is_empty()));
        let traces = is_wanted.then(exporter).transpose()?.map(provider);
        let wanted = env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
        let filter = EnvFilter::try_new(filter(&wanted)).unwrap_or_else(|_| filter("").into());
        subscriber(io::stdout, filter, traces.as_ref()).init();
        Ok(Self { traces })
    }

    /// Sends what is left.
    pub fn stop(self) {
        if let Some(Err(error)) = self.traces.map(|traces| traces.shutdown_with_timeout(FAREWELL)) {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

fn exporter() -> anyhow::Result<SpanExporter> {
    // Its client takes the process's cryptography. An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    SpanExporter::builder().with_http().build().with_context(|| {
        format!(
            "traces cannot be sent to where {} says; correct it (http://host:4318) or unset it",
            ENDPOINTS.join(" or ")
        )
    })
}

fn provider(exporter: SpanExporter) -> SdkTracerProvider {
    let service =
        env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| "ocibuild-controller".to_owned());
    SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name(service).build())
        .with_batch_exporter(exporter)
        .build()
}

fn subscriber<W>(
    writer: W,
    filter: EnvFilter,
    traces: Option<&SdkTracerProvider>,
) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let logs = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_writer(writer)
        .with_filter(filter);
    let traces = traces.map(|traces| {
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer(env!("CARGO_PKG_NAME")))
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            // The operator's own spans, whatever the log shows. Those of the exporter's client would trace themselves.
            .with_filter(Targets::new().with_target(env!("CARGO_PKG_NAME"), Level::INFO))
    });
    tracing_subscriber::registry().with(logs).with(traces)
}

#[cfg(test)]
mod tests;
