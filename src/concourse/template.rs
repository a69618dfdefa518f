//! What a pipeline says of a build besides the task's own parameters: a template, and single fields of the spec. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::api::{OciBuildSpec, read_strictly};

/// An OciBuild or its spec, as YAML or the path of a file.
const TEMPLATE: &str = "OCIBUILD_TEMPLATE";
/// `OCIBUILD_TIMEOUT` is the spec's field `timeout`, `OCIBUILD_POD_NODE_SELECTOR` is `pod.nodeSelector`.
const FIELD: &str = "OCIBUILD_";
/// The field whose own fields have variables too.
const POD: &str = "pod";
/// Fields that say how the task and its build work together.
const OWN: [(&str, &str); 4] = [
    ("source", "the task sends the source itself"),
    ("context", "write CONTEXT"),
    ("output", "the task fetches the files itself"),
    ("suspend", "a task waits for its build"),
];

/// The spec that the task's parameters are put on top of. `read` reads a file of the task's folder.
pub fn template(
    variables: &BTreeMap<String, String>,
    read: impl Fn(&str) -> std::io::Result<String>,
) -> anyhow::Result<OciBuildSpec> {
    let mut spec = match variables.get(TEMPLATE).filter(|value| !value.trim().is_empty()) {
        Some(value) => from_text(value, read)?,
        None => Value::Object(Map::new()),
    };
    let fields = spec
        .as_object_mut()
        .with_context(|| format!("{TEMPLATE} is not an OciBuild or its spec"))?;
    let schema = SchemaSettings::draft07()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator();
    let schema = schema.into_root_schema_for::<OciBuildSpec>().to_value();
    for (variable, value) in variables {
        let name = variable.strip_prefix(FIELD).filter(|_| variable != TEMPLATE);
        if let Some(name) = name.filter(|_| !value.is_empty()) {
            set(fields, &schema["properties"], variable, name, value)?;
        }
    }
    as_spec(spec).with_context(|| format!("{TEMPLATE} is not the spec of an OciBuild"))
}

/// The spec of these fields, and of what a task puts in the place of others.
fn as_spec(mut spec: Value) -> anyhow::Result<OciBuildSpec> {
    let fields = spec.as_object_mut().context("it is not a map")?;
    for (field, value) in [
        ("source", Value::Object(Map::new())),
        ("context", ".".into()),
        ("imageName", "image".into()),
    ] {
        fields.entry(field).or_insert(value);
    }
    let (read, unknown) = read_strictly(spec)?;
    ensure!(unknown.is_empty(), "there is no field {}; see docs/reference.md", unknown.join(", "));
    Ok(read)
}

fn from_text(value: &str, read: impl Fn(&str) -> std::io::Result<String>) -> anyhow::Result<Value> {
    let text = if value.contains(['\n', ':']) {
        value.to_owned()
    } else {
        read(value).with_context(|| {
            format!("{TEMPLATE}: {value} is neither YAML nor the path of a file")
        })?
    };
    let template: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("{TEMPLATE} is not YAML"))?;
    let kind = template.get("kind").and_then(Value::as_str).unwrap_or("OciBuild");
    ensure!(kind == "OciBuild", "{TEMPLATE} is a {kind}, and not an OciBuild");
    Ok(template.get("spec").cloned().unwrap_or(template))
}

fn set(
    fields: &mut Map<String, Value>,
    known: &Value,
    variable: &str,
    name: &str,
    text: &str,
) -> anyhow::Result<()> {
    let field = camel_case(name);
    if let Some((_, words)) = OWN.iter().find(|(own, _)| *own == field) {
        bail!("{variable} is not read: {words}");
    }
    if let Some(schema) = known.get(&field) {
        let value = parse(schema, variable, text)?;
        as_spec(json!({ &field: value })).with_context(|| variable.to_owned())?;
        fields.insert(field, value);
        return Ok(());
    }
    let below = name.strip_prefix("POD_").map(camel_case);
    let schema = below.as_ref().and_then(|below| pod_fields(known)?.get(below));
    let (Some(below), Some(schema)) = (&below, schema) else {
        let (part, field) = below.map_or(("spec", field), |below| (POD, below));
        bail!("{variable}: the {part} of an OciBuild has no field {field}; see docs/reference.md")
    };
    let value = parse(schema, variable, text)?;
    as_spec(json!({ POD: { below: value } })).with_context(|| variable.to_owned())?;
    let pod = fields.entry(POD).or_insert_with(|| Value::Object(Map::new()));
    let pod = pod.as_object_mut().with_context(|| format!("{TEMPLATE}: {POD} is not a map"))?;
    pod.insert(below.clone(), value);
    Ok(())
}

/// The fields of `pod`, which may be left out as a whole: then its schema is one of several.
fn pod_fields(known: &Value) -> Option<&Value> {
    let pod = known.get(POD)?;
    let choices = pod.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    std::iter::once(pod).chain(choices).find_map(|schema| schema.get("properties"))
}

/// A text stays what it is, all else is YAML.
fn parse(schema: &Value, variable: &str, text: &str) -> anyhow::Result<Value> {
    let kind = &schema["type"];
    let is_text =
        kind == "string" || kind.as_array().is_some_and(|kinds| kinds.contains(&"string".into()));
    if is_text {
        return Ok(text.into());
    }
    serde_saphyr::from_str(text).with_context(|| format!("{variable} is not YAML"))
}

/// `NODE_SELECTOR` is `nodeSelector`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_').map(str::to_ascii_lowercase);
    let first = words.next().unwrap_or_default();
    words.fold(first, |field, word| {
        let mut letters = word.chars();
        let head: String = letters.next().into_iter().collect();
        field + &head.to_ascii_uppercase() + letters.as_str()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Value, template};

    fn read(pairs: &[(&str, &str)]) -> Result<Value, String> {
        let variables =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let file = |path: &str| match path {
            "ci/build.yaml" => Ok("kind: OciBuild\nspec: {timeout: 3h}\n".to_owned()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        let spec = template(&variables, file).map_err(|error| format!("{error:#}"))?;
        let mut spec = serde_json::to_value(spec).unwrap();
        for field in ["source", "context", "imageName", "imageTag", "push"] {
            spec.as_object_mut().unwrap().remove(field);
        }
        Ok(spec)
    }

    #[test]
    fn a_variable_of_any_letters_is_a_field_or_is_refused() {
        assert!(read(&[("OCIBUILD_POD_é_ß", "1")]).is_err());
    }

    #[test]
    fn a_template_is_text_or_a_file_and_single_fields_are_put_on_top_of_it() {
        let template = "pod: {nodeSelector: {disk: slow}, labels: {team: blue}}\ntimeout: 1h";
        for (pairs, expected) in [
            (&[][..], json!({})),
            (&[("OCIBUILD_TEMPLATE", "ci/build.yaml")], json!({ "timeout": "3h" })),
            (
                &[("OCIBUILD_TEMPLATE", "timeout: 1h"), ("OCIBUILD_TIMEOUT", "2h")],
                json!({ "timeout": "2h" }),
            ),
            (&[("OCIBUILD_TIMEOUT", "")], json!({})),
            (&[("OCIBUILD_RETRIES", "0")], json!({ "retries": 0 })),
            (
                &[
                    ("OCIBUILD_POD_RESOURCES", "{limits: {memory: 4Gi, cpu: 2}}"),
                    ("OCIBUILD_NO_CACHE", "true"),
                ],
                json!({ "noCache": true, "pod": { "resources": { "limits": { "cpu": "2", "memory": "4Gi" } } } }),
            ),
            (
                &[("OCIBUILD_TEMPLATE", template), ("OCIBUILD_POD_NODE_SELECTOR", "disk: fast")],
                json!({ "timeout": "1h", "pod": { "nodeSelector": { "disk": "fast" }, "labels": { "team": "blue" } } }),
            ),
            (
                &[
                    ("OCIBUILD_POD", "{priorityClassName: builds}"),
                    ("OCIBUILD_POD_RUNTIME_CLASS_NAME", "gvisor"),
                ],
                json!({ "pod": { "priorityClassName": "builds", "runtimeClassName": "gvisor" } }),
            ),
        ] {
            assert_eq!(read(pairs), Ok(expected), "{pairs:?}");
        }
    }

    #[test]
    fn what_is_no_field_and_no_template_is_named() {
        for (pair, words) in [
            (
                ("OCIBUILD_TIMOUT", "2h"),
                "OCIBUILD_TIMOUT: the spec of an OciBuild has no field timout",
            ),
            (("OCIBUILD_CONTEXT", "src"), "OCIBUILD_CONTEXT is not read: write CONTEXT"),
            (
                ("OCIBUILD_SOURCE", "{git: {url: x}}"),
                "OCIBUILD_SOURCE is not read: the task sends the source itself",
            ),
            (
                ("OCIBUILD_POD_NODE", "x"),
                "OCIBUILD_POD_NODE: the pod of an OciBuild has no field node",
            ),
            (
                ("OCIBUILD_POD_RESOURCES", "{limit: {memory: 4Gi}}"),
                "OCIBUILD_POD_RESOURCES: there is no field pod.resources.limit",
            ),
            (
                ("OCIBUILD_POD", "{nodeSelectr: {a: b}}"),
                "OCIBUILD_POD: there is no field pod.nodeSelectr",
            ),
            (
                ("OCIBUILD_REGISTRY_SECRETS", "hub"),
                "OCIBUILD_REGISTRY_SECRETS: invalid type: string \"hub\", expected a sequence",
            ),
            (
                ("OCIBUILD_TEMPLATE", "buildArgz: {A: b}"),
                "OCIBUILD_TEMPLATE is not the spec of an OciBuild: there is no field buildArgz",
            ),
            (("OCIBUILD_TEMPLATE", "kind: Pod"), "OCIBUILD_TEMPLATE is a Pod, and not an OciBuild"),
            (("OCIBUILD_POD_RESOURCES", "{"), "OCIBUILD_POD_RESOURCES is not YAML"),
            (
                ("OCIBUILD_RETRIES", "many"),
                "OCIBUILD_RETRIES: invalid type: string \"many\", expected i32",
            ),
            (
                ("OCIBUILD_TEMPLATE", "missing"),
                "OCIBUILD_TEMPLATE: missing is neither YAML nor the path of a file",
            ),
            (("OCIBUILD_TEMPLATE", "- a: b"), "OCIBUILD_TEMPLATE is not an OciBuild or its spec"),
        ] {
            let error = read(&[pair]).unwrap_err();
            assert!(error.contains(words), "{pair:?}: {error}");
        }
    }
}
