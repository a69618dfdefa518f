use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value as AnyValue,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::{Instrument, field::Empty, instrument::WithSubscriber};

use super::*;

/// A receiver of OTLP by http/protobuf.
async fn receiver() -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let (sender, received) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let taken = move |headers: HeaderMap, body: Bytes| async move {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        sender.send(ExportTraceServiceRequest::decode(body).unwrap()).unwrap();
    };
    tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/v1/traces", post(taken))).await
    });
    (address, received)
}

fn exporter_to(address: &str) -> SpanExporter {
    let _ = rustls::crypto::ring::default_provider().install_default();
    SpanExporter::builder().with_http().with_endpoint(address).build().unwrap()
}

/// What a subscriber writes.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

async fn reconcile() {
    let span = tracing::info_span!(
        "reconcile",
        build = "app",
        namespace = "team",
        generation = 3,
        decision = Empty,
        otel.status_code = Empty
    );
    async {
        let write = tracing::info_span!(
            "write",
            otel.name = "create pod",
            otel.kind = "client",
            object = "app-g3-a1"
        );
        write.in_scope(|| tracing::info!("the pod was made"));
        tracing::info_span!(target: "hyper_util", "connect")
            .in_scope(|| tracing::debug!("not told"));
        tracing::Span::current()
            .record("decision", "begin create_pod")
            .record("otel.status_code", "ERROR");
    }
    .instrument(span)
    .await;
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let mut found = span.attributes.iter().filter(|attribute| attribute.key == key);
    let value = found.next()?.value.clone()?.value?;
    assert!(found.next().is_none(), "{key} is told twice");
    Some(match value {
        AnyValue::StringValue(text) => text,
        AnyValue::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

#[tokio::test]
async fn a_reconcile_is_sent_as_a_trace_with_its_writes_below_it() {
    let (address, mut received) = receiver().await;
    let traces = provider(exporter_to(&address));
    // A log that shows nothing takes nothing from the traces.
    reconcile().with_subscriber(subscriber(io::sink, EnvFilter::new("off"), Some(&traces))).await;
    tokio::task::spawn_blocking(move || Telemetry { traces: Some(traces) }.stop()).await.unwrap();

    let request = received.recv().await.unwrap();
    let [resource] = request.resource_spans.as_slice() else { panic!("{request:?}") };
    let service = resource
        .resource
        .as_ref()
        .unwrap()
        .attributes
        .iter()
        .find(|attribute| attribute.key == "service.name")
        .unwrap();
    assert_eq!(
        service.value.as_ref().unwrap().value,
        Some(AnyValue::StringValue("ocibuild-controller".to_owned()))
    );
    let spans: Vec<_> = resource.scope_spans.iter().flat_map(|scope| &scope.spans).collect();
    let [write, reconcile] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((reconcile.name.as_str(), write.name.as_str()), ("reconcile", "create pod"));
    assert!(reconcile.parent_span_id.is_empty());
    assert_eq!((&write.parent_span_id, &write.trace_id), (&reconcile.span_id, &reconcile.trace_id));
    assert_eq!(write.kind, i32::from(SpanKind::Client));
    for (key, value) in [
        ("build", "app"),
        ("namespace", "team"),
        ("generation", "3"),
        ("decision", "begin create_pod"),
    ] {
        assert_eq!(attribute(reconcile, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(attribute(write, "object").as_deref(), Some("app-g3-a1"));
    assert_eq!(reconcile.status.as_ref().unwrap().code, i32::from(StatusCode::Error));
}

#[tokio::test]
async fn a_line_of_the_log_has_the_fields_of_the_spans_around_it() {
    let written = Written::default();
    let into = written.clone();
    reconcile()
        .with_subscriber(subscriber(move || into.clone(), EnvFilter::new("info"), None))
        .await;
    let lines = written.lines();
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(line["message"], "the pod was made");
    let spans = &line["spans"];
    assert_eq!(
        (&spans[0]["build"], &spans[0]["namespace"], &spans[0]["generation"]),
        (&"app".into(), &"team".into(), &3.into())
    );
    assert_eq!(spans[1]["object"], "app-g3-a1");
}

#[test]
fn the_manifests_of_all_tenants_are_logged_only_for_who_asks_for_it() {
    for (wanted, expected) in [
        ("", "info,kube_client::client=error"),
        ("debug", "debug,kube_client::client=error"),
        ("info,kube_client=debug", "info,kube_client=debug"),
    ] {
        assert_eq!(filter(wanted), expected);
        EnvFilter::try_new(filter(wanted)).unwrap();
    }
}
