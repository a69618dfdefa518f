//! From YAML as a user writes it to the pod that it becomes.

use serde_json::{Value, json};

use super::{
    Attempt, InvalidSpec, OperatorConfig, OutputPlan, Validated,
    claim::output_claim,
    daemon_config,
    pod::{PodIsolation, attempt_of, build_pod, pod_name},
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

/// A configuration that allows all that a build may ask for.
fn generous() -> OperatorConfig {
    serde_json::from_value(json!({
        "allowedOverrides": ["registries", "buildkitConfig", "proxy", "resources", "buildkitImage"],
        "caBundle": "-----BEGIN CERTIFICATE-----\n",
        "registries": { "docker.io": { "mirrors": ["old.example.com"] }, "old.example.com": { "http": true } },
    }))
    .unwrap()
}

fn validated(spec: &str) -> Validated {
    validate(&build(spec), &generous()).unwrap()
}

const HELLO: &str = "
source: { files: { Dockerfile: 'FROM scratch' } }
context: .
imageName: hello
";

const EVERYTHING: &str = r#"
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
buildArgsFile: ci/args.yml
labelsFile: ci/labels
targetFile: ci/target
additionalTargets: [test]
platforms: [linux/amd64, linux/arm64]
unpackRootfs: false
secrets: [{ id: token, secret: { name: tokens, key: npm } }, { id: file, file: ci/secret }]
ssh: [{ id: default, secret: { name: deploy, key: ssh-privatekey } }, { id: default, secret: { name: deploy, key: other } }]
imageArgs: { base_image: base/image.tar }
addHosts: { git.internal: 10.0.0.7 }
registryMirrors: { docker.io: [mirror.example.com] }
registries: { mirror.example.com: { ca: { name: authority } }, registry.example.com: { insecure: true } }
buildkitConfig: "[worker.oci]\n  max-parallelism = 4\n[registry.'docker.io']\n  http = false\n"
buildkitImage: mirror.example.com/buildkit:v1
proxy: { httpProxy: 'http://proxy:3128', noProxy: .svc }
noCache: true
sourceDateEpoch: 1700000000
attestations: { provenance: max, sbom: {} }
compression: zstd
compressionLevel: 3
annotations: { org.example.note: 'a, "b"' }
extraTags: [v1]
debug: true
pod:
  resources: { requests: { cpu: '1' }, limits: { memory: 4Gi } }
  nodeSelector: { disk: fast }
  tolerations: [{ key: builds, operator: Exists }]
  priorityClassName: low
  labels: { cost-centre: '42', app.kubernetes.io/managed-by: somebody }
  annotations: { example.com/note: hello }
"#;

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
    let hello = validate(&build(HELLO), &config).unwrap();
    insta::assert_yaml_snapshot!(
        "hello_rootless",
        build_pod(&hello, Attempt::FIRST, PodIsolation::Rootless, &config)
    );
    insta::assert_yaml_snapshot!(
        "everything_rootless",
        build_pod(&validated(EVERYTHING), Attempt::FIRST, PodIsolation::Rootless, &generous())
    );
}

#[test]
fn pods_of_userns_and_privileged_builds_differ_in_the_daemon_alone() {
    let config: OperatorConfig = serde_json::from_value(
        json!({ "registries": { "docker.io": { "mirrors": ["mirror.example.com"] } } }),
    )
    .unwrap();
    for isolation in [PodIsolation::Userns, PodIsolation::Privileged] {
        let plan = validate(&build(CONFIG_MAP), &config).unwrap();
        let pod = build_pod(&plan, Attempt::FIRST.next(), isolation, &config);
        insta::assert_yaml_snapshot!(format!("config_map_{}", isolation.as_str()), pod);
    }
}

#[test]
fn whatever_the_isolation_the_builds_own_container_is_restricted_and_no_container_has_a_token() {
    for spec in [HELLO, EVERYTHING, CONFIG_MAP] {
        for isolation in [PodIsolation::Rootless, PodIsolation::Userns, PodIsolation::Privileged] {
            let pod =
                build_pod(&validated(spec), Attempt::FIRST, isolation, &OperatorConfig::default())
                    .spec
                    .unwrap();
            assert_eq!(pod.automount_service_account_token, Some(false));
            assert!(
                pod.share_process_namespace.is_none()
                    && pod.host_network.is_none()
                    && pod.host_pid.is_none()
            );
            let runner = &pod.containers[0];
            let security = runner.security_context.clone().unwrap();
            assert_eq!(security.run_as_non_root, Some(true));
            assert_eq!(security.read_only_root_filesystem, Some(true));
            assert_eq!(security.allow_privilege_escalation, Some(false));
            assert_eq!(security.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
            let daemon = &pod.init_containers.unwrap()[0];
            let mounts = |container: &k8s_openapi::api::core::v1::Container| {
                container
                    .volume_mounts
                    .clone()
                    .unwrap()
                    .into_iter()
                    .map(|mount| mount.name)
                    .collect::<Vec<_>>()
            };
            let of_daemon = mounts(daemon);
            let is_known = |name: &str| {
                ["socket", "state", "daemon-config", "authorities"].contains(&name)
                    || name.starts_with("registry-authority-")
            };
            assert!(of_daemon.iter().all(|name| is_known(name)), "{of_daemon:?}");
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
    let second = Attempt::FIRST.next();
    assert_eq!(pod_name("app", 7, second), "app-g7-a2");
    assert_eq!(attempt_of("app-g7-a2", "app", 7), Some(second));
    for other in [
        "app-g8-a2",
        "app-g7-a02",
        "app-g7-a+2",
        "app-g7-a0",
        "app-g7-a",
        "application-g7-a2",
        "other-g7-a2",
    ] {
        assert_eq!(attempt_of(other, "app", 7), None, "{other}");
    }
}

#[test]
fn what_the_spec_says_of_registries_wins_over_the_operators_and_buildkit_config_over_both() {
    insta::assert_snapshot!(daemon_config(&validated(EVERYTHING)).unwrap(), @r#"
    [registry."docker.io"]
    http = false
    mirrors = ["mirror.example.com"]

    [registry."mirror.example.com"]
    ca = ["/etc/ocibuild-registries/0/value"]

    [registry."old.example.com"]
    http = true

    [registry."registry.example.com"]
    insecure = true

    [worker.oci]
    max-parallelism = 4
    "#);
    let plain = validate(&build(HELLO), &OperatorConfig::default()).unwrap();
    assert_eq!(daemon_config(&plain), None, "without registries there is no file");
}

#[test]
fn each_deadline_of_the_spec_wins_over_that_of_the_operator() {
    let config: OperatorConfig =
        serde_json::from_value(json!({ "waits": { "claim": "5s", "push": "20m", "queue": "6h" } }))
            .unwrap();
    let deadlines = |more: &str| {
        let plan = validate(&build(&format!("{HELLO}{more}")), &config).unwrap();
        json!([plan.waits, plan.instructions.deadlines])
    };
    assert_eq!(
        deadlines(""),
        json!([
            { "queue": "21600s", "claim": "5s", "schedule": "1800s", "start": "600s", "daemon": "30s", "push": "1200s" },
            { "daemon": 30, "push": 1200 },
        ])
    );
    assert_eq!(
        deadlines(
            "deadlines: { queue: 1s, claim: 2s, schedule: 3s, start: 4s, daemon: 5s, source: 6s, build: 7s, export: 8s, push: 1m }"
        ),
        json!([
            {
                "queue": "1s", "claim": "2s", "schedule": "3s", "start": "4s", "daemon": "5s", "source": "6s", "build": "7s",
                "export": "8s", "push": "60s",
            },
            { "daemon": 5, "source": 6, "build": 7, "export": 8, "push": 60 },
        ])
    );
    let refused =
        validate(&build(&format!("{HELLO}deadlines: {{ push: soon }}")), &config).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "deadlines.push: \"soon\" is not a duration such as 30m or 1h30m"
    );
}

#[test]
fn a_pod_is_given_the_time_of_all_its_parts() {
    let config = OperatorConfig::default();
    let seconds = |more: &str| {
        let plan = validate(&build(&format!("{HELLO}{more}")), &config).unwrap();
        build_pod(&plan, Attempt::FIRST, PodIsolation::Rootless, &config)
            .spec
            .unwrap()
            .active_deadline_seconds
    };
    assert_eq!(seconds("timeout: 10m"), Some(600 + 600 + 300));
    assert_eq!(
        seconds("timeout: 10m\ndeadlines: { start: 1m }\noutput: { download: { timeout: 5m } }"),
        Some(600 + 60 + 300 + 300)
    );
}

#[test]
fn what_the_administrator_does_not_allow_is_refused_by_name() {
    let config: OperatorConfig =
        serde_json::from_value(json!({ "allowedOverrides": ["proxy"] })).unwrap();
    for (more, field) in [
        ("registryMirrors: { docker.io: [a.example.com] }", "registryMirrors"),
        ("registries: { a.example.com: { http: true } }", "registries"),
        ("buildkitConfig: ''", "buildkitConfig"),
        ("pod: { resources: { limits: { cpu: 1 } } }", "pod.resources"),
        ("buildkitImage: a", "buildkitImage"),
    ] {
        let refused = validate(&build(&format!("{HELLO}{more}")), &config).unwrap_err().to_string();
        assert_eq!(
            refused,
            format!(
                "{field} is not allowed here; the operator's configuration (allowedOverrides) allows proxy"
            )
        );
    }
    validate(&build(&format!("{HELLO}proxy: {{ httpProxy: 'http://a' }}")), &config).unwrap();
}

#[test]
fn the_daemons_file_is_no_way_around_the_registries_that_the_administrator_set() {
    let config: OperatorConfig =
        serde_json::from_value(json!({ "allowedOverrides": ["buildkitConfig"] })).unwrap();
    let with = |text: &str| {
        validate(&build(&format!("{HELLO}buildkitConfig: {text}")), &config)
            .map_err(|error| error.to_string())
    };
    with(r#""[worker.oci]\nmax-parallelism = 4""#).unwrap();
    assert_eq!(
        with(r#""[registry.'docker.io']\nhttp = true""#).unwrap_err(),
        "registry in buildkitConfig is not allowed here; the operator's configuration (allowedOverrides) allows buildkitConfig"
    );
}

/// What a pod shows of the settings that hold for all builds.
fn settings(spec: &str, config: &OperatorConfig) -> Value {
    let plan = validate(&build(spec), config).unwrap();
    let pod = json!(build_pod(&plan, Attempt::FIRST, PodIsolation::Rootless, config));
    let daemon = &pod["spec"]["initContainers"][0];
    let runner = &pod["spec"]["containers"][0];
    let variables = |container: &Value| {
        let all = container["env"].as_array().into_iter().flatten();
        all.map(|variable| {
            (variable["name"].as_str().unwrap().to_owned(), variable["value"].clone())
        })
        .collect::<Value>()
    };
    assert_eq!(variables(daemon), variables(runner), "both reach the world in the same way");
    json!({
        "isolation": plan.isolation,
        "timeout": plan.timeout.as_secs(),
        "retries": plan.retries,
        "buildkitImage": daemon["image"],
        "resources": daemon["resources"],
        "environment": variables(daemon),
        "authorities": pod["metadata"]["annotations"]["ocibuild.dev/authorities"],
        "daemon": pod["metadata"]["annotations"]["ocibuild.dev/buildkitd.toml"],
        "nodeSelector": pod["spec"]["nodeSelector"],
        "priorityClassName": pod["spec"]["priorityClassName"],
    })
}

#[test]
fn what_the_administrator_sets_holds_where_the_build_says_nothing_and_only_there() {
    let config: OperatorConfig = serde_json::from_value(json!({
        "images": { "buildkitRootless": "registry.example.com/buildkit:rootless" },
        "defaults": {
            "isolation": "rootless", "timeout": "10m", "retries": 5,
            "resources": { "requests": { "cpu": "2" }, "limits": { "memory": "8Gi" } },
            "nodeSelector": { "pool": "builds" }, "priorityClassName": "low",
        },
        "registries": { "docker.io": { "mirrors": ["mirror.example.com"] } },
        "caBundle": "-----BEGIN CERTIFICATE-----\n",
        "proxy": { "httpProxy": "http://proxy:3128", "noProxy": ".svc" },
        "allowedOverrides": ["registries", "buildkitConfig", "proxy", "resources", "buildkitImage"],
    }))
    .unwrap();
    let says_otherwise = format!(
        "{HELLO}
isolation: userns
timeout: 1h
retries: 0
buildkitImage: registry.example.com/other:v1
registryMirrors: {{ docker.io: [other.example.com] }}
proxy: {{ httpsProxy: 'http://other:3128' }}
pod: {{ resources: {{ limits: {{ cpu: 1 }} }}, nodeSelector: {{ disk: fast }}, priorityClassName: high }}
"
    );
    insta::assert_yaml_snapshot!("the_administrators_settings", settings(HELLO, &config));
    insta::assert_yaml_snapshot!("the_builds_own_settings", settings(&says_otherwise, &config));
}

#[test]
fn what_the_api_server_cannot_see_is_refused_by_name() {
    for (spec, message) in [
        (
            HELLO.replace("context: .", "context: a/../../b"),
            "context: \"a/../../b\" is absolute or has '..' in it",
        ),
        (
            format!("{HELLO}isolation: privileged"),
            "isolation: privileged is not allowed here; the operator's configuration allows rootless, userns",
        ),
        (
            format!("{HELLO}addHosts: {{ a: '1::2::3' }}"),
            "addHosts: \"1::2::3\" of a is not an IPv4 or IPv6 address",
        ),
        (
            format!("{HELLO}buildArgs: {{ A: \"a\\0b\" }}"),
            "parameters.buildArgs.A: a NUL character is in it or beside it; no program can be given one",
        ),
        (
            format!("{HELLO}labels: {{ \"a\\0b\": c }}"),
            "parameters.labels: a NUL character is in it or beside it; no program can be given one",
        ),
        (
            format!("{HELLO}buildArgs: {{ A: {} }}", "é".repeat(65_536)),
            "buildArgs: \"A\" with its value is 131073 bytes; at most 122880 can be given to a program",
        ),
        (
            format!(
                "{HELLO}pod: {{ annotations: {{ container.apparmor.security.beta.kubernetes.io/buildkitd: unconfined }} }}"
            ),
            "pod.annotations: \"container.apparmor.security.beta.kubernetes.io/buildkitd\" is not for builds to set: it changes how the pod is confined, or is the operator's own",
        ),
        (
            format!("{HELLO}timeout: soon"),
            "timeout: \"soon\" is not a duration such as 30m or 1h30m",
        ),
        (
            format!("{HELLO}buildkitConfig: 'root = \"/\"'"),
            "buildkitConfig: root is set by the operator and cannot be set here",
        ),
        (
            format!("{HELLO}buildkitConfig: 'not toml'"),
            "buildkitConfig: TOML parse error at line 1, column 5\n  |\n1 | not toml\n  |     ^\nkey with no value, expected `=`",
        ),
        (
            format!("{HELLO}outputFormat: docker\nplatforms: [linux/amd64, linux/arm64]"),
            "outputFormat: a docker tar holds one platform and no attestations; write oci",
        ),
        (
            HELLO.replace("{ files: { Dockerfile: 'FROM scratch' } }", "{}"),
            "source: name exactly one of persistentVolumeClaim, git, http, configMap, files, image or upload",
        ),
        (
            HELLO.replace("FROM scratch", &"x".repeat(300_000)),
            "source.files, buildArgs, labels and the other fields are 300287 bytes together; at most 204800 fit. Put large files into a ConfigMap, a claim or a repository",
        ),
    ] {
        let refused: InvalidSpec = validate(&build(&spec), &OperatorConfig::default()).unwrap_err();
        assert_eq!(refused.to_string(), message);
    }
}

#[test]
fn the_pod_has_the_labels_by_which_kueue_queues_it_and_no_others_of_the_build() {
    let mut build = build(HELLO);
    let labels = [
        ("kueue.x-k8s.io/queue-name", "team-queue"),
        ("app.kubernetes.io/managed-by", "Helm"),
        ("team", "blue"),
    ];
    build.metadata.labels =
        Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let validated = validate(&build, &generous()).unwrap();
    let pod = build_pod(&validated, Attempt::FIRST, PodIsolation::Rootless, &generous());
    let labels = pod.metadata.labels.unwrap();
    assert_eq!(labels["kueue.x-k8s.io/queue-name"], "team-queue");
    assert_eq!(labels["app.kubernetes.io/managed-by"], "ocibuild");
    assert!(!labels.contains_key("team"));
}
