//! What the chart brings for those who watch the operator: dashboard, alerts, traces. Whether these ask for what the operator
//! exposes is looked at in `tests/docs`.

use std::fs;

use serde_json::{Value, json};

use super::{CHART, of_kind, only, rendered};

#[test]
fn dashboard_and_alerts_are_there_when_they_are_asked_for() {
    let objects = rendered(&[]);
    assert_eq!(of_kind(&objects, "ConfigMap").len(), 1, "that of the configuration");
    assert_eq!(of_kind(&objects, "PrometheusRule").len(), 0);

    let objects = rendered(&[
        "metrics.dashboard.enabled=true",
        "metrics.dashboard.labels.team=a",
        "metrics.alerts.enabled=true",
        "metrics.alerts.labels.release=prometheus",
    ]);
    let of_dashboard = |map: &&&Value| map["metadata"]["name"] == "ocibuild-dashboard";
    let maps = of_kind(&objects, "ConfigMap");
    let dashboard = maps.iter().find(of_dashboard).unwrap();
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(dashboard["metadata"]["labels"]["team"], "a");
    let file = |name: &str| fs::read_to_string(format!("{CHART}/files/{name}")).unwrap();
    let shown: Value =
        serde_json::from_str(dashboard["data"]["ocibuild.json"].as_str().unwrap()).unwrap();
    assert_eq!(shown, serde_json::from_str::<Value>(&file("dashboard.json")).unwrap());
    let rule = only(&objects, "PrometheusRule");
    assert_eq!(rule["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(rule["spec"]["groups"][0]["name"], "ocibuild");
    // Helm would take `{{ $labels.reason }}` for its own.
    let rules: Value = serde_saphyr::from_str(&file("alerts.yaml")).unwrap();
    assert_eq!(rule["spec"]["groups"][0]["rules"], rules);
}

/// The variables of OpenTelemetry that the operator is given.
fn variables(objects: &[Value]) -> Value {
    let all = &only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"];
    let of_traces = |variable: &&Value| variable["name"].as_str().unwrap().starts_with("OTEL_");
    json!(
        all.as_array()
            .unwrap()
            .iter()
            .filter(of_traces)
            .map(|variable| (&variable["name"], &variable["value"]))
            .collect::<Vec<_>>()
    )
}

#[test]
fn traces_are_sent_where_the_values_say_and_the_network_policy_lets_them() {
    let ports = |objects: &[Value]| -> Vec<Value> {
        let egress = only(objects, "NetworkPolicy")["spec"]["egress"].as_array().unwrap().clone();
        egress.into_iter().skip(3).map(|rule| rule["ports"].clone()).collect()
    };
    let objects = rendered(&[]);
    assert_eq!(
        (variables(&objects), ports(&objects)),
        (json!([]), Vec::new()),
        "nowhere by default"
    );

    for (endpoint, port) in [
        ("http://otel-collector.monitoring:4318", 4318),
        ("https://traces.example.com", 443),
        ("http://traces.example.com/otlp", 80),
        ("https://[2001:db8::1]:4319/", 4319),
    ] {
        let objects =
            rendered(&[&format!("tracing.otlpEndpoint={endpoint}"), "tracing.sampleRatio=0.25"]);
        let expected = json!([
            ["OTEL_EXPORTER_OTLP_ENDPOINT", endpoint],
            ["OTEL_TRACES_SAMPLER", "parentbased_traceidratio"],
            ["OTEL_TRACES_SAMPLER_ARG", "0.25"],
        ]);
        assert_eq!(variables(&objects), expected);
        assert_eq!(ports(&objects), [json!([{ "port": port, "protocol": "TCP" }])], "{endpoint}");
    }
}
