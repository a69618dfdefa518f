//! Pages that are written from the code, and examples that must work.

mod observing;
mod reference;
mod scenarios;
mod schema;

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use ocibuild::{
    api::{FailureReason, OciBuild, OciBuildSpec},
    plan::{OperatorConfig, validate},
};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_failure_reason_stands_in_the_documentation() {
    let schema = serde_json::to_value(schemars::schema_for!(FailureReason)).unwrap();
    let reasons: Vec<_> = schema["oneOf"].as_array().unwrap().iter().collect();
    assert!(reasons.len() > 30, "only {} reasons were found", reasons.len());
    let mut page = PAGE.to_owned();
    for reason in reasons {
        let name = reason["const"].as_str().unwrap();
        let meaning = reason["description"].as_str().unwrap();
        let reason: FailureReason = serde_json::from_value(name.into()).unwrap();
        assert!(!reason.hint().is_empty(), "{name} has no hint");
        assert!(!reason.evidence().is_empty(), "{name} has no evidence");
        let retried = if reason.is_retryable() { "yes" } else { "" };
        writeln!(
            page,
            "| `{name}` | {} | {} | {} | {retried} |",
            cell(meaning),
            cell(reason.evidence()),
            cell(reason.hint())
        )
        .unwrap();
    }
    assert_page("docs/failure-reasons.md", &page);
}

/// The page stands in the repository as the code says it; `BLESS=1` writes it.
fn assert_page(path: &str, expected: &str) {
    let file = root().join(path);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{path} is not what the code says. Write it anew: BLESS=1 cargo test --test docs"
    );
}

const PAGE: &str = "\
# Why a build failed

`status.failure.reason` is one of these. The same word is the reason of the condition `Stalled`, of the event, and of the label
`reason` of the metrics; `status.failure.hint` is what to do. *The evidence* is what the operator derives the reason from. A build whose reason is retried gets another pod, as often as
`retries` says, before it fails.

This page is written from the code: `BLESS=1 cargo test --test docs`.

| reason | what happened | the evidence | what to do | retried |
|---|---|---|---|---|
";

/// Text that cannot break out of a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn examples() -> Vec<(PathBuf, Value)> {
    let mut documents = Vec::new();
    for folder in ["examples", "examples/gitops"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = fs::read_to_string(&path).unwrap();
                let found: Vec<Value> = serde_saphyr::from_multiple(&text)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                documents.extend(found.into_iter().map(|document| (path.clone(), document)));
            }
        }
    }
    documents
}

fn builds() -> Vec<(PathBuf, Value)> {
    examples().into_iter().filter(|(_, document)| document["kind"] == "OciBuild").collect()
}

#[test]
fn every_example_is_a_build_that_is_taken_and_can_be_planned() {
    let builds = builds();
    assert!(builds.len() >= 6, "only {} examples were found", builds.len());
    for (path, document) in builds {
        let path = path.display();
        let mut build: OciBuild = serde_json::from_value(document.clone())
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        OciBuildSpec::validate_cel(&document["spec"], None)
            .unwrap_or_else(|errors| panic!("{path}: {errors}"));
        build.metadata.namespace = Some("default".to_owned());
        validate(&build, &OperatorConfig::default())
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// A misspelt field is dropped without a word when it is read: what was read must hold all that was written.
#[test]
fn no_example_has_a_field_that_does_not_exist() {
    for (path, document) in builds() {
        let build: OciBuild = serde_json::from_value(document.clone()).unwrap();
        let read = serde_json::to_value(&build).unwrap();
        assert_eq!(missing("", &document, &read), Vec::<String>::new(), "{}", path.display());
    }
}

fn missing(path: &str, written: &Value, read: &Value) -> Vec<String> {
    let Some(fields) = written.as_object() else { return Vec::new() };
    fields
        .iter()
        .flat_map(|(name, value)| match read.get(name) {
            Some(read) => missing(&format!("{path}.{name}"), value, read),
            None => vec![format!("{path}.{name}")],
        })
        .collect()
}

/// The names that the specification itself uses.
#[test]
fn the_example_of_the_specification_is_written_as_it_stands_there() {
    let (_, document) =
        builds().into_iter().find(|(path, _)| path.ends_with("examples/pvc-source.yaml")).unwrap();
    let spec = &document["spec"];
    assert_eq!(spec["context"], "source-code");
    assert_eq!(spec["dockerfile"], "source-code/Dockerfile");
    assert_eq!(spec["buildArgs"], serde_json::json!({ "APP_VERSION": "v1.0.0" }));
    assert_eq!((&spec["imageName"], &spec["imageTag"]), (&"my-app".into(), &"v1.0.0".into()));
}

#[test]
fn every_claim_and_config_map_that_an_example_builds_from_stands_beside_it() {
    let documents = examples();
    for (path, build) in builds() {
        let source = &build["spec"]["source"];
        for (kind, name) in [
            ("PersistentVolumeClaim", &source["persistentVolumeClaim"]["claimName"]),
            ("ConfigMap", &source["configMap"]["name"]),
        ] {
            let beside = |(other, document): &(PathBuf, Value)| {
                *other == path && document["kind"] == kind && document["metadata"]["name"] == *name
            };
            assert!(
                name.is_null() || documents.iter().any(beside),
                "{}: no {kind} {name}",
                path.display()
            );
        }
    }
}
