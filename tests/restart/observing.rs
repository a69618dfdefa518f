//! What of a build is seen by those who watch the operator: traces, metrics, events.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use axum::{Router, body::Bytes, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value, trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{
    build, built_once,
    cluster::Namespace,
    operator::{Deployed, NAMESPACE},
};

/// A receiver of OTLP by http/protobuf, as long as the runtime lives.
fn receiver(runtime: &Runtime) -> (String, Receiver<Vec<Span>>) {
    let (sender, received) = channel();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let taken = move |body: Bytes| async move {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        // The test may have heard enough.
        let _ = sender.send(scopes.flat_map(|scope| scope.spans).collect());
    };
    runtime.spawn(async move {
        axum::serve(listener, Router::new().route("/v1/traces", post(taken))).await
    });
    (address, received)
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key)?
        .value
        .as_ref()?
        .value
        .as_ref()?
    {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

#[test]
fn each_reconcile_of_a_build_is_a_trace_with_what_was_decided_and_written() {
    let deployed = Deployed::scaled_to_zero();
    let namespace = Namespace::new("traced");
    let runtime = Runtime::new().unwrap();
    let (address, received) = receiver(&runtime);
    let _operator =
        deployed.start_with("traced", NAMESPACE, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &address)]);
    namespace.apply(&build("traced", 0));
    built_once(&namespace, "traced");

    let mut spans: Vec<Span> = Vec::new();
    let finished = |spans: &[Span]| {
        let of_build = |span: &&Span| {
            text(span, "build") == Some("traced")
                && text(span, "namespace") == Some(&namespace.name)
        };
        let mut reconciles = spans.iter().filter(of_build);
        reconciles
            .any(|span| text(span, "decision").is_some_and(|decision| decision.contains("finish")))
    };
    while !finished(&spans) {
        match received.recv_timeout(Duration::from_secs(30)) {
            Ok(more) => spans.extend(more),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                panic!("no trace of the build's end: {spans:#?}")
            }
        }
    }
    let begun = spans
        .iter()
        .find(|span| {
            text(span, "build") == Some("traced")
                && text(span, "decision") == Some("begin create_pod")
        })
        .unwrap_or_else(|| panic!("no trace of the build's begin: {spans:#?}"));
    assert_eq!(begun.name, "reconcile");
    let mut writes: Vec<_> =
        spans.iter().filter(|span| span.parent_span_id == begun.span_id).collect();
    writes.sort_by_key(|span| span.start_time_unix_nano);
    let writes: Vec<_> = writes
        .iter()
        .map(|span| (span.name.as_str(), text(span, "object").unwrap_or_default()))
        .collect();
    let status = ("patch status", "traced");
    // The attempt is written down before its pod is made, and the pod once it is.
    let expected =
        [status, ("create claim", "traced-output"), ("create pod", "traced-g1-a1"), status];
    assert_eq!(writes, expected);
}

#[test]
fn a_build_is_counted_and_each_of_its_transitions_is_one_event() {
    let deployed = Deployed::scaled_to_zero();
    let namespace = Namespace::new("counted");
    let operator = deployed.start("counted");
    namespace.apply(&build("counted", 1));
    built_once(&namespace, "counted");

    // Events are published beside the status, not before it.
    namespace.event("counted", "Succeeded");
    let reasons = "jsonpath={range .items[*]}{.reason}={.series.count}{\"\\n\"}{end}";
    let of_build = "involvedObject.kind=OciBuild,involvedObject.name=counted";
    let events =
        namespace.kubectl(&["get", "events", "--field-selector", of_build, "-o", reasons]).ok();
    let mut events: Vec<_> = events.lines().collect();
    events.sort_unstable();
    assert_eq!(events, ["Begun=", "Building=", "Succeeded="]);

    let metrics = operator.metrics();
    let value = |series: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no series {series} in\n{metrics}")).parse().unwrap()
    };
    for series in [
        r#"ocibuild_builds_total{result="succeeded",reason=""}"#,
        r#"ocibuild_build_duration_seconds_sum{result="succeeded"}"#,
        r#"ocibuild_phase_duration_seconds_sum{phase="pod_start"}"#,
        r#"ocibuild_phase_duration_seconds_sum{phase="build"}"#,
        r#"ocibuild_phase_duration_seconds_sum{phase="export"}"#,
        "ocibuild_reconcile_duration_seconds_sum",
        r#"ocibuild_api_writes_total{what="pod"}"#,
    ] {
        assert!(value(series) > 0.0, "{series}");
    }
    assert!(
        value(r#"ocibuild_phase_duration_seconds_sum{phase="build"}"#) >= 1.0,
        "the step sleeps for a second"
    );
}
