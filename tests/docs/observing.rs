//! `docs/observing.md`, the chart's dashboard and its alerts: they speak of metrics and labels that the operator exposes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    time::Duration,
};

use ocibuild::{
    api::FailureReason,
    controller::{
        durations::Durations,
        metrics::{Metrics, PLATFORM_FAILURES},
    },
};
use promql_parser::{
    parser::{self, AggregateExpr, Expr, LabelModifier, VectorSelector},
    util::{ExprVisitor, walk_expr},
};
use regex::Regex;
use serde_json::{Value, json};

use crate::{assert_page, cell, root};

/// What Prometheus adds to every series that it scrapes.
const ADDED: &str = "namespace";

/// A metric as the operator exposes it.
struct Metric {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// Every metric, each observed at least once so that its labels show.
fn exposed() -> String {
    let metrics = Metrics::default();
    let failed = json!({
        "phase": "Failed",
        "failure": { "reason": "StepFailed", "message": "", "hint": "" },
        "startTime": "2026-01-01T00:00:00.000000Z",
        "completionTime": "2026-01-01T00:00:01.000000Z",
    });
    metrics.build_ended(&serde_json::from_value(failed).unwrap());
    metrics.time_spent(&Durations { build: Some(Duration::from_secs(1)), ..Durations::default() });
    metrics.attempt_lost(FailureReason::Evicted);
    metrics.reconcile_error("api");
    metrics.write("pod");
    metrics.text()
}

/// The metrics by name as queries use it, but for the suffixes of histograms.
fn metrics() -> BTreeMap<String, Metric> {
    let text = exposed();
    let mut metrics = BTreeMap::new();
    let label = Regex::new(r#"(\w+)=""#).unwrap();
    let mut help = "";
    for line in text.lines() {
        if let Some((_, words)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
        {
            help = words.trim_end_matches('.');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            let labels = Regex::new(&format!(r"(?m)^{name}(?:_bucket)?\{{(.*)\}} ")).unwrap();
            let labels =
                labels.captures(&text).map_or_else(String::new, |found| found[1].to_owned());
            let labels = label.captures_iter(&labels).map(|found| found[1].to_owned()).collect();
            metrics.insert(name, Metric { kind: kind.to_owned(), help: help.to_owned(), labels });
        }
    }
    assert!(metrics.len() >= 12, "only {} metrics were found in\n{text}", metrics.len());
    metrics
}

/// The series that queries may name, with their labels.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut series = BTreeMap::new();
    for (name, metric) in metrics() {
        let mut labels = metric.labels.clone();
        labels.insert(ADDED.to_owned());
        if metric.kind == "histogram" {
            series.insert(format!("{name}_bucket"), labels.clone());
            labels.remove("le");
            series.insert(format!("{name}_sum"), labels.clone());
            series.insert(format!("{name}_count"), labels);
        } else {
            series.insert(name, labels);
        }
    }
    series
}

#[test]
fn every_metric_and_alert_stands_in_the_documentation() {
    let mut table = "| metric | type | labels | what |\n|---|---|---|---|\n".to_owned();
    for (name, metric) in metrics() {
        let labels: Vec<_> = metric
            .labels
            .iter()
            .filter(|label| *label != "le")
            .map(|label| format!("`{label}`"))
            .collect();
        writeln!(
            table,
            "| `{name}` | {} | {} | {} |",
            metric.kind,
            labels.join(", "),
            cell(&metric.help)
        )
        .unwrap();
    }
    let template = Regex::new(r"\{\{[^}]*\}\}").unwrap();
    let mut alerts = "| alert | what happened | what to do |\n|---|---|---|\n".to_owned();
    for alert in rules() {
        let text = |value: &Value| {
            let words = value.as_str().unwrap_or_else(|| panic!("{alert} does not say what to do"));
            cell(&template.replace_all(words, "…"))
        };
        let (summary, description) =
            (&alert["annotations"]["summary"], &alert["annotations"]["description"]);
        writeln!(
            alerts,
            "| `{}` | {} | {} |",
            alert["alert"].as_str().unwrap(),
            text(summary),
            text(description)
        )
        .unwrap();
    }
    let page = fs::read_to_string(root().join("docs/observing.md")).unwrap();
    let page = with_section(&with_section(&page, "metrics", &table), "alerts", &alerts);
    assert_page("docs/observing.md", &page);
}

/// The page with what stands between the two comments replaced.
fn with_section(page: &str, name: &str, text: &str) -> String {
    let begin = format!("<!-- {name}: written by BLESS=1 cargo test --test docs -->\n");
    let end = format!("<!-- end of {name} -->");
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("no line {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no line {end}"));
    format!("{before}{begin}\n{text}\n{end}{after}")
}

fn rules() -> Vec<Value> {
    serde_saphyr::from_str(
        &fs::read_to_string(root().join("charts/ocibuild/files/alerts.yaml")).unwrap(),
    )
    .unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(
        &fs::read_to_string(root().join("charts/ocibuild/files/dashboard.json")).unwrap(),
    )
    .unwrap()
}

/// The queries of the dashboard, by the title of the panel.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap();
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().unwrap().clone();
        targets
            .into_iter()
            .map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    };
    panels.iter().flat_map(of_panel).collect()
}

/// What is wrong with a query.
struct Check {
    series: BTreeMap<String, BTreeSet<String>>,
    wrong: Vec<String>,
    seen: BTreeSet<String>,
}

impl Check {
    fn selector(&mut self, selector: &VectorSelector) {
        let name = selector.name.clone().unwrap_or_default();
        let Some(labels) = self.series.get(&name) else {
            return self.wrong.push(format!("no series {name}"));
        };
        for matcher in &selector.matchers.matchers {
            if !labels.contains(&matcher.name) {
                self.wrong.push(format!("{name} has no label {}", matcher.name));
            }
        }
        self.seen.insert(name);
    }

    fn aggregate(&mut self, aggregate: &AggregateExpr) {
        let mut inner =
            Self { series: self.series.clone(), wrong: Vec::new(), seen: BTreeSet::new() };
        walk_expr(&mut inner, &aggregate.expr).unwrap();
        if let Some(LabelModifier::Include(labels)) = &aggregate.modifier {
            for label in &labels.labels {
                for name in inner.seen.iter().filter(|name| !self.series[*name].contains(label)) {
                    self.wrong.push(format!("{name} has no label {label} to aggregate by"));
                }
            }
        }
    }
}

impl ExprVisitor for Check {
    type Error = std::convert::Infallible;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, Self::Error> {
        match expression {
            Expr::VectorSelector(selector) => self.selector(selector),
            Expr::MatrixSelector(selector) => self.selector(&selector.vs),
            Expr::Aggregate(aggregate) => self.aggregate(aggregate),
            _ => {}
        }
        Ok(true)
    }
}

/// The series that a query reads, or what is wrong with it.
fn check(query: &str) -> Result<BTreeSet<String>, Vec<String>> {
    let query = query.replace("$__rate_interval", "5m").replace("$namespace", "ocibuild-system");
    let expression = parser::parse(&query).map_err(|error| vec![error])?;
    let mut check = Check { series: series(), wrong: Vec::new(), seen: BTreeSet::new() };
    walk_expr(&mut check, &expression).unwrap();
    if check.wrong.is_empty() { Ok(check.seen) } else { Err(check.wrong) }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_what_the_operator_exposes() {
    let dashboard = dashboard();
    let queries = queries(&dashboard);
    assert!(queries.len() >= 15, "only {} queries were found", queries.len());
    let alerts = rules()
        .into_iter()
        .map(|rule| (rule["alert"].to_string(), rule["expr"].as_str().unwrap().to_owned()));
    let mut asked = BTreeSet::new();
    for (what, query) in queries.into_iter().chain(alerts) {
        asked.extend(check(&query).unwrap_or_else(|wrong| panic!("{what}: {query}: {wrong:?}")));
    }
    let unasked: Vec<_> = metrics()
        .into_keys()
        .filter(|name| !asked.iter().any(|asked| asked.starts_with(name)))
        .collect();
    assert_eq!(unasked, Vec::<String>::new(), "no panel and no alert shows these");
}

#[test]
fn a_query_that_asks_for_something_else_would_be_found() {
    for (query, wrong) in [
        ("ocibuild_builds", "no series ocibuild_builds"),
        ("rate(ocibuild_build_seconds_bucket[5m])", "no series ocibuild_build_seconds_bucket"),
        (
            r#"ocibuild_builds_total{outcome="failed"}"#,
            "ocibuild_builds_total has no label outcome",
        ),
        (
            "sum by (reason) (ocibuild_leader)",
            "ocibuild_leader has no label reason to aggregate by",
        ),
        (
            "sum by (le) (rate(ocibuild_build_duration_seconds_sum[5m]))",
            "has no label le to aggregate by",
        ),
        ("sum(ocibuild_leader", "unclosed left parenthesis"),
    ] {
        let found = check(query).unwrap_err().join("; ");
        assert!(found.contains(wrong), "{query}: {found}");
    }
}

#[test]
fn the_variables_of_the_dashboard_are_defined_and_its_panels_have_numbers_of_their_own() {
    let dashboard = dashboard();
    let defined: BTreeSet<_> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    let text = dashboard.to_string();
    for used in Regex::new(r"\$\{?(\w+)\}?").unwrap().captures_iter(&text) {
        assert!(
            defined.contains(&used[1]) || used[1].starts_with("__"),
            "{} is not defined",
            &used[1]
        );
    }
    let numbers: Vec<_> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
}

#[test]
fn the_alert_on_failures_of_the_platform_names_those_that_are_counted_from_zero() {
    let rules = rules();
    let alert = rules.iter().find(|rule| rule["alert"] == "OciBuildPlatformFailures").unwrap();
    let names = PLATFORM_FAILURES.map(FailureReason::as_str).join("|");
    assert!(
        alert["expr"].as_str().unwrap().contains(&format!("reason=~\"{names}\"")),
        "{alert}: it should name {names}"
    );
}

/// A label that the query drops would be an empty text in the message.
#[test]
fn the_words_of_an_alert_use_labels_that_its_query_keeps() {
    let label = Regex::new(r"\$labels\.(\w+)").unwrap();
    let kept = Regex::new(r"by \(([^)]*)\)").unwrap();
    for rule in rules() {
        let query = rule["expr"].as_str().unwrap();
        let kept: BTreeSet<_> = kept
            .captures_iter(query)
            .flat_map(|found| found[1].split(", ").map(str::to_owned).collect::<Vec<_>>())
            .collect();
        for used in label.captures_iter(&rule["annotations"].to_string()) {
            assert!(
                kept.contains(&used[1]),
                "{}: {} is not kept by {query}",
                rule["alert"],
                &used[1]
            );
        }
    }
}
