//! What kubeconform and the API server say to what the chart renders. kubeconform is fed with the schemas of the API server that
//! the tests run against, and with the definition in `crds/`.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use ocibuild::api::crd_yaml;
use serde_json::{Value, json};

use super::{SHAPES, rendered, tool};

/// Their definitions belong to the Prometheus Operator; the chart's other tests look at them.
const FOREIGN: [&str; 2] = ["ServiceMonitor", "PrometheusRule"];

#[test]
fn kubeconform_finds_nothing_wrong_with_the_chart() {
    let schemas = schemas();
    for values in SHAPES {
        conform(schemas.path(), &format!("{values:?}"), &rendered(values));
    }
}

#[test]
fn kubeconform_finds_nothing_wrong_with_the_examples() {
    let schemas = schemas();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let documents: Vec<Value> =
                serde_saphyr::from_multiple(&fs::read_to_string(&path).unwrap()).unwrap();
            conform(schemas.path(), &path.display().to_string(), &documents);
            seen += 1;
        }
    }
    assert!(seen >= 6, "only {seen} examples were found");
}

#[test]
fn kubeconform_would_find_what_is_wrong() {
    let schemas = schemas();
    let build = json!({ "apiVersion": "ocibuild.dev/v1alpha1", "kind": "OciBuild", "metadata": {}, "spec": {
        "source": { "files": {} }, "context": ".", "imagename": "a",
    } });
    let policy = json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": { "minAvailabe": 1 } });
    let summary = kubeconform(schemas.path(), &[build, policy])["summary"].clone();
    assert_eq!(summary["invalid"], 2, "{summary}");
}

/// Asked of the API server itself: it enforces the Pod Security standard where the namespace says so.
#[test]
fn a_restricted_namespace_admits_the_operator() {
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
        "generateName": "restricted-", "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
    } });
    let namespace =
        kubectl(&["create", "--filename", "-", "--output", "name"], Some(&namespace)).unwrap();
    let namespace = namespace.trim();
    let objects = rendered(&["serviceAccount.create=false"]);
    let template = &super::only(&objects, "Deployment")["spec"]["template"];
    let create = |mut pod: Value| {
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!("operator");
        let namespace = namespace.trim_start_matches("namespace/");
        kubectl(
            &["create", "--namespace", namespace, "--dry-run=server", "--filename", "-"],
            Some(&pod),
        )
    };
    let operator = create(template.clone());
    let mut root = template.clone();
    root["spec"]["securityContext"]["runAsNonRoot"] = json!(false);
    let root = create(root);
    kubectl(&["delete", "--wait=false", namespace], None).unwrap();
    operator.unwrap_or_else(|message| panic!("{message}"));
    assert!(root.unwrap_err().contains("violates PodSecurity \"restricted:latest\""));
}

fn conform(schemas: &Path, what: &str, documents: &[Value]) {
    let answer = kubeconform(schemas, documents);
    let is_foreign = |document: &&Value| FOREIGN.iter().any(|kind| document["kind"] == *kind);
    let foreign = documents.iter().filter(is_foreign).count();
    let expected = json!({ "valid": documents.len() - foreign, "invalid": 0, "errors": 0, "skipped": foreign });
    assert_eq!(answer["summary"], expected, "{what}: {answer}");
}

fn kubeconform(schemas: &Path, documents: &[Value]) -> Value {
    let mut kubeconform = Command::new(tool("kubeconform"))
        .args([
            "-strict",
            "-summary",
            "-output",
            "json",
            "-skip",
            &FOREIGN.join(","),
            "-schema-location",
        ])
        .arg(schemas.join("{{ .ResourceKind }}{{ .KindSuffix }}.json"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Each document on a line of its own: JSON is YAML.
    let text = documents.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
    let mut stdin = kubeconform.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
    let output = kubeconform.wait_with_output().unwrap();
    feeder.join().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("kubeconform answered no JSON: {error}"))
}

/// A folder with a strict JSON schema for each kind.
fn schemas() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut definitions = api_server_definitions();
    let build = serde_saphyr::from_str::<Value>(&crd_yaml()).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    definitions.insert("OciBuild".to_owned(), build);
    for (name, schema) in &mut definitions {
        match name.as_str() {
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => {
                *schema = json!({ "type": ["string", "integer"] });
            }
            "io.k8s.apimachinery.pkg.api.resource.Quantity" => {
                *schema = json!({ "type": ["string", "number"] });
            }
            _ => make_strict(schema),
        }
    }
    let own = &mut definitions.get_mut("OciBuild").unwrap()["properties"];
    for inherited in ["apiVersion", "kind", "metadata"] {
        own[inherited] = json!({});
    }
    let kinds = definitions.iter().flat_map(|(name, schema)| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
        kinds.map(move |kind| (file_name(kind), name.clone()))
    });
    let own = [("ocibuild-ocibuild-v1alpha1.json".to_owned(), "OciBuild".to_owned())];
    for (file, name) in kinds.chain(own) {
        let reference = json!({ "$ref": format!("definitions.json#/definitions/{name}") });
        fs::write(folder.path().join(file), reference.to_string()).unwrap();
    }
    fs::write(
        folder.path().join("definitions.json"),
        json!({ "definitions": definitions }).to_string(),
    )
    .unwrap();
    folder
}

fn api_server_definitions() -> BTreeMap<String, Value> {
    let answer = kubectl(&["get", "--raw", "/openapi/v2"], None).unwrap();
    let mut answer: Value = serde_json::from_str(&answer).unwrap();
    serde_json::from_value(answer["definitions"].take()).unwrap()
}

fn kubectl(arguments: &[&str], input: Option<&Value>) -> Result<String, String> {
    let kubeconfig = std::env::var_os("OCIBUILD_KUBECONFIG")
        .expect("OCIBUILD_KUBECONFIG names no kubeconfig: run dev/test, or dev/cluster up and export what it prints");
    let mut kubectl = Command::new(tool("kubectl"))
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = kubectl.stdin.take().unwrap();
    if let Some(input) = input {
        stdin.write_all(input.to_string().as_bytes()).unwrap();
    }
    drop(stdin);
    let output = kubectl.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The name that kubeconform looks for.
fn file_name(kind: &Value) -> String {
    let text = |field: &str| kind[field].as_str().unwrap_or_default();
    let group = text("group").split('.').next().unwrap();
    let group = if group.is_empty() { String::new() } else { format!("{group}-") };
    format!("{}-{group}{}.json", text("kind").to_lowercase(), text("version"))
}

/// From Kubernetes' dialect to JSON schema: unknown fields are wrong, what is nullable may be null.
fn make_strict(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    if fields.remove("x-kubernetes-int-or-string").is_some() {
        fields.insert("type".to_owned(), json!(["string", "integer"]));
    }
    if fields.remove("nullable").is_some()
        && let Some(kind) = fields.get_mut("type")
    {
        *kind = json!([kind.take(), "null"]);
        // An enumeration must hold null, too.
        if let Some(values) = fields.get_mut("enum").and_then(Value::as_array_mut) {
            values.push(Value::Null);
        }
    }
    if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
        fields.insert("additionalProperties".to_owned(), json!(false));
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(inner) {
            make_strict(inner);
        }
    }
    for property in
        fields.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
    {
        make_strict(property.1);
    }
}
