//! Pods that are refused, that do not come up, and that are taken away.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{apply, case, check};
use crate::cluster::{Namespace, kubectl, run};

/// What the policy of the tests says.
const POLICY: &str = "builds of this namespace name their cost centre";
const STEP: &str = "FROM busybox:1.37\nRUN true\n";

/// Applies an object of the whole cluster, which goes when this does.
struct ClusterObjects(Vec<String>);

impl ClusterObjects {
    fn apply(objects: &[Value]) -> Self {
        let name = |object: &Value| {
            format!(
                "{}/{}",
                object["kind"].as_str().unwrap(),
                object["metadata"]["name"].as_str().unwrap()
            )
            .to_lowercase()
        };
        let applied = Self(objects.iter().map(name).collect());
        for object in objects {
            run(
                &crate::cluster::kubectl_binary(),
                &["apply", "-f", "-"],
                object.to_string().as_bytes(),
            )
            .ok();
        }
        applied
    }
}

impl Drop for ClusterObjects {
    fn drop(&mut self) {
        for object in &self.0 {
            kubectl(&["delete", object, "--ignore-not-found", "--wait=false"]);
        }
    }
}

#[test]
fn a_pod_that_does_not_come_up_has_a_name() {
    let namespace = Namespace::new("no-pod");
    let volume = format!("{}-nowhere", namespace.name);
    let claim = |name: &str, class: &str, volume: Option<&str>| {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name, "namespace": namespace.name },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": volume,
                "resources": { "requests": { "storage": "1Mi" } },
            },
        })
    };
    let class = format!("{}-nobody", namespace.name);
    let _objects = ClusterObjects::apply(&[
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": class },
            "provisioner": "ocibuild.dev/nobody", "volumeBindingMode": "Immediate",
        }),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": volume },
            "spec": {
                "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
                "hostPath": { "path": "/no/such/folder", "type": "Directory" },
            },
        }),
        claim("unbound", &class, None),
        claim("nowhere", "", Some(&volume)),
    ]);
    let output = |claim: &str| json!({ "persistentVolumeClaim": { "claimName": claim } });
    let pod = |resource: &str, quantity: &str| json!({ "resources": { "requests": { resource: quantity } } });
    for (name, more) in [
        (
            "no-node",
            json!({ "pod": { "nodeSelector": { "ocibuild.dev/no": "such-node" } }, "deadlines": { "schedule": "3s" } }),
        ),
        ("too-large", json!({ "pod": pod("memory", "100Ti"), "deadlines": { "schedule": "3s" } })),
        ("unbound", json!({ "output": output("unbound"), "deadlines": { "schedule": "3s" } })),
        ("nowhere", json!({ "output": output("nowhere"), "deadlines": { "start": "5s" } })),
        (
            "no-image",
            json!({ "buildkitImage": "no-such-host.invalid/buildkit:v1", "deadlines": { "start": "15s" } }),
        ),
        ("bad-image", json!({ "buildkitImage": "No/Image:v1" })),
    ] {
        apply(&namespace, name, STEP, &more);
    }
    check(
        &namespace,
        &[
            case(
                "no-node",
                "Unschedulable",
                &["node affinity/selector", "3s (deadlines.schedule)"],
            ),
            case("too-large", "Unschedulable", &["Insufficient memory"]),
            case("unbound", "ClaimUnbound", &["unbound immediate PersistentVolumeClaims"]),
            case("nowhere", "Timeout", &["5s (deadlines.start)", "volumes and images"]),
            case(
                "no-image",
                "BuilderImagePull",
                &["container buildkitd", "no-such-host.invalid", "deadlines.start"],
            ),
            case("bad-image", "BuilderImagePull", &["InvalidImageName", "No/Image:v1"]),
        ],
    );
}

#[test]
fn a_daemon_that_does_not_start_has_a_name() {
    let namespace = Namespace::new("no-daemon");
    let hangs = "FROM busybox:1.37\nRUN printf '#!/bin/sh\\\\nexec sleep 3600\\\\n' >/bin/rootlesskit && chmod 755 /bin/rootlesskit\nCMD true\n";
    let image = format!("hangs-{}", namespace.name);
    apply(
        &namespace,
        "hangs",
        hangs,
        &json!({ "imageName": image, "output": { "claimTemplate": {} } }),
    );
    namespace
        .run_image(&namespace.fetch_tar(&namespace.succeeded("hangs")), &format!("{image}:latest"));
    let deadlines = json!({ "daemon": "5s", "start": "20s" });
    let with_image = |image: &str| json!({ "isolation": "rootless", "buildkitImage": image, "deadlines": deadlines });
    apply(&namespace, "hanging", STEP, &with_image(&format!("docker.io/library/{image}:latest")));
    apply(&namespace, "crashing", STEP, &with_image("docker.io/library/busybox:1.37"));
    let no_worker = "[worker.oci]\n  enabled = false\n[worker.containerd]\n  enabled = false\n";
    apply(
        &namespace,
        "workless",
        STEP,
        &json!({ "buildkitConfig": no_worker, "deadlines": deadlines }),
    );
    check(
        &namespace,
        &[
            case("hanging", "DaemonDied", &["did not listen", "within 5s (deadlines.daemon)"]),
            case("crashing", "DaemonDied", &["rootlesskit: not found"]),
            case("workless", "DaemonDied", &["no worker found"]),
        ],
    );
}

#[test]
fn who_refuses_a_pod_is_quoted() {
    let namespace = Namespace::new("refused");
    let policy = namespace.name.clone();
    let _objects = ClusterObjects::apply(&[
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": { "name": policy },
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": { "resourceRules": [
                    { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] },
                ] },
                "validations": [{ "expression": "'cost-centre' in object.metadata.labels", "message": POLICY }],
            },
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": { "name": policy },
            "spec": {
                "policyName": policy, "validationActions": ["Deny"],
                "matchResources": { "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace.name } } },
            },
        }),
    ]);
    // A policy counts some time after it was made.
    let deadline = Instant::now() + Duration::from_mins(1);
    while namespace
        .kubectl(&["run", "trial", "--image=busybox:1.37", "--labels=a=b", "--dry-run=server"])
        .is_success
    {
        assert!(Instant::now() < deadline, "the policy does not count after a minute");
        std::thread::sleep(Duration::from_millis(200));
    }
    apply(&namespace, "no-centre", STEP, &json!({}));
    check(&namespace, &[case("no-centre", "AdmissionRefused", &[POLICY, "no-centre-g1-a1"])]);

    namespace.apply(
        &json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "small" },
            "spec": { "hard": { "requests.memory": "1Mi", "requests.storage": "5Gi" } },
        })
        .to_string(),
    );
    let labelled = json!({ "labels": { "cost-centre": "42" } });
    let deadlines = json!({ "queue": "20s" });
    let push_only = json!({ "none": {} });
    for (name, more) in [
        (
            "no-memory",
            json!({ "output": push_only, "push": true, "registry": "registry.example.com" }),
        ),
        ("no-storage", json!({ "output": { "claimTemplate": { "storage": "6Gi" } } })),
    ] {
        let mut more = more;
        more["pod"] = labelled.clone();
        more["deadlines"] = deadlines.clone();
        apply(&namespace, name, STEP, &more);
    }
    // A quota may get room: its words stand in the condition as long as the build waits.
    for (name, resource) in [("no-memory", "requests.memory"), ("no-storage", "requests.storage")] {
        let queued =
            "--for=jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}=QuotaExceeded";
        namespace.kubectl(&["wait", queued, &format!("ocib/{name}"), "--timeout=30s"]).ok();
        let conditions = namespace.get(&format!("ocib/{name}"))["status"]["conditions"].to_string();
        assert!(
            conditions.contains("exceeded quota: small") && conditions.contains(resource),
            "{conditions}"
        );
    }
    check(
        &namespace,
        &[
            case("no-memory", "Timeout", &["20s", "deadlines.queue"]),
            case("no-storage", "Timeout", &["20s", "deadlines.queue"]),
        ],
    );
}

#[test]
fn a_build_that_needs_more_than_it_may_have_has_a_name() {
    let namespace = Namespace::new("limits");
    let limits = |resource: &str, limit: &str| {
        json!({ "pod": { "resources": {
            "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { resource: limit },
        } } })
    };
    apply(
        &namespace,
        "hungry",
        "FROM busybox:1.37\nRUN tail /dev/zero\n",
        &limits("memory", "192Mi"),
    );
    let fills = "FROM busybox:1.37\nRUN dd if=/dev/urandom of=/big bs=1M count=200 && sleep 120\n";
    apply(&namespace, "full", fills, &limits("ephemeral-storage", "64Mi"));
    check(
        &namespace,
        &[
            case("hungry", "OutOfMemory", &["memory limit"]),
            case("full", "StorageFull", &["ephemeral", "64Mi"]),
        ],
    );
}

fn is_running(namespace: &Namespace, name: &str) {
    let running = namespace.kubectl(&[
        "wait",
        "--for=jsonpath={.status.phase}=Running",
        &format!("ocib/{name}"),
        "--timeout=120s",
    ]);
    assert!(running.is_success, "{}\n{}", running.stderr, namespace.story(name));
}

/// By the API that `kubectl drain` uses, and by the scheduler for a pod of a higher priority. The only seat of the node is one
/// of the test's own, so that nobody else has to go.
#[test]
fn a_build_that_has_to_make_room_has_a_name() {
    let namespace = Namespace::new("room");
    let seat = format!("ocibuild.dev/seat-{}", namespace.name);
    let node = kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    let capacity = |operation: &str| {
        let path = format!("/status/capacity/{}", seat.replace('/', "~1"));
        let patch = json!([{ "op": operation, "path": path, "value": "1" }]).to_string();
        kubectl(&["patch", "node", &node, "--subresource=status", "--type=json", "-p", &patch])
            .ok();
    };
    capacity("add");
    let class = |name: &str, value: i32| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": { "name": format!("{}-{name}", namespace.name) }, "value": value,
        })
    };
    let _objects = ClusterObjects::apply(&[class("low", -20), class("high", -10)]);
    let sleeps = "FROM busybox:1.37\nRUN sleep 600\n";
    apply(&namespace, "drained", sleeps, &json!({}));
    let resources = json!({ "requests": { &seat: "1" }, "limits": { &seat: "1" } });
    let pod =
        json!({ "priorityClassName": format!("{}-low", namespace.name), "resources": resources });
    apply(&namespace, "preempted", sleeps, &json!({ "pod": pod }));

    is_running(&namespace, "drained");
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "drained-g1-a1", "namespace": namespace.name },
    });
    let path = format!("/api/v1/namespaces/{}/pods/drained-g1-a1/eviction", namespace.name);
    run(
        &crate::cluster::kubectl_binary(),
        &["create", "--raw", &path, "-f", "-"],
        eviction.to_string().as_bytes(),
    )
    .ok();

    is_running(&namespace, "preempted");
    namespace.apply(
        &json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "important" },
            "spec": {
                "priorityClassName": format!("{}-high", namespace.name), "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "a", "image": "busybox:1.37", "command": ["sleep", "600"], "resources": resources }],
            },
        })
        .to_string(),
    );
    check(
        &namespace,
        &[
            case("drained", "Evicted", &["Eviction API"]),
            case("preempted", "Preempted", &["preempt"]),
        ],
    );
    capacity("remove");
}

/// A container that ends without a result: here that of a pod that somebody has made in the place of the second attempt's.
#[test]
fn a_pod_without_a_result_is_told_as_it_ended() {
    let namespace = Namespace::new("no-result");
    apply(&namespace, "odd", "FROM busybox:1.37\nRUN sleep 600\n", &json!({ "retries": 1 }));
    is_running(&namespace, "odd");
    let uid = namespace.get("ocib/odd")["metadata"]["uid"].clone();
    let owner = json!({ "apiVersion": "ocibuild.dev/v1alpha1", "kind": "OciBuild", "name": "odd", "uid": uid, "controller": true });
    namespace.apply(
        &json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "odd-g1-a2", "ownerReferences": [owner],
                "labels": { "app.kubernetes.io/managed-by": "ocibuild", "ocibuild.dev/build": "odd" },
            },
            "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "build", "image": "busybox:1.37",
                    "command": ["sh", "-c", "echo these are no results > /dev/termination-log; exit 3"],
                }],
            },
        })
        .to_string(),
    );
    namespace.kubectl(&["delete", "pod", "odd-g1-a1", "--wait=false"]).ok();
    check(&namespace, &[case("odd", "Internal", &["exit code 3", "these are no results"])]);
}

#[test]
fn an_output_that_cannot_take_the_files_has_a_name() {
    let namespace = Namespace::new("outputs");
    namespace.claim("images");
    namespace.pod_on_claim("shell", "images");
    namespace.shell(
        "shell",
        "cd /claim && ln -s / out && ln -s /no/where dangling && echo mine > file && mkdir -m 555 closed taken && chmod 777 taken \
         && mkdir taken/image && echo mine > taken/image/photo",
    );
    for name in ["out", "dangling", "file", "closed"] {
        let output = json!({ "persistentVolumeClaim": { "claimName": "images", "path": format!("{name}/app") } });
        apply(&namespace, name, STEP, &json!({ "output": output }));
    }
    let output = json!({ "persistentVolumeClaim": { "claimName": "images", "path": "taken" } });
    apply(&namespace, "taken", STEP, &json!({ "output": output, "outputFormat": "oci" }));
    check(
        &namespace,
        &[
            case("out", "OutputInvalid", &["out/app", "leads out of the volume"]),
            case("dangling", "OutputInvalid", &["dangling/app"]),
            case("file", "OutputInvalid", &["file/app", "Not a directory"]),
            case("closed", "OutputInvalid", &["closed/app", "Permission denied"]),
            case("taken", "OutputInvalid", &["image", "which no build has made"]),
        ],
    );
    assert_eq!(
        namespace.shell("shell", "cat /claim/file /claim/taken/image/photo"),
        "mine\nmine\n"
    );
}
