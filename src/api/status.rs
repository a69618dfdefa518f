//! What the controller reports in `status`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FailureReason;

/// What became of the build.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OciBuildStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Text of the annotation `ocibuild.dev/rebuild` that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_rebuild: Option<String>,

    /// Text of the annotation `ocibuild.dev/cancel` that was there when the build began, or that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_cancel: Option<String>,

    /// Where the build stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// The build's place in the queue, while it waits for its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueStatus>,

    /// `Ready`, `Reconciling` and `Stalled` by the kstatus convention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The image that was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<BuildImage>,

    /// The tar of the image and where it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar: Option<BuildTar>,

    /// The images of `additionalTargets`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_images: Vec<TargetImage>,

    /// How far the build is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,

    /// Where the time went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,

    /// When the first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<MicroTime>,

    /// When the next attempt begins, after one that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_time: Option<MicroTime>,

    /// When the build ended, well or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<MicroTime>,

    /// From the first attempt's begin to the build's end, for example `12.3s`. Waiting in the queue does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,

    /// Why the build failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,

    /// What BuildKit or the operator warns of, at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,

    /// The pod of the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BuildPod>,

    /// Number of the attempt within this generation, from 1. It is written before the attempt's pod is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub attempt: Option<i32>,

    /// First attempt of the current build: above 1 after a rebuild of the same generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub first_attempt: Option<i32>,

    /// The last image that was built, also while a newer generation is being built or has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<LastSuccess>,
}

/// Where a build stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The build waits for its pod or for what the pod needs.
    Pending,
    /// The build waits for its turn: the operator's limits, a ResourceQuota or a scheduling gate hold it back.
    Queued,
    /// The build's container runs.
    Running,
    /// The image was built, and pushed if asked for.
    Succeeded,
    /// The build failed and is not tried again.
    Failed,
    /// The spec holds the build back.
    Suspended,
}

impl Phase {
    /// Whether nothing more happens to this generation by itself.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// A build's place in the queue.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// How many turns the build is away, from 1, in the operator's queue; it is brought up to date every now and then. None where
    /// something else holds the build back: the condition `Ready` says what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub position: Option<i32>,

    /// Since when the build waits.
    pub since: MicroTime,
}

/// The image that was built.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct BuildImage {
    /// Registry, name and tag of the image.
    pub reference: String,

    /// Digest of the image's manifest (of the index for several platforms): what a registry serves it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,

    /// The digest cut to twelve digits, for tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_digest: Option<String>,

    /// Digest of the image's configuration: what Docker shows as the image's ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,

    /// Size of the manifest's configuration and layers as they are stored, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub size: Option<i64>,

    /// Media type of the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,

    /// Platforms of the image, for example `linux/amd64`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,

    /// Whether the image was pushed to its registry.
    pub pushed: bool,
}

/// The image of one of `additionalTargets`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetImage {
    /// The stage.
    pub target: String,

    /// Digest of the image's manifest.
    pub digest: String,

    /// Digest of the image's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,

    /// The tar of the image and where it lies. With many targets there may be no room for it here; `result.json` beside the main
    /// tar has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tar: Option<BuildTar>,
}

/// The tar of the image and where it lies.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct BuildTar {
    /// `pvc://<namespace>/<claim>/<path>`.
    pub location: String,

    /// Name of the claim that holds it.
    pub claim_name: String,

    /// Path of the tar in the claim's volume.
    pub path: String,

    /// Size of the tar in bytes.
    #[schemars(range(min = 0))]
    pub size: i64,

    /// SHA-256 of the tar as `sha256sum` prints it.
    pub sha256: String,

    /// Format of the tar: `docker`, which `docker load`, containerd and skopeo (as docker-archive and oci-archive) read, or `oci`.
    pub format: String,
}

/// How far a build is, counted in steps of the Dockerfile.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// Steps known so far; grows while BuildKit finds more.
    #[schemars(range(min = 0))]
    pub total: i32,

    /// Steps that are done, cached ones included.
    #[schemars(range(min = 0))]
    pub done: i32,

    /// Steps whose result was in the cache.
    #[schemars(range(min = 0))]
    pub cached: i32,

    /// The step that runs now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,

    /// `done/total`, for tables.
    pub summary: String,
}

/// Where the time went, each for example `1.7s`. What did not happen is left out.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Timings {
    /// Waiting in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<String>,

    /// From the build's begin to the start of its container: scheduling, volumes, images, lost attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_start: Option<String>,

    /// From the start of the build's container until the BuildKit daemon answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<String>,

    /// Fetching and checking the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,

    /// The steps of the Dockerfile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,

    /// Making the layers and writing the tar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,

    /// Pushing to the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<String>,
}

/// Why a build failed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The kind of failure.
    pub reason: FailureReason,

    /// What happened, in the words of the part that failed.
    pub message: String,

    /// The step of the Dockerfile that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,

    /// Exit code of the step's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,

    /// The last lines that the step printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_excerpt: Option<String>,

    /// What to do about it.
    pub hint: String,
}

/// The pod of an attempt.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct BuildPod {
    /// Name of the pod; its log: `kubectl logs <name> -c build`.
    pub name: String,

    /// UID of the pod, once the controller has seen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,

    /// Node that the pod runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,

    /// How the pod is kept apart from its node: `rootless`, `userns` or `privileged`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
}

/// The last image that was built.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastSuccess {
    /// Generation of the spec that it was built from.
    pub generation: i64,

    /// The image.
    pub image: BuildImage,

    /// Its tar, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar: Option<BuildTar>,

    /// When it was built.
    pub completion_time: Time,
}
