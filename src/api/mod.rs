//! The custom resource: what a user writes (`spec`), what the controller reports (`status`), and the rules by which the API
//! server itself refuses a bad manifest. Pure: no client, no clock.

mod cache;
mod deadlines;
mod definition;
mod image;
mod output;
mod pod;
mod reason;
mod registries;
mod secrets;
mod source;
mod spec;
mod status;
mod strict;

pub use cache::{Cache, CacheExport, RegistryCache};
pub use deadlines::Deadlines;
pub use definition::crd_yaml;
pub use image::{Attestations, Compression, OutputFormat, Provenance, Sbom};
pub use output::{ClaimTemplate, Download, NoOutput, Output, OutputClaim};
pub use pod::{PodSettings, Resources};
pub use reason::FailureReason;
pub use registries::{ConfigMapKey, Proxy, RegistryConnection};
pub use secrets::{BuildSecret, SecretKey, SshKey};
pub use source::{
    ConfigMapItem, ConfigMapSource, GitSource, HttpSource, ImageSource, Source, SourceClaim,
    UploadSource,
};
pub use spec::{Isolation, OciBuild, OciBuildSpec};
pub use status::{
    BuildImage, BuildPod, BuildTar, Failure, LastSuccess, OciBuildStatus, Phase, Progress,
    QueueStatus, TargetImage, Timings,
};
pub use strict::read_strictly;

/// A `Condition` of the Kubernetes API conventions; one list entry a type.
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Asks for another build of an unchanged spec: any text that differs from the last one handled.
pub const REBUILD_ANNOTATION: &str = "ocibuild.dev/rebuild";

/// Cancels the build that waits or runs: any text that differs from the one that was there when it began.
pub const CANCEL_ANNOTATION: &str = "ocibuild.dev/cancel";

/// SHA-256, in hexadecimal digits, of the token without which the build's pod takes no source and gives no file: a step that was left
/// behind can reach the pod's ports as its client does.
pub const TRANSFER_ANNOTATION: &str = "ocibuild.dev/transfer-token";

/// Renews the lease of a build that has one (`spec.lease`): any text that differs from the last one.
pub const RENEWED_ANNOTATION: &str = "ocibuild.dev/renewed";

/// The conditions of an `OciBuild`, by the kstatus convention that Argo CD and Flux read: `Ready` says whether the image of
/// the observed generation is there, `Reconciling` that work goes on, `Stalled` that it has ended in failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// True when the observed generation was built.
    Ready,
    /// True while the controller works on the observed generation.
    Reconciling,
    /// True when the observed generation failed and nothing more will be tried.
    Stalled,
}

impl ConditionType {
    /// The text in `conditions[].type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }
}
