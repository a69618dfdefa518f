use std::time::Duration;

use serde_json::json;

use super::{Metrics, PLATFORM_FAILURES};
use crate::{
    api::{FailureReason, OciBuildStatus},
    controller::durations::Durations,
};

/// Each method called once.
fn observed() -> Metrics {
    let metrics = Metrics::default();
    let status =
        |status: serde_json::Value| -> OciBuildStatus { serde_json::from_value(status).unwrap() };
    metrics.build_ended(&status(json!({
        "phase": "Succeeded",
        "startTime": "2026-01-01T00:00:00.000000Z",
        "completionTime": "2026-01-01T00:00:12.500000Z",
    })));
    metrics.build_ended(&status(json!({
        "phase": "Failed",
        "failure": { "reason": "StepFailed", "message": "a message of the user", "hint": "" },
    })));
    metrics.time_spent(&Durations {
        pod_start: Some(Duration::from_millis(1740)),
        source: Some(Duration::from_millis(50)),
        build: Some(Duration::from_mins(40)),
        export: Some(Duration::from_secs(2)),
        push: Some(Duration::from_secs(3)),
        daemon: None,
    });
    metrics.left_queue(Duration::from_secs(7));
    metrics.attempt_lost(FailureReason::Evicted);
    metrics.queue(3, 40);
    metrics.reconcile();
    metrics.reconciled(Duration::from_millis(4));
    metrics.reconcile_error("api");
    metrics.write("pod");
    metrics.lead();
    metrics
}

/// The lines of what Prometheus reads that are no bucket; those have a test of their own.
fn lines(text: &str, keep: impl Fn(&str) -> bool) -> String {
    let mut lines: Vec<_> = text.lines().filter(|line| keep(line)).collect();
    // Within a family the order is that of a hash map; comments stay before what they speak of.
    lines.sort_by_key(|line| {
        let name =
            line.trim_start_matches("# ").trim_start_matches("HELP ").trim_start_matches("TYPE ");
        let name = name.trim_start_matches("UNIT ").split([' ', '{']).next().unwrap_or_default();
        let name = ["_total", "_sum", "_count"]
            .iter()
            .fold(name, |name, suffix| name.strip_suffix(suffix).unwrap_or(name));
        (name.to_owned(), !line.starts_with('#'))
    });
    lines.join("\n")
}

#[test]
fn names_types_and_units_are_those_of_openmetrics() {
    insta::assert_snapshot!(lines(&observed().text(), |line| line.starts_with('#')));
}

#[test]
fn what_was_observed_is_what_prometheus_reads() {
    let text = observed().text();
    for line in [
        r#"ocibuild_builds_total{result="succeeded",reason=""} 1"#,
        r#"ocibuild_builds_total{result="failed",reason="StepFailed"} 1"#,
        r#"ocibuild_build_duration_seconds_sum{result="succeeded"} 12.5"#,
        r#"ocibuild_build_duration_seconds_count{result="succeeded"} 1"#,
        r#"ocibuild_build_duration_seconds_bucket{le="10.0",result="succeeded"} 0"#,
        r#"ocibuild_build_duration_seconds_bucket{le="30.0",result="succeeded"} 1"#,
        r#"ocibuild_phase_duration_seconds_sum{phase="queued"} 7.0"#,
        r#"ocibuild_phase_duration_seconds_sum{phase="pod_start"} 1.74"#,
        r#"ocibuild_phase_duration_seconds_sum{phase="source"} 0.05"#,
        r#"ocibuild_phase_duration_seconds_sum{phase="build"} 2400.0"#,
        r#"ocibuild_phase_duration_seconds_sum{phase="export"} 2.0"#,
        r#"ocibuild_phase_duration_seconds_sum{phase="push"} 3.0"#,
        r#"ocibuild_attempts_lost_total{reason="Evicted"} 1"#,
        "ocibuild_builds_running 3",
        "ocibuild_builds_queued 40",
        r#"ocibuild_builds_pending{reason="Pending"} 0"#,
        "ocibuild_longest_pending_seconds 0.0",
        "ocibuild_reconciles_total 1",
        "ocibuild_reconcile_duration_seconds_sum 0.004",
        r#"ocibuild_reconcile_duration_seconds_bucket{le="0.005"} 1"#,
        r#"ocibuild_reconcile_errors_total{kind="api"} 1"#,
        r#"ocibuild_api_writes_total{what="pod"} 1"#,
        "ocibuild_leader 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
    }
    assert!(
        !text.contains(r#"phase="daemon""#),
        "what did not happen is not counted as nothing:\n{text}"
    );
}

/// An alert on an increase would miss a series that begins with one.
#[test]
fn failures_of_the_platform_are_counted_from_zero() {
    let text = Metrics::default().text();
    for reason in PLATFORM_FAILURES {
        let line = format!("ocibuild_builds_total{{result=\"failed\",reason=\"{reason}\"}} 0");
        assert!(text.contains(&line), "no line {line} in\n{text}");
    }
}

/// 10,000 builds make as many series as one does.
#[test]
fn the_number_of_series_does_not_grow_with_the_builds() {
    let metrics = observed();
    let series =
        |metrics: &Metrics| metrics.text().lines().filter(|line| !line.starts_with('#')).count();
    let before = series(&metrics);
    for build in 0..1000 {
        let failure = json!({ "reason": "StepFailed", "message": format!("message {build}"), "hint": "", "step": format!("{build}") });
        metrics.build_ended(
            &serde_json::from_value(json!({ "phase": "Failed", "failure": failure })).unwrap(),
        );
        metrics.left_queue(Duration::from_secs(build));
    }
    assert_eq!(series(&metrics), before);
    assert!(before < 200, "{before} series");
}
