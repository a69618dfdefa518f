//! The CustomResourceDefinition as it stands in the repository, checked without a cluster.

mod manifests;

use std::{fs, path::Path};

use manifests::{BAD, GOOD, RefusedBy, manifest};
use ocibuild::api::{OciBuild, crd_yaml};
use serde_json::Value;

/// Where the definition stands: for kubectl, and in the chart.
const FILES: [&str; 2] =
    ["crds/ocibuilds.ocibuild.dev.yaml", "charts/ocibuild/files/ocibuilds.ocibuild.dev.yaml"];

fn definition() -> Value {
    serde_saphyr::from_str(&crd_yaml()).unwrap()
}

fn schema() -> Value {
    definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn the_files_hold_what_the_types_say() {
    let expected = crd_yaml();
    for file in FILES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, &expected).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == expected,
            "{file} is not what src/api says. Write it anew: BLESS=1 cargo test --test crd"
        );
    }
}

/// `kubectl apply` keeps a copy in an annotation, and all annotations together may have 256 KiB.
#[test]
fn the_definition_fits_client_side_apply() {
    let size = serde_json::to_string(&definition()).unwrap().len();
    assert!(size < 256 * 1024 - 4096, "{size} bytes");
}

#[test]
fn every_field_is_described_in_one_line_a_paragraph() {
    let mut seen = 0;
    each_schema("", &schema(), &mut |path, schema| {
        if path.is_empty() || path.ends_with("[]") {
            return;
        }
        seen += 1;
        let description =
            schema["description"].as_str().unwrap_or_else(|| panic!("{path} has no description"));
        assert!(description.len() >= 10, "{path}: {description:?} says nothing");
        assert!(
            !description.replace("\n\n", "").contains('\n'),
            "{path}: {description:?} breaks its lines"
        );
    });
    assert!(seen > 100, "only {seen} fields were seen");
}

/// The API server knows no unsigned formats: it warns of each.
#[test]
fn no_number_has_a_format_that_kubernetes_does_not_know() {
    each_schema("", &schema(), &mut |path, schema| {
        if let Some(format) = schema["format"].as_str() {
            assert!(
                ["int32", "int64", "double", "date-time"].contains(&format),
                "{path}: format {format}"
            );
        }
    });
}

#[test]
fn the_schema_is_structural() {
    each_schema("", &schema(), &mut |path, schema| {
        let typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == true;
        assert!(typed, "{path} has no type");
        assert!(
            schema["properties"].is_null() || schema["additionalProperties"].is_null(),
            "{path} is a map and an object"
        );
        for keyword in ["$ref", "definitions", "patternProperties", "oneOf", "anyOf", "uniqueItems"]
        {
            assert!(schema[keyword].is_null(), "{path} uses {keyword}");
        }
    });
}

/// A change of these breaks scripts and tools of users.
#[test]
fn names_scope_and_columns_stay() {
    let definition = definition();
    let columns = definition["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
    let columns: Vec<_> = columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(
        columns,
        ["Phase", "Progress", "Image", "Digest", "Reason", "Time", "Age", "Tar", "Pod", "Queue"]
    );
    assert_eq!(definition["spec"]["scope"], "Namespaced");
    assert_eq!(
        definition["spec"]["versions"][0]["subresources"],
        serde_json::json!({ "status": {} })
    );
}

#[test]
fn rules_refuse_bad_manifests_in_these_words() {
    let schema = schema();
    for (change, refused_by, expected) in BAD {
        let messages = violations(&schema, &manifest(change));
        // Types and bounds are for the API server.
        if *refused_by == RefusedBy::Rule {
            assert!(
                messages.iter().any(|message| expected.ends_with(message.as_str())),
                "{change}: {messages:?}"
            );
        }
    }
}

#[test]
fn good_manifests_break_no_rule_and_can_be_read() {
    let schema = schema();
    for change in GOOD {
        let manifest = manifest(change);
        assert_eq!(violations(&schema, &manifest), Vec::<String>::new(), "{change}");
        serde_json::from_value::<OciBuild>(manifest)
            .unwrap_or_else(|error| panic!("{change}: {error}"));
    }
}

/// Every rule has a row in the table that breaks it and nothing else would notice.
#[test]
fn every_rule_of_the_spec_is_broken_by_a_row() {
    let schema = schema();
    let broken: Vec<_> =
        BAD.iter().flat_map(|(change, ..)| violations(&schema, &manifest(change))).collect();
    let mut rules = 0;
    let mut unbroken = Vec::new();
    each_schema("", &schema, &mut |path, schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            rules += 1;
            let message = rule["message"]
                .as_str()
                .unwrap_or_else(|| panic!("{path}: a rule without a message"));
            if !broken.iter().any(|words| words == message) {
                unbroken.push(format!("{path}: {message}"));
            }
        }
    });
    assert_eq!(unbroken, Vec::<String>::new(), "rules that no manifest of the table breaks");
    assert!(rules >= 25, "only {rules} rules were seen");
}

/// Messages of the rules that the manifest breaks.
fn violations(schema: &Value, manifest: &Value) -> Vec<String> {
    match kube::core::cel::Validator::new().validate(schema, manifest, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec().into_iter().map(|error| error.message).collect(),
    }
}

/// Visits every schema with its path.
fn each_schema(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        each_schema(&format!("{path}.{name}"), field, visit);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            each_schema(&format!("{path}[]"), &schema[inner], visit);
        }
    }
}
