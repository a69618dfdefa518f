//! From YAML as a user writes it to the pod that it becomes.

use serde_json::{Value, json};

use super::{
    Attempt, InvalidSpec, OperatorConfig, OutputPlan, Validated,
    claim::output_claim,
    pod::{PodIsolation, build_pod, pod_name},
    validate,
};
use crate::api::OciBuild;

fn build(spec: &str) -> OciBuild {
    let manifest = json!({ "metadata": { "name": "app", "namespace": "team", "uid": "build-uid", "generation": 7 } });
    let mut manifest = serde_json::to_value(manifest).unwrap();
    manifest["apiVersion"] = json!("ocibuild.dev/v1alpha1");
    manifest["kind"] = json!("OciBuild");
    manifest["spec"] = serde_saphyr::from_str::<Value>(spec).unwrap();
    serde_json::from_value(manifest).unwrap()
}

fn validated(spec: &str) -> Validated {
    validate(&build(spec), &OperatorConfig::default()).unwrap()
}

const HELLO: &str = "
source: { files: { Dockerfile: 'FROM scratch' } }
context: .
imageName: hello
";

const EVERYTHING: &str = "
source: { persistentVolumeClaim: { claimName: sources, path: team/app } }
context: source-code
dockerfile: source-code/Dockerfile
imageName: my-app
imageTag: v1.0.0
buildArgs: { APP_VERSION: v1.0.0 }
labels: { team: blue }
target: final
push: true
registry: docker.io/my-team
registrySecrets: [first, second]
output: { persistentVolumeClaim: { claimName: images, path: built/app } }
timeout: 30m
pod:
  resources: { requests: { cpu: '1' }, limits: { memory: 4Gi } }
  nodeSelector: { disk: fast }
  tolerations: [{ key: builds, operator: Exists }]
  priorityClassName: low
  labels: { cost-centre: '42', app.kubernetes.io/managed-by: somebody }
  annotations: { example.com/note: hello }
";

const CONFIG_MAP: &str = "
source: { configMap: { name: files, items: [{ key: main, path: src/main.c }] } }
context: src
imageName: app
push: true
registry: localhost:5000
output: { none: {} }
";

#[test]
fn pods_of_rootless_builds_need_no_privilege_and_keep_credentials_from_the_daemon() {
    let config = OperatorConfig::default();
    insta::assert_yaml_snapshot!("hello_rootless", build_pod(&validated(HELLO), Attempt::FIRST, PodIsolation::Rootless, &config));
    insta::assert_yaml_snapshot!(
        "everything_rootless",
        build_pod(&validated(EVERYTHING), Attempt::FIRST, PodIsolation::Rootless, &config)
    );
}

#[test]
fn pods_of_userns_and_privileged_builds_differ_in_the_daemon_alone() {
    let config: OperatorConfig =
        serde_json::from_value(json!({ "registries": { "docker.io": { "mirrors": ["mirror.example.com"] } } })).unwrap();
    for isolation in [PodIsolation::Userns, PodIsolation::Privileged] {
        let pod = build_pod(&validated(CONFIG_MAP), Attempt::FIRST.next(), isolation, &config);
        insta::assert_yaml_snapshot!(format!("config_map_{}", isolation.as_str()), pod);
    }
}

#[test]
fn whatever_the_isolation_the_builds_own_container_is_restricted_and_no_container_has_a_token() {
    for spec in [HELLO, EVERYTHING, CONFIG_MAP] {
        for isolation in [PodIsolation::Rootless, PodIsolation::Userns, PodIsolation::Privileged] {
            let pod = build_pod(&validated(spec), Attempt::FIRST, isolation, &OperatorConfig::default()).spec.unwrap();
            assert_eq!(pod.automount_service_account_token, Some(false));
            assert!(pod.share_process_namespace.is_none() && pod.host_network.is_none() && pod.host_pid.is_none());
            let runner = &pod.containers[0];
            let security = runner.security_context.clone().unwrap();
            assert_eq!(security.run_as_non_root, Some(true));
            assert_eq!(security.read_only_root_filesystem, Some(true));
            assert_eq!(security.allow_privilege_escalation, Some(false));
            assert_eq!(security.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
            let daemon = &pod.init_containers.unwrap()[0];
            let mounts = |container: &k8s_openapi::api::core::v1::Container| {
                container.volume_mounts.clone().unwrap().into_iter().map(|mount| mount.name).collect::<Vec<_>>()
            };
            let of_daemon = mounts(daemon);
            assert!(of_daemon.iter().all(|name| ["socket", "state", "daemon-config"].contains(&name.as_str())), "{of_daemon:?}");
        }
    }
}

#[test]
fn a_build_without_an_output_gets_a_claim_of_its_own_that_goes_with_it() {
    let plan = validated(HELLO);
    insta::assert_yaml_snapshot!(output_claim(&plan).unwrap(), @r#"
    apiVersion: v1
    kind: PersistentVolumeClaim
    metadata:
      labels:
        app.kubernetes.io/managed-by: ocibuild
        ocibuild.dev/build: app
      name: app-output
      namespace: team
      ownerReferences:
        - apiVersion: ocibuild.dev/v1alpha1
          controller: true
          kind: OciBuild
          name: app
          uid: build-uid
    spec:
      accessModes:
        - ReadWriteOnce
      resources:
        requests:
          storage: 10Gi
    "#);
    assert_eq!(output_claim(&validated(EVERYTHING)), None);
    assert_eq!(validated(CONFIG_MAP).output, OutputPlan::Nowhere);
}

#[test]
fn the_pod_of_an_attempt_has_one_name() {
    assert_eq!(pod_name("app", 7, Attempt::FIRST.next()), "app-g7-a2");
}

#[test]
fn what_the_api_server_cannot_see_is_refused_by_name() {
    for (spec, message) in [
        (HELLO.replace("context: .", "context: a/../../b"), "context: \"a/../../b\" is absolute or has '..' in it"),
        (
            format!("{HELLO}isolation: privileged"),
            "isolation: privileged is not allowed here; the operator's configuration allows rootless, userns",
        ),
        (format!("{HELLO}timeout: soon"), "timeout: \"soon\" is not a duration such as 30m or 1h30m"),
        (
            HELLO.replace("{ files: { Dockerfile: 'FROM scratch' } }", "{}"),
            "source: name exactly one of persistentVolumeClaim, git, http, configMap or files",
        ),
        (
            HELLO.replace("FROM scratch", &"x".repeat(300_000)),
            "source.files, buildArgs and labels are 300214 bytes together; at most 204800 fit. Put large files into a ConfigMap, a claim or a repository",
        ),
    ] {
        let refused: InvalidSpec = validate(&build(&spec), &OperatorConfig::default()).unwrap_err();
        assert_eq!(refused.to_string(), message);
    }
}
