//! The Concourse task, as Concourse runs it, on a real cluster.

mod contexts;
mod ends;
pub mod folder;
mod pipeline;
pub mod proxy;
mod scenarios;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::cluster::Namespace;

/// A service account with the rights of docs/concourse.md, as the parameters of a task.
fn service_account(namespace: &Namespace) -> [(&'static str, String); 3] {
    let account = format!("{}:pipeline", namespace.name);
    namespace.kubectl(&["create", "serviceaccount", "pipeline"]).ok();
    let binding = [
        "create",
        "rolebinding",
        "pipeline",
        "--clusterrole",
        "ocibuild-pipeline",
        "--serviceaccount",
        &account,
    ];
    namespace.kubectl(&binding).ok();
    let cluster = |field: &str| {
        let path = format!("jsonpath={{.clusters[0].cluster.{field}}}");
        namespace.kubectl(&["config", "view", "--raw", "--flatten", "-o", &path]).ok()
    };
    let authority = STANDARD.decode(cluster("certificate-authority-data")).unwrap();
    let token = namespace.kubectl(&["create", "token", "pipeline"]).ok();
    [
        ("KUBE_SERVER", cluster("server")),
        ("KUBE_TOKEN", token),
        ("KUBE_CA", String::from_utf8(authority).unwrap()),
    ]
}
