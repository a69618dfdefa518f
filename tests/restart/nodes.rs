//! A node that goes away. It is one that has no kubelet: to Kubernetes a node that has died looks the same, and no other pod has to go.

use serde_json::{Value, json};

use crate::cluster::{Namespace, kubectl, kubectl_binary, run};

/// A node that takes pods of one namespace's builds and never starts them.
struct Ghost {
    name: String,
}

impl Ghost {
    fn appears(namespace: &Namespace) -> Self {
        let name = format!("ghost-{}", namespace.name);
        let taint = json!({ "key": "ocibuild.dev/ghost", "effect": "NoSchedule" });
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "labels": { "ocibuild.dev/ghost": namespace.name } },
            "spec": { "taints": [taint] },
        });
        let ghost = Self { name };
        run(&kubectl_binary(), &["create", "-f", "-"], node.to_string().as_bytes()).ok();
        let room =
            json!({ "cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi" });
        let ready =
            json!({ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "" });
        let status =
            json!({ "status": { "capacity": room, "allocatable": room, "conditions": [ready] } });
        kubectl(&[
            "patch",
            "node",
            &ghost.name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status.to_string(),
        ])
        .ok();
        ghost
    }

    fn dies(&self) {
        kubectl(&["taint", "node", &self.name, "ocibuild.dev/gone=yes:NoExecute"]).ok();
    }
}

impl Drop for Ghost {
    fn drop(&mut self) {
        kubectl(&["delete", "node", &self.name, "--ignore-not-found"]);
    }
}

fn apply(namespace: &Namespace, name: &str, more: &Value) {
    let mut build = json!({
        "apiVersion": "ocibuild.dev/v1alpha1", "kind": "OciBuild", "metadata": { "name": name },
        "spec": {
            "source": { "files": { "Dockerfile": "FROM scratch" } }, "context": ".", "imageName": name,
            "push": true, "registry": "registry.example.com", "output": { "none": {} },
            "isolation": "rootless", "retries": 0,
        },
    });
    build["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    namespace.apply(&build.to_string());
}

#[test]
fn a_build_whose_node_goes_away_says_so_and_a_taint_keeps_others_off() {
    let namespace = Namespace::new("node-lost");
    let ghost = Ghost::appears(&namespace);
    let selector = json!({ "ocibuild.dev/ghost": namespace.name });
    let tolerations = json!([{ "key": "ocibuild.dev/ghost", "operator": "Exists" }]);
    apply(
        &namespace,
        "lost",
        &json!({ "pod": { "nodeSelector": selector, "tolerations": tolerations } }),
    );
    apply(
        &namespace,
        "kept-off",
        &json!({ "pod": { "nodeSelector": selector }, "deadlines": { "schedule": "5s" } }),
    );
    let bound = format!("--for=jsonpath={{.spec.nodeName}}={}", ghost.name);
    namespace.kubectl(&["wait", "--for=create", "pod/lost-g1-a1", "--timeout=60s"]).ok();
    let waited = namespace.kubectl(&["wait", &bound, "pod/lost-g1-a1", "--timeout=60s"]);
    assert!(waited.is_success, "{}\n{}", waited.stderr, namespace.story("lost"));
    ghost.dies();
    for (name, reason, words) in
        [("lost", "NodeLost", "taint"), ("kept-off", "Unschedulable", "untolerated taint")]
    {
        let failure = namespace.failed(name, reason)["failure"].clone();
        assert!(failure["message"].as_str().unwrap().contains(words), "{failure}");
    }
}
