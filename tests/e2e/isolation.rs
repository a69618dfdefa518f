//! Each isolation builds the same image, and `auto` picks one that the namespace admits.

use crate::cluster::{Namespace, kubectl};

fn build(name: &str, isolation: &str) -> String {
    format!(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: {name} }}
spec:
  source: {{ files: {{ Dockerfile: \"FROM busybox:1.37\\nRUN id -u > /user && ls /proc | wc -l\\nUSER 7:7\\nRUN id -u\\n\" }} }}
  context: .
  imageName: {name}
  {isolation}
"
    )
}

#[test]
fn every_isolation_runs_steps() {
    let namespace = Namespace::new("isolation");
    for isolation in ["rootless", "userns", "privileged"] {
        namespace.apply(&build(isolation, &format!("isolation: {isolation}")));
    }
    for isolation in ["rootless", "userns", "privileged"] {
        let status = namespace.succeeded(isolation);
        assert_eq!(status["pod"]["isolation"], isolation);
        assert_eq!(status["warnings"], serde_json::Value::Null, "{status}");
    }
}

#[test]
fn auto_takes_user_namespaces_where_the_nodes_report_them() {
    let namespace = Namespace::new("auto");
    namespace.apply(&build("auto", "isolation: auto"));
    let status = namespace.succeeded("auto");
    let handlers: serde_json::Value = serde_json::from_str(
        &kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].status.runtimeHandlers}"]).ok(),
    )
    .unwrap();
    let default = handlers
        .as_array()
        .unwrap()
        .iter()
        .find(|handler| handler["name"].as_str().unwrap_or_default().is_empty());
    let expected =
        if default.unwrap()["features"]["userNamespaces"] == true { "userns" } else { "rootless" };
    assert_eq!(status["pod"]["isolation"], expected);
}

#[test]
fn auto_builds_in_a_namespace_that_enforces_the_baseline_standard() {
    let namespace = Namespace::new("baseline");
    kubectl(&[
        "label",
        "namespace",
        &namespace.name,
        "pod-security.kubernetes.io/enforce=baseline",
    ])
    .ok();
    namespace.apply(&build("careful", ""));
    assert_eq!(namespace.succeeded("careful")["pod"]["isolation"], "rootless");
    namespace.apply(&build("bold", "isolation: userns"));
    let status = namespace.failed("bold", "AdmissionRefused");
    assert!(
        status["failure"]["message"].as_str().unwrap().contains("SYS_ADMIN"),
        "in the words of the policy: {status}"
    );
}
