//! Where the image's tar goes.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::spec::{OBJECT_NAME, RELATIVE_PATH};

/// Where `image.tar` and the files beside it go: at most one of the fields. With none, a claim is made for the build.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.persistentVolumeClaim), has(self.claimTemplate), has(self.download), has(self.none)].filter(set, set).size() <= 1"
).message("output: name at most one of persistentVolumeClaim, claimTemplate, download or none"))]
pub struct Output {
    /// A PersistentVolumeClaim of the same namespace that exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<OutputClaim>,

    /// How to make the claim of the build's own, `<name>-output`. It belongs to the OciBuild and is deleted with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_template: Option<ClaimTemplate>,

    /// No volume: the build's pod keeps the files until a client has fetched them, as the Concourse task does. Write `download: {}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<Download>,

    /// No tar at all: the image is only pushed. Write `none: {}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("example" = {}))]
    pub none: Option<NoOutput>,
}

/// A claim that exists and takes the files.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OutputClaim {
    /// Name of the PersistentVolumeClaim.
    #[schemars(length(max = 253), extend("example" = "images"))]
    #[x_kube(validation = Rule::new(OBJECT_NAME).message("output.persistentVolumeClaim.claimName: the name of a claim: lower-case letters, digits, '-' and '.'"))]
    pub claim_name: String,

    /// Folder of the volume that takes the files; it is made when missing. Default: the name of the OciBuild, so that several
    /// builds can share a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("example" = "my-team/my-app"))]
    #[x_kube(validation = Rule::new(RELATIVE_PATH).message("output.persistentVolumeClaim.path: a relative path without '..'"))]
    pub path: Option<String>,
}

/// What the claim of a build's own looks like.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimTemplate {
    /// Size of the volume, for example `10Gi`. Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "10Gi"))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))").message("output.claimTemplate.storage: a size above zero, for example 10Gi"))]
    pub storage: Option<String>,

    /// Storage class of the volume. Default: the operator's configuration, else the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("example" = "fast"))]
    pub storage_class_name: Option<String>,
}

/// How long the pod keeps the files.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Download {
    /// How long the pod waits for a client that fetches the files, for example `10m`; then the build has failed. `10m` if left out.
    #[serde(default = "default_timeout")]
    #[schemars(length(max = 32), extend("example" = "30m"))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && self != '' && duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("output.download.timeout: hours, minutes and seconds between 1s and 24h, for example 10m"))]
    pub timeout: String,
}

fn default_timeout() -> String {
    "10m".to_owned()
}

/// An empty object: the image is only pushed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
pub struct NoOutput {}
