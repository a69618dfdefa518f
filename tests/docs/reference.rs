//! `docs/reference.md`: every field of the OciBuild.

use std::{collections::BTreeSet, fmt::Write};

use serde_json::{Value, json};

use crate::{
    assert_page,
    schema::{Field, Section, Sentences, is_parameter_name, sections, yaml},
};

const PAGE: &str = "\
# Reference: the fields of an OciBuild

All fields of `spec`, which you write, and of `status`, which the operator writes, each object in a table of its own. In a path,
`[]` stands for an item of a list and `*` for a name that you choose. A field whose default is *required* must be written; one without a
default may be left out, and then means nothing. Examples are written as in the manifest. *Task parameter* is the parameter of
the Concourse OCI build task that the field mirrors. `kubectl explain ocibuild.spec` says the same in the terminal; whole manifests are in
[examples](../examples).

This page is written from the CustomResourceDefinition: `BLESS=1 cargo test --test docs`.
";

/// Types that have a page of their own.
const PAGES: &[(&str, &str)] = &[("status.failure.reason", "[reason](failure-reasons.md)")];

/// The parameters of the Concourse task, and those that the specification adds to it. `*` stands for any name.
const TASK_PARAMETERS: &[&str] = &[
    "ADDITIONAL_TARGETS",
    "BUILDKIT_ADD_HOSTS",
    "BUILDKIT_EXTRA_CONFIG",
    "BUILDKIT_SECRETTEXT_*",
    "BUILDKIT_SECRET_*",
    "BUILDKIT_SSH",
    "BUILD_ARGS_FILE",
    "BUILD_ARG_*",
    "CONTEXT",
    "DEBUG",
    "DOCKERFILE",
    "DOCKER_CONFIG",
    "IMAGE_ARG_*",
    "IMAGE_NAME",
    "IMAGE_PLATFORM",
    "IMAGE_TAG",
    "LABELS_FILE",
    "LABEL_*",
    "OUTPUT_OCI",
    "PUSH",
    "REGISTRY",
    "REGISTRY_MIRRORS",
    "TARGET",
    "TARGET_FILE",
    "UNPACK_ROOTFS",
];

#[test]
fn every_field_stands_in_the_reference() {
    let sections = sections();
    let fields: usize = sections.iter().map(|section| section.fields.len()).sum();
    assert!(fields > 150, "only {fields} fields were found");
    let anchors: BTreeSet<_> = sections.iter().map(|section| anchor(&section.path)).collect();
    assert_eq!(anchors.len(), sections.len(), "two sections have one address");
    let page = sections.iter().fold(PAGE.to_owned(), |page, section| page + &written(section));
    assert_page("docs/reference.md", &page);
}

/// A user finds each parameter of the task that is being replaced, and the reference names none that does not exist.
#[test]
fn the_reference_names_every_parameter_of_the_concourse_task() {
    let fields: Vec<_> = sections().into_iter().flat_map(|section| section.fields).collect();
    let parameters: BTreeSet<_> = fields
        .iter()
        .filter_map(|field| field.sentences().parameter)
        .flat_map(|parameters| {
            let names = parameters
                .split(|character| "` ,".contains(character))
                .filter(|word| is_parameter_name(word));
            names.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(parameters, TASK_PARAMETERS.iter().map(|&name| name.to_owned()).collect());
}

#[test]
fn every_field_that_a_user_writes_has_an_example_that_is_taken() {
    let mut seen = 0;
    for field in sections()
        .iter()
        .filter(|section| section.path.starts_with("spec"))
        .flat_map(|section| &section.fields)
    {
        let Some(example) = field.example() else {
            assert!(
                field.section().is_some() || field.is_as_in_a_pod(),
                "{} has no example in src/api",
                field.path
            );
            continue;
        };
        seen += 1;
        let path = &field.path;
        assert!(
            is_of_type(&example, &field.schema),
            "{path}: the example {example} is not of the type"
        );
        kube::core::cel::Validator::new()
            .validate(&field.schema, &example, None)
            .unwrap_or_else(|errors| panic!("{path}: the example {example}: {errors}"));
    }
    assert!(seen > 50, "only {seen} examples were seen");
}

/// By type, length, bounds and enumeration; rules are evaluated elsewhere.
fn is_of_type(value: &Value, schema: &Value) -> bool {
    let at_most =
        |limit: &str, size: usize| schema[limit].as_u64().is_none_or(|limit| size as u64 <= limit);
    let listed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    let fits = match schema["type"].as_str() {
        Some("string") => {
            value.as_str().is_some_and(|text| at_most("maxLength", text.chars().count()))
        }
        Some("integer") => value.as_i64().is_some_and(|number| {
            number >= schema["minimum"].as_i64().unwrap_or(i64::MIN)
                && number <= schema["maximum"].as_i64().unwrap_or(i64::MAX)
        }),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.as_array().is_some_and(|items| {
            at_most("maxItems", items.len())
                && items.iter().all(|item| is_of_type(item, &schema["items"]))
        }),
        Some("object") => value.as_object().is_some_and(|fields| {
            let of =
                |name: &str| schema["properties"].get(name).or(schema.get("additionalProperties"));
            at_most("maxProperties", fields.len())
                && fields
                    .iter()
                    .all(|(name, field)| of(name).is_some_and(|schema| is_of_type(field, schema)))
        }),
        _ => schema["x-kubernetes-int-or-string"] == true && (value.is_string() || value.is_i64()),
    };
    fits && listed
}

#[test]
fn sentences_of_a_description_get_their_columns() {
    for (description, expected) in [
        ("Where it is.", ("Where it is.", None, None)),
        (
            "A path; `.` is the root. Task parameter CONTEXT.",
            ("A path; `.` is the root.", None, Some("`CONTEXT`")),
        ),
        (
            "The tag; `latest` if left out. Any text.",
            ("The tag. Any text.", Some("`latest`"), None),
        ),
        ("A key, v1.2 too. `ca.crt` if left out.", ("A key, v1.2 too.", Some("`ca.crt`"), None)),
        (
            "Some. Default: `a`; `b` with several. Task parameters A_* and B_C, there for one alone.",
            ("Some.", Some("`a`; `b` with several"), Some("`A_*` and `B_C`, there for one alone")),
        ),
    ] {
        let (description_left, default, parameter) = expected;
        let expected = Sentences {
            description: description_left.to_owned(),
            default: default.map(str::to_owned),
            parameter: parameter.map(str::to_owned),
        };
        assert_eq!(Sentences::of(description), expected, "{description}");
    }
}

#[test]
fn examples_are_written_so_that_yaml_reads_the_same() {
    for value in [
        json!("a"),
        json!("1.0"),
        json!("true"),
        json!("a\nb\n"),
        json!(""),
        json!("a: b"),
        json!({"a: b": ["c, d", "[", 1, true]}),
    ] {
        let text = yaml(&value);
        assert!(!text.contains('\n'), "{text:?}");
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), value, "{text}");
    }
    assert_eq!(
        yaml(&json!({"registry.example.com": {"names": ["a-b", "1"]}})),
        "{registry.example.com: {names: [a-b, \"1\"]}}"
    );
}

/// Its title, whether it is for those who write the object, and what stands in it.
type Column = (&'static str, bool, fn(&Field) -> String);

const COLUMNS: [Column; 6] = [
    ("field", false, |field| format!("`{}`", field.path)),
    ("type", false, type_of),
    (
        "default",
        true,
        |field| if field.required { "*required*".to_owned() } else { field.default() },
    ),
    ("example", true, |field| {
        field.example().map(|example| format!("`{}`", yaml(&example))).unwrap_or_default()
    }),
    ("task parameter", true, |field| field.sentences().parameter.unwrap_or_default()),
    ("description", false, |field| field.sentences().description),
];

/// A table of the object's fields, without the columns that no field fills.
fn written(section: &Section) -> String {
    let mut text =
        format!("\n## {}\n\n{}\n\n", section.path, Sentences::of(&section.description).description);
    let is_written_by_users = section.path.starts_with("spec");
    let columns: Vec<_> = COLUMNS
        .iter()
        .filter(|(_, for_writers, content)| {
            (is_written_by_users || !for_writers)
                && section.fields.iter().any(|field| !content(field).is_empty())
        })
        .collect();
    let titles: Vec<_> = columns.iter().map(|(title, ..)| *title).collect();
    writeln!(text, "| {} |\n|{}", titles.join(" | "), "---|".repeat(columns.len())).unwrap();
    for field in &section.fields {
        let cells: Vec<_> =
            columns.iter().map(|(.., content)| content(field).replace('|', "\\|")).collect();
        writeln!(text, "| {} |", cells.join(" | ")).unwrap();
    }
    text
}

fn type_of(field: &Field) -> String {
    if let Some((_, link)) = PAGES.iter().find(|(path, _)| *path == field.path) {
        return (*link).to_owned();
    }
    if field.is_as_in_a_pod() {
        let name = field.path.rsplit('.').next().unwrap();
        return format!(
            "{}, as in a Pod: `kubectl explain pod.spec.{name}`",
            type_of_schema(&field.schema)
        );
    }
    let words = type_of_schema(&field.schema);
    field.section().map_or_else(
        || words.clone(),
        |section| words.replacen("object", &format!("[object](#{})", anchor(&section)), 1),
    )
}

fn type_of_schema(schema: &Value) -> String {
    let (words, bounds) = (words_of_type(schema), bounds(schema).join(", each "));
    if bounds.is_empty() { words } else { format!("{words} ({bounds})") }
}

fn words_of_type(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        return format!(
            "one of {}",
            values.iter().map(|value| format!("`{}`", yaml(value))).collect::<Vec<_>>().join(", ")
        );
    }
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "date-time" => "time (RFC 3339)".to_owned(),
        Some("array") => format!("list of {}", words_of_type(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("map of {}", words_of_type(&schema["additionalProperties"]))
        }
        Some(plain) => plain.to_owned(),
        None => "string or integer".to_owned(),
    }
}

/// Those of the value, then those of what is in it.
fn bounds(schema: &Value) -> Vec<String> {
    let bound = |keyword: &str| schema[keyword].as_i64();
    let range = |least: Option<i64>, most: Option<i64>, unit: &str| match (least, most) {
        (Some(least), Some(most)) => Some(format!("{least} to {most}{unit}")),
        (Some(least), None) => Some(format!("at least {least}{unit}")),
        (None, Some(most)) => Some(format!("at most {most}{unit}")),
        (None, None) => None,
    };
    let own = range(bound("minimum"), bound("maximum"), "")
        .or_else(|| range(bound("minLength"), bound("maxLength"), " characters"))
        .or_else(|| range(bound("minItems"), bound("maxItems"), " items"))
        .or_else(|| range(bound("minProperties"), bound("maxProperties"), " entries"));
    let inner = ["items", "additionalProperties"]
        .map(|inner| &schema[inner])
        .into_iter()
        .filter(|inner| inner.is_object());
    own.into_iter().chain(inner.flat_map(bounds)).collect()
}

/// The address that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|character| character.is_alphanumeric() || "-_".contains(*character))
        .collect()
}
