//! The Helm chart: what it renders, what it refuses.
#![cfg(feature = "cluster-tests")]

mod conform;
mod observing;
#[path = "../tools/mod.rs"]
mod tools;

use std::{collections::BTreeSet, process::Command};

use ocibuild::{
    api::{Isolation, OciBuild, OciBuildSpec, crd_yaml},
    plan::{OperatorConfig, layout, operator_config::Override, pod},
};
use serde_json::{Value, json};
use tools::tool;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/ocibuild");

/// Values that render every template in every of its shapes.
const SHAPES: &[&[&str]] = &[
    &[],
    &["replicas=1", "crds.install=false", "rbac.aggregateClusterRoles=false"],
    &["config.watchNamespaces={team-a,team-b}", "networkPolicy.builds.enabled=true"],
    &["networkPolicy.builds.enabled=true", "networkPolicy.builds.namespaces={team-a}"],
    &[
        "config.allowedIsolations={rootless}",
        "config.defaults.isolation=rootless",
        "config.rootlessProfiles=unconfined",
    ],
    &["metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.labels.release=prometheus"],
    &[
        "metrics.dashboard.enabled=true",
        "metrics.alerts.enabled=true",
        "metrics.alerts.labels.release=prometheus",
    ],
    &["tracing.otlpEndpoint=http://otel-collector.monitoring:4318", "tracing.sampleRatio=0.1"],
    &[
        "serviceAccount.create=false",
        "serviceAccount.name=builder",
        "rbac.create=false",
        "networkPolicy.enabled=false",
    ],
    &[
        "imagePullSecrets[0].name=pull",
        "config.images.pullSecrets[0].name=pull",
        "priorityClassName=high",
        "logLevel=debug",
    ],
    &[
        "nodeSelector.a=b",
        "tolerations[0].operator=Exists",
        "podLabels.team=a",
        "podAnnotations.a=b",
        "nameOverride=images",
    ],
];

fn helm(arguments: &[&str], values: &[&str]) -> Result<String, String> {
    let mut helm = Command::new(tool("helm"));
    // No cluster is asked, whatever the caller's kubeconfig says.
    helm.args(arguments).env("KUBECONFIG", "/dev/null");
    for value in values {
        helm.args(["--set", value]);
    }
    let output = helm.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn rendered_text(values: &[&str]) -> Result<String, String> {
    helm(&["template", "ocibuild", CHART, "--namespace", "ocibuild-system"], values)
}

fn rendered(values: &[&str]) -> Vec<Value> {
    let text = rendered_text(values).unwrap_or_else(|message| panic!("{values:?}: {message}"));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{values:?}: {error}"))
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found = of_kind(objects, kind);
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

fn configuration(objects: &[Value]) -> OperatorConfig {
    serde_saphyr::from_str(only(objects, "ConfigMap")["data"]["config.yaml"].as_str().unwrap())
        .unwrap()
}

#[test]
fn helm_finds_nothing_to_say() {
    for values in SHAPES {
        helm(&["lint", "--strict", CHART], values)
            .unwrap_or_else(|message| panic!("{values:?}: {message}"));
    }
}

#[test]
fn the_default_values_are_the_defaults_of_the_operator() {
    let version = env!("CARGO_PKG_VERSION");
    let chart: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(format!("{CHART}/Chart.yaml")).unwrap())
            .unwrap();
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(version), &json!(version)));
    assert_eq!(configuration(&rendered(&[])), OperatorConfig::default());
}

#[test]
fn values_reach_the_operator() {
    let configuration = configuration(&rendered(&[
        "image.repository=registry.example.com/ocibuild",
        "image.tag=v2",
        "config.defaults.resources.limits.cpu=2",
        "config.defaults.outputStorageClass=fast",
        r"config.registries.docker\.io.mirrors={mirror.example.com:5000}",
        "config.waits.start=90s",
        "config.queue.maxRunning=20",
        "config.waits.push=20m",
        "config.images.buildkitRootless=registry.example.com/buildkit:rootless",
        "config.defaults.isolation=userns",
        "config.caBundle=-----BEGIN CERTIFICATE-----",
        "config.proxy.httpsProxy=http://proxy:3128",
        r"config.proxy.noProxy=.svc\,10.0.0.0/8",
        "config.allowedOverrides={proxy}",
    ]));
    assert_eq!(configuration.images.runner, "registry.example.com/ocibuild:v2");
    assert_eq!(configuration.defaults.resources.limits["cpu"], "2");
    assert_eq!(configuration.defaults.output_storage_class.as_deref(), Some("fast"));
    assert_eq!(configuration.registries["docker.io"].mirrors, ["mirror.example.com:5000"]);
    assert_eq!(configuration.waits.start.0.as_secs(), 90);
    assert_eq!(
        (configuration.queue.max_running, configuration.queue.max_running_per_namespace),
        (Some(20), None)
    );
    assert_eq!(configuration.waits.push.unwrap().0.as_secs(), 1200);
    assert_eq!(configuration.waits.source, None);
    assert_eq!(configuration.images.buildkit_rootless, "registry.example.com/buildkit:rootless");
    assert_eq!(configuration.defaults.isolation, Isolation::Userns);
    assert_eq!(configuration.ca_bundle, "-----BEGIN CERTIFICATE-----");
    assert_eq!(configuration.proxy.https_proxy.as_deref(), Some("http://proxy:3128"));
    assert_eq!(configuration.proxy.no_proxy.as_deref(), Some(".svc,10.0.0.0/8"));
    assert_eq!(configuration.allowed_overrides, [Override::Proxy]);
    configuration.check().unwrap();
}

#[test]
fn a_change_of_the_configuration_rolls_the_pods() {
    let checksum = |values: &[&str]| {
        only(&rendered(values), "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone()
    };
    assert_eq!(checksum(&[]), checksum(&["replicas=1"]));
    assert_ne!(checksum(&[]), checksum(&["config.concurrency=2"]));
}

#[test]
fn bad_values_are_refused_in_these_words() {
    for (value, words) in [
        ("replcas=1", "at '': additional properties 'replcas' not allowed"),
        ("replicas=two", "at '/replicas': got string, want integer"),
        ("config.waits.clam=5s", "at '/config/waits': additional properties 'clam' not allowed"),
        ("config.waits.queue=soon", "at '/config/waits/queue': 'soon' does not match pattern"),
        (
            "config.defaults.timeout=1d",
            "at '/config/defaults/timeout': '1d' does not match pattern",
        ),
        (
            "config.defaults.resources.limits.memory=4 GB",
            "at '/config/defaults/resources/limits/memory': '4 GB' does not match",
        ),
        (
            "config.allowedIsolations={docker}",
            "at '/config/allowedIsolations/0': value must be one of 'rootless', 'userns', 'privileged'",
        ),
        ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
        (
            "config.defaults.isolation=privileged",
            "config.defaults.isolation is privileged, but config.allowedIsolations has only rootless, userns",
        ),
        (
            "networkPolicy.builds.enabled=true",
            "Name them in networkPolicy.builds.namespaces or config.watchNamespaces.",
        ),
        (
            "tracing.otlpEndpoint=otel-collector:4318",
            "at '/tracing/otlpEndpoint': 'otel-collector:4318' does not match pattern",
        ),
        ("tracing.sampleRatio=half", "at '/tracing/sampleRatio': 'half' does not match pattern"),
        ("tracing.sampleRatio=2", "at '/tracing/sampleRatio': maximum: got 2, want 1"),
        (
            "metrics.service.enabled=false,metrics.serviceMonitor.enabled=true",
            "needs metrics.service.enabled",
        ),
    ] {
        let message = rendered_text(&[value]).expect_err(value);
        assert!(message.contains(words), "{value}: {message}");
    }
}

/// The whole of what the operator may do. A change here is a change of the security model.
#[test]
fn the_operator_may_do_this_and_no_more() {
    insta::assert_snapshot!(rights(&rendered(&[])), @r"
    ClusterRole ocibuild-builds: ocibuild.dev/ocibuilds get,list,watch,delete
    ClusterRole ocibuild-builds: ocibuild.dev/ocibuilds/status patch
    ClusterRole ocibuild-builds: /pods get,list,watch,create,delete
    ClusterRole ocibuild-builds: /persistentvolumeclaims get,create
    ClusterRole ocibuild-builds: events.k8s.io/events create,patch
    ClusterRole ocibuild-nodes: /nodes list
    Role ocibuild-system/ocibuild-leader-election: coordination.k8s.io/leases get,patch ocibuild-controller
    Role ocibuild-system/ocibuild-leader-election: coordination.k8s.io/leases create
    ");
}

#[test]
fn with_a_queue_it_may_read_priority_classes_too() {
    let rights = |values: &[&str]| rights(&rendered(values));
    let of_queue = "ClusterRole ocibuild-priorities: scheduling.k8s.io/priorityclasses list";
    assert!(rights(&["config.queue.maxRunningPerNamespace=2"]).contains(of_queue));
    assert!(!rights(&[]).contains("priorityclasses"));
}

#[test]
fn with_namespaces_named_it_may_do_it_there_alone() {
    let objects = rendered(&[
        "config.watchNamespaces={team-a,team-b}",
        "config.allowedIsolations={rootless}",
    ]);
    insta::assert_snapshot!(rights(&objects), @r"
    Role team-a/ocibuild-builds: ocibuild.dev/ocibuilds get,list,watch,delete
    Role team-a/ocibuild-builds: ocibuild.dev/ocibuilds/status patch
    Role team-a/ocibuild-builds: /pods get,list,watch,create,delete
    Role team-a/ocibuild-builds: /persistentvolumeclaims get,create
    Role team-a/ocibuild-builds: events.k8s.io/events create,patch
    Role team-b/ocibuild-builds: ocibuild.dev/ocibuilds get,list,watch,delete
    Role team-b/ocibuild-builds: ocibuild.dev/ocibuilds/status patch
    Role team-b/ocibuild-builds: /pods get,list,watch,create,delete
    Role team-b/ocibuild-builds: /persistentvolumeclaims get,create
    Role team-b/ocibuild-builds: events.k8s.io/events create,patch
    Role ocibuild-system/ocibuild-leader-election: coordination.k8s.io/leases get,patch ocibuild-controller
    Role ocibuild-system/ocibuild-leader-election: coordination.k8s.io/leases create
    ");
}

/// The rules that are bound to the operator's service account, one line each.
fn rights(objects: &[Value]) -> String {
    let account = only(objects, "ServiceAccount")["metadata"]["name"].as_str().unwrap();
    let mut lines = Vec::new();
    for binding in
        objects.iter().filter(|object| object["kind"].as_str().unwrap().ends_with("RoleBinding"))
    {
        assert_eq!(
            binding["subjects"],
            json!([{ "kind": "ServiceAccount", "name": account, "namespace": "ocibuild-system" }])
        );
        let role = objects
            .iter()
            .find(|object| {
                object["kind"] == binding["roleRef"]["kind"]
                    && object["metadata"]["name"] == binding["roleRef"]["name"]
                    && object["metadata"]["namespace"] == binding["metadata"]["namespace"]
            })
            .unwrap_or_else(|| panic!("nothing to bind: {binding}"));
        let namespace = role["metadata"]["namespace"]
            .as_str()
            .map(|namespace| format!("{namespace}/"))
            .unwrap_or_default();
        for rule in role["rules"].as_array().unwrap() {
            let list = |field: &str| {
                let texts =
                    rule[field].as_array().into_iter().flatten().map(|text| text.as_str().unwrap());
                texts.collect::<Vec<_>>().join(",")
            };
            let line = format!(
                "{} {namespace}{}: {}/{} {} {}",
                role["kind"].as_str().unwrap(),
                role["metadata"]["name"].as_str().unwrap(),
                list("apiGroups"),
                list("resources"),
                list("verbs"),
                list("resourceNames")
            );
            lines.push(line.trim_end().to_owned());
        }
    }
    lines.join("\n")
}

#[test]
fn no_role_of_the_chart_reaches_secrets_or_into_pods() {
    for values in SHAPES {
        let of_pipelines =
            |role: &Value| role["metadata"]["name"].as_str().unwrap().ends_with("-pipeline");
        for role in rendered(values)
            .iter()
            .filter(|object| object["rules"].is_array() && !of_pipelines(object))
        {
            for rule in role["rules"].as_array().unwrap() {
                let names: BTreeSet<_> = ["apiGroups", "resources", "verbs"]
                    .iter()
                    .flat_map(|field| rule[field].as_array().unwrap())
                    .map(|name| name.as_str().unwrap())
                    .collect();
                for never in [
                    "secrets",
                    "configmaps",
                    "pods/exec",
                    "pods/log",
                    "pods/portforward",
                    "*",
                    "impersonate",
                    "escalate",
                ] {
                    assert!(!names.contains(never), "{values:?}: {role}");
                }
            }
        }
    }
}

/// A pipeline may make Secrets and read none, and comes to pods by port-forward alone. Nobody has the role until it is bound.
#[test]
fn a_pipeline_may_build_and_no_more() {
    let objects = rendered(&[]);
    let roles: Vec<_> =
        objects.iter().filter(|object| object["metadata"]["name"] == "ocibuild-pipeline").collect();
    let [role] = roles.as_slice() else { panic!("one role: {roles:?}") };
    let rules: Vec<_> = role["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| (&rule["resources"][0], &rule["verbs"]))
        .collect();
    assert_eq!(
        json!(rules),
        json!([
            ["ocibuilds", ["create", "delete", "get", "list", "patch", "watch"]],
            ["secrets", ["create"]],
            ["pods", ["get"]],
            ["pods/log", ["get"]],
            ["pods/portforward", ["create", "get"]],
        ])
    );
    assert!(
        rendered(&["rbac.pipelineClusterRole=false"])
            .iter()
            .all(|object| object["metadata"]["name"] != "ocibuild-pipeline")
    );
}

/// The Pod Security standard *restricted*, which the API server would enforce.
#[test]
fn the_operator_runs_restricted() {
    for values in SHAPES {
        let objects = rendered(values);
        let spec = &only(&objects, "Deployment")["spec"]["template"]["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(spec["securityContext"]["runAsUser"], 65532);
        assert_eq!(spec["securityContext"]["seccompProfile"], json!({ "type": "RuntimeDefault" }));
        for host in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(spec[host].is_null());
        }
        for volume in spec["volumes"].as_array().unwrap() {
            assert!(volume["configMap"].is_object(), "{volume}");
        }
        for container in spec["containers"].as_array().unwrap() {
            let expected = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            });
            assert_eq!(container["securityContext"], expected);
            assert!(
                container["ports"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|port| port["hostPort"].is_null())
            );
        }
    }
}

#[test]
fn selectors_find_the_pods_of_the_operator() {
    let objects = rendered(&[
        "metrics.serviceMonitor.enabled=true",
        "networkPolicy.builds.enabled=true",
        "config.watchNamespaces={a}",
    ]);
    let pods = only(&objects, "Deployment")["spec"]["template"]["metadata"]["labels"].clone();
    let service = only(&objects, "Service");
    let build_policy = of_kind(&objects, "NetworkPolicy")
        .into_iter()
        .find(|policy| policy["metadata"]["namespace"] == "a")
        .unwrap();
    let own_policy = of_kind(&objects, "NetworkPolicy")
        .into_iter()
        .find(|policy| policy["metadata"]["namespace"] != "a")
        .unwrap();
    for (what, selector, labels) in [
        ("Deployment", &only(&objects, "Deployment")["spec"]["selector"]["matchLabels"], &pods),
        (
            "PodDisruptionBudget",
            &only(&objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            &pods,
        ),
        ("Service", &service["spec"]["selector"], &pods),
        ("NetworkPolicy", &own_policy["spec"]["podSelector"]["matchLabels"], &pods),
        (
            "ServiceMonitor",
            &only(&objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"],
            &service["metadata"]["labels"],
        ),
        (
            "NetworkPolicy of builds",
            &build_policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"],
            &pods,
        ),
    ] {
        let selector = selector.as_object().unwrap();
        assert!(!selector.is_empty(), "{what}");
        for (name, value) in selector {
            assert_eq!(&labels[name], value, "{what}: {name}");
        }
    }
    assert_eq!(
        build_policy["spec"]["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
        "ocibuild-system"
    );
}

#[test]
fn policies_name_the_pods_of_builds_and_the_port_of_their_progress() {
    let objects = rendered(&["networkPolicy.builds.enabled=true", "config.watchNamespaces={a}"]);
    let builds = json!({ "matchLabels": { pod::MANAGED_BY_LABEL: pod::MANAGED_BY } });
    let port = json!([{ "port": layout::PROGRESS_PORT, "protocol": "TCP" }]);
    for policy in of_kind(&objects, "NetworkPolicy") {
        if policy["metadata"]["namespace"] == "a" {
            assert_eq!(policy["spec"]["podSelector"], builds);
            assert_eq!(policy["spec"]["ingress"][0]["ports"], port);
        } else {
            let egress = policy["spec"]["egress"].as_array().unwrap().last().unwrap();
            assert_eq!(egress["to"][0]["podSelector"], builds);
            assert_eq!(egress["ports"], port);
        }
    }
}

#[test]
fn a_single_replica_has_no_disruption_budget_that_would_block_drains() {
    assert_eq!(of_kind(&rendered(&["replicas=2"]), "PodDisruptionBudget").len(), 1);
    assert_eq!(of_kind(&rendered(&["replicas=1"]), "PodDisruptionBudget").len(), 0);
}

#[test]
fn the_definition_is_installed_as_it_is_and_kept_on_uninstall() {
    let objects = rendered(&[]);
    let installed = only(&objects, "CustomResourceDefinition");
    let definition: Value = serde_saphyr::from_str(&crd_yaml()).unwrap();
    assert!(
        installed["spec"] == definition["spec"],
        "the chart's definition has drifted: BLESS=1 cargo test --test crd"
    );
    assert_eq!(installed["metadata"]["name"], definition["metadata"]["name"]);
    assert_eq!(installed["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(of_kind(&rendered(&["crds.install=false"]), "CustomResourceDefinition").len(), 0);
}

#[test]
fn the_notes_hold_a_build_that_can_be_pasted() {
    let notes = helm(&["install", "ocibuild", CHART, "--dry-run=client"], &[]).unwrap();
    let (_, notes) = notes.split_once("NOTES:").expect("helm prints the notes");
    let (_, pasted) = notes.split_once("<<'END'\n").expect("the notes paste a manifest");
    let (manifest, _) =
        pasted.split_once("\nEND\n").expect("the shell sees the end of the manifest");
    let build: OciBuild = serde_saphyr::from_str(manifest).unwrap();
    OciBuildSpec::validate_cel(&json!(build.spec), None).unwrap();
}
