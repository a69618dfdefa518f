//! The claim of a build's own.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::api::ObjectMeta;

use super::{OutputPlan, Validated, pod};

/// Name of the claim of a build's own.
pub fn own_claim_name(build: &str) -> String {
    format!("{build}-output")
}

/// The claim that takes the tar, if the build makes one of its own.
pub fn output_claim(build: &Validated) -> Option<PersistentVolumeClaim> {
    let OutputPlan::Own { claim_name, storage, storage_class_name } = &build.output else {
        return None;
    };
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name.clone()),
            namespace: Some(build.namespace.clone()),
            labels: Some(pod::build_labels(&build.name)),
            owner_references: Some(vec![pod::owner(build)]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(storage.clone()))])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}
