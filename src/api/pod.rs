//! How the build's pod is scheduled and sized.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// How the build's pod is scheduled and sized. What is left out comes from the operator's configuration.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSettings {
    /// Requests and limits of BuildKit's container, where the build's steps run and its memory is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels_schema", extend("example" = {"kubernetes.io/arch": "arm64"}))]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that the pod tolerates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,

    /// Affinity of the pod, as in a Pod's spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Priority class of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("example" = "builds"))]
    pub priority_class_name: Option<String>,

    /// Runtime class of the pod, for example of a sandboxed runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("example" = "gvisor"))]
    pub runtime_class_name: Option<String>,

    /// Service account that the pod runs as. Its token is never mounted; it matters for policies and image pull secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("example" = "builder"))]
    pub service_account_name: Option<String>,

    /// Labels that the pod gets besides the operator's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels_schema", extend("example" = {"team": "my-team"}))]
    pub labels: BTreeMap<String, String>,

    /// Annotations that the pod gets besides the operator's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("example" = {"example.com/cost-centre": "4711"}))]
    pub annotations: BTreeMap<String, String>,
}

/// Requests and limits of a container, by resource name: `cpu`, `memory`, `ephemeral-storage`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// What the scheduler reserves.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "quantities")]
    #[schemars(schema_with = "quantities_schema", extend("example" = {"cpu": "1", "memory": "2Gi"}))]
    pub requests: BTreeMap<String, String>,

    /// What the container may use at most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "quantities")]
    #[schemars(schema_with = "quantities_schema", extend("example" = {"memory": "4Gi", "ephemeral-storage": "20Gi"}))]
    pub limits: BTreeMap<String, String>,
}

/// `cpu: 2` and `cpu: "2"` are the same, as in a Pod.
fn quantities<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(i64),
        Text(String),
    }
    let quantities = BTreeMap::<String, NumberOrText>::deserialize(deserializer)?;
    let text = |quantity| match quantity {
        NumberOrText::Number(number) => number.to_string(),
        NumberOrText::Text(text) => text,
    };
    Ok(quantities.into_iter().map(|(name, quantity)| (name, text(quantity))).collect())
}

fn quantities_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": "isQuantity(string(self)) && !quantity(string(self)).isLessThan(quantity('0'))",
                "message": "pod.resources: a Kubernetes quantity that is not negative, for example 2, 500m or 4Gi",
            }],
        },
    })
}

/// Keys and values as the API server takes them from a pod: refused here, where the user sees it, not when the pod is made.
fn labels_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 63 },
        "x-kubernetes-validations": [{
            "rule": "self.all(key, key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$') && self[key].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$'))",
            "message": "pod: keys and values of labels: letters, digits, '-', '_' and '.', a letter or digit at both ends; a key may have a prefix such as example.com/",
        }],
    })
}
