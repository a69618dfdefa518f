//! What a real API server answers to good and bad manifests. It needs one: `dev/cluster up`, or any in $OCIBUILD_KUBECONFIG.
#![cfg(feature = "cluster-tests")]

mod manifests;
mod tools;

use std::{io::Write, path::PathBuf, process::Stdio, time::Duration};

use k8s_openapi::{
    api::core::v1::Namespace,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Request},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use manifests::{BAD, GOOD, RefusedBy, manifest};
use serde_json::Value;
use tools::tool;

/// A namespace of the test's own on the API server, with the definition installed.
struct Cluster {
    kubeconfig: PathBuf,
    client: Client,
    namespace: String,
}

impl Cluster {
    async fn enter() -> Self {
        let kubeconfig = std::env::var_os("OCIBUILD_KUBECONFIG")
            .map(PathBuf::from)
            .expect("OCIBUILD_KUBECONFIG names no kubeconfig: run dev/test, or dev/cluster up and export what it prints");
        let config =
            Kubeconfig::read_from(&kubeconfig).expect("OCIBUILD_KUBECONFIG is a kubeconfig");
        let config =
            Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();

        install_definition(&client).await;
        let namespace = Namespace {
            metadata: ObjectMeta {
                generate_name: Some("admission-".to_owned()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let namespace = Api::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap()
            .name_any();
        Self { kubeconfig, client, namespace }
    }

    /// Sends a manifest as `kubectl create` does, but for trial only.
    async fn send(&self, manifest: &Value) -> Result<Value, String> {
        let path = format!("/apis/ocibuild.dev/v1alpha1/namespaces/{}/ocibuilds", self.namespace);
        let trial = PostParams { dry_run: true, ..PostParams::default() };
        let mut request =
            Request::new(path).create(&trial, serde_json::to_vec(manifest).unwrap()).unwrap();
        *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri()).parse().unwrap();
        match self.client.request::<Value>(request).await {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => panic!("{manifest}: {error}"),
        }
    }

    async fn leave(self) {
        Api::<Namespace>::all(self.client)
            .delete(&self.namespace, &DeleteParams::default())
            .await
            .unwrap();
    }
}

/// Installs the definition, but leaves alone one that says the same: a chart that was installed keeps its fields.
async fn install_definition(client: &Client) {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let wanted: CustomResourceDefinition =
        serde_saphyr::from_str(&ocibuild::api::crd_yaml()).unwrap();
    let name = wanted.name_any();
    let installed = definitions.get_opt(&name).await.unwrap();
    if installed
        .is_none_or(|installed| installed.spec.versions[0].schema != wanted.spec.versions[0].schema)
    {
        let apply = PatchParams::apply("ocibuild-tests").force();
        let patch =
            Patch::Apply(serde_saphyr::from_str::<Value>(&ocibuild::api::crd_yaml()).unwrap());
        definitions
            .patch(&name, &apply, &patch)
            .await
            .expect("the API server takes the definition");
    }
    let established = await_condition(definitions, &name, is_crd_established());
    tokio::time::timeout(Duration::from_secs(30), established)
        .await
        .expect("the definition is established")
        .unwrap();
}

#[tokio::test]
async fn the_api_server_refuses_bad_manifests_in_these_words() {
    let cluster = Cluster::enter().await;
    assert!(BAD.len() >= 25);
    let mut wrong = Vec::new();
    for (change, refused_by, expected) in BAD {
        let manifest = manifest(change);
        let name = manifest["metadata"]["name"].as_str().unwrap();
        let expected = match refused_by {
            RefusedBy::Rule | RefusedBy::Bound => {
                format!("OciBuild.ocibuild.dev {name:?} is invalid: {expected}")
            }
            RefusedBy::Type => format!(
                "OciBuild.ocibuild.dev {name:?} is invalid: [{expected}, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]"
            ),
        };
        match cluster.send(&manifest).await {
            Ok(_) => wrong.push(format!("{change}\n  was taken")),
            Err(message) if same_words(&message, &expected) => {}
            Err(message) => {
                wrong.push(format!("{change}\n  says     {message}\n  expected {expected}"));
            }
        }
    }
    cluster.leave().await;
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), BAD.len(), wrong.join("\n"));
}

/// API servers before 1.34 name the type of an object or list that a rule refuses, later ones do not.
fn same_words(message: &str, expected: &str) -> bool {
    message == expected
        || message.replace("Invalid value: \"object\": ", "Invalid value: ") == expected
}

#[tokio::test]
async fn the_api_server_refuses_fields_that_do_not_exist() {
    let cluster = Cluster::enter().await;
    for (change, field) in [
        ("spec: {imagename: a}", "spec.imagename"),
        (
            "spec: {source: {files: null, git: {url: 'https://a/b', branch: main}}}",
            "spec.source.git.branch",
        ),
        ("spec: {pod: {affinity: {nodeAfinity: {}}}}", "spec.pod.affinity.nodeAfinity"),
        // A secret's text would stand in the manifest.
        ("spec: {secrets: [{id: npm-token, text: hunter2}]}", "spec.secrets[0].text"),
        (
            "spec: {secrets: [{id: npm-token, secret: {name: npm, key: token, value: hunter2}}]}",
            "spec.secrets[0].secret.value",
        ),
        ("spec: {ssh: [{id: default, privateKey: hunter2}]}", "spec.ssh[0].privateKey"),
        ("spec: {proxy: {password: hunter2}}", "spec.proxy.password"),
        // The Concourse task's own names.
        ("spec: {BUILD_ARGS_FILE: ci/build-args.yml}", "spec.BUILD_ARGS_FILE"),
        ("spec: {outputOci: true}", "spec.outputOci"),
        // A map where a text or a list of names is meant.
        (
            "spec: {buildkitConfig: {worker: {oci: {max-parallelism: 4}}}}",
            "spec.buildkitConfig.worker",
        ),
        (
            "spec: {registries: {registry.example.com: {caBundle: a}}}",
            "spec.registries.registry.example.com.caBundle",
        ),
    ] {
        let message = cluster.send(&manifest(change)).await.expect_err(change);
        let expected = format!(
            "OciBuild in version \"v1alpha1\" cannot be handled as a OciBuild: strict decoding error: unknown field {field:?}"
        );
        assert_eq!(message, expected);
    }
    cluster.leave().await;
}

#[tokio::test]
async fn the_api_server_takes_good_manifests_and_fills_in_the_defaults() {
    let cluster = Cluster::enter().await;
    assert!(GOOD.len() >= 10);
    for change in GOOD {
        let sent = manifest(change);
        let taken =
            cluster.send(&sent).await.unwrap_or_else(|message| panic!("{change}: {message}"));
        let spec = &taken["spec"];
        if sent["spec"]["imageTag"].is_null() {
            assert_eq!(spec["imageTag"], "latest", "{change}");
        }
        if sent["spec"]["push"].is_null() {
            assert_eq!(spec["push"], false, "{change}");
        }
        serde_json::from_value::<ocibuild::api::OciBuild>(taken.clone())
            .unwrap_or_else(|error| panic!("{taken}: {error}"));
    }
    cluster.leave().await;
}

#[tokio::test]
async fn the_api_server_takes_every_example() {
    let cluster = Cluster::enter().await;
    let mut taken = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for build in documents.iter().filter(|document| document["kind"] == "OciBuild") {
            cluster
                .send(build)
                .await
                .unwrap_or_else(|message| panic!("{}: {message}", path.display()));
            taken += 1;
        }
    }
    cluster.leave().await;
    assert!(taken >= 6, "only {taken} examples were found");
}

#[tokio::test]
async fn kubectl_apply_shows_the_words_of_a_rule() {
    let cluster = Cluster::enter().await;
    let mut kubectl = std::process::Command::new(tool("kubectl"))
        .arg("--kubeconfig")
        .arg(&cluster.kubeconfig)
        .args(["--namespace", &cluster.namespace, "apply", "--filename", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let manifest = manifest("spec: {push: true}");
    kubectl.stdin.take().unwrap().write_all(manifest.to_string().as_bytes()).unwrap();
    let output = kubectl.wait_with_output().unwrap();
    cluster.leave().await;
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    let expected = "The OciBuild \"sample\" is invalid: spec: Invalid value: registry: required with push: true, for example registry: docker.io/my-team";
    assert!(same_words(message.trim_end(), expected), "{message}");
}
