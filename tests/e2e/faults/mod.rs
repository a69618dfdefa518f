//! What goes wrong on the way, done for real: registries, nodes, volumes, quotas and policies that fail a build, and the name
//! that the failure gets.

mod pods;
mod registries;
mod registry;
mod sources;

use serde_json::{Value, json};

use crate::cluster::{Namespace, pretty};

/// A build that is expected to fail.
struct Case {
    name: &'static str,
    reason: &'static str,
    /// All of them are in the message.
    words: &'static [&'static str],
}

const fn case(name: &'static str, reason: &'static str, words: &'static [&'static str]) -> Case {
    Case { name, reason, words }
}

/// Applies a build of a Dockerfile; `more` is laid over its spec. It is tried once, asks for little and makes no claim, so that
/// many run at a time.
fn apply(namespace: &Namespace, name: &str, dockerfile: &str, more: &Value) {
    let mut spec = json!({
        "source": { "files": { "Dockerfile": dockerfile } },
        "context": ".",
        "imageName": name,
        "retries": 0,
        "output": { "download": {} },
        "pod": { "resources": { "requests": { "cpu": "10m", "memory": "32Mi" } } },
    });
    let fields = spec.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    let build = json!({
        "apiVersion": "ocibuild.dev/v1alpha1", "kind": "OciBuild", "metadata": { "name": name }, "spec": spec,
    });
    namespace.apply(&build.to_string());
}

/// Each has failed for its reason, in words that say so; all that do not are told at once.
fn check(namespace: &Namespace, cases: &[Case]) {
    let mut wrong = Vec::new();
    for case in cases {
        let status = namespace.ended(case.name);
        let failure = &status["failure"];
        let message = failure["message"].as_str().unwrap_or_default();
        let is_named = failure["reason"] == case.reason
            && !failure["hint"].as_str().unwrap_or_default().is_empty();
        if !is_named || !case.words.iter().all(|word| message.contains(word)) {
            wrong.push(format!(
                "{}: expected {} with {:?}, got {}",
                case.name,
                case.reason,
                case.words,
                pretty(&status)
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
