//! What the operator reads of an object's metadata. A tenant can fill an object with a megabyte of finalizers and managed fields,
//! nested as deep as they like: what no decision reads is neither read nor kept.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::Deserialize;

use crate::{
    api::{CANCEL_ANNOTATION, REBUILD_ANNOTATION, RENEWED_ANNOTATION, TRANSFER_ANNOTATION},
    plan::{KUEUE_PREFIX, pod::ISOLATION_ANNOTATION},
};

/// Annotations that say something to the operator.
const ANNOTATIONS: [&str; 5] = [
    CANCEL_ANNOTATION,
    REBUILD_ANNOTATION,
    RENEWED_ANNOTATION,
    TRANSFER_ANNOTATION,
    ISOLATION_ANNOTATION,
];
/// Labels of Kueue that a build passes on to its pod.
const LABELS_LIMIT: usize = 16;

/// Metadata as the API server sends it, but for what nobody reads.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchedMetadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl From<WatchedMetadata> for ObjectMeta {
    fn from(metadata: WatchedMetadata) -> Self {
        let labels: BTreeMap<_, _> = metadata
            .labels
            .into_iter()
            .flatten()
            .filter(|(name, _)| name.starts_with(KUEUE_PREFIX))
            .take(LABELS_LIMIT)
            .collect();
        let annotations: BTreeMap<_, _> = metadata
            .annotations
            .into_iter()
            .flatten()
            .filter(|(name, _)| ANNOTATIONS.contains(&name.as_str()))
            .collect();
        // An object has one controller at most.
        let owner = metadata
            .owner_references
            .into_iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        Self {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            generation: metadata.generation,
            creation_timestamp: metadata.creation_timestamp,
            deletion_timestamp: metadata.deletion_timestamp,
            labels: Some(labels).filter(|labels| !labels.is_empty()),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            owner_references: owner.map(|owner| vec![owner]),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{ObjectMeta, WatchedMetadata};

    #[test]
    fn what_nobody_reads_is_not_kept_and_not_read_however_deep_it_is() {
        let deep = "{\"f:a\":".repeat(200) + "{}" + &"}".repeat(200);
        let text = format!(
            "{{\"name\":\"b\",\"uid\":\"u\",\"finalizers\":{},\"managedFields\":[{{\"fieldsV1\":{deep}}}],\"labels\":{},\"annotations\":{},\"ownerReferences\":{}}}",
            json!(["a", "b"]),
            json!({ "team": "blue", "kueue.x-k8s.io/queue-name": "q" }),
            json!({ "ocibuild.dev/rebuild": "one", "ocibuild.dev/other": "x".repeat(1000), "note": "y" }),
            json!([
                { "apiVersion": "v1", "kind": "Other", "name": "o", "uid": "1" },
                { "apiVersion": "ocibuild.dev/v1alpha1", "kind": "OciBuild", "name": "b", "uid": "2", "controller": true },
            ]),
        );
        let metadata: ObjectMeta = serde_json::from_str::<WatchedMetadata>(&text).unwrap().into();
        assert_eq!((metadata.name.as_deref(), metadata.uid.as_deref()), (Some("b"), Some("u")));
        assert_eq!((metadata.finalizers, metadata.managed_fields), (None, None));
        assert_eq!(
            metadata.labels.unwrap().into_keys().collect::<Vec<_>>(),
            ["kueue.x-k8s.io/queue-name"]
        );
        assert_eq!(
            metadata.annotations.unwrap().into_keys().collect::<Vec<_>>(),
            ["ocibuild.dev/rebuild"]
        );
        let owners: Vec<_> =
            metadata.owner_references.unwrap().into_iter().map(|owner| owner.name).collect();
        assert_eq!(owners, ["b"]);
    }
}
