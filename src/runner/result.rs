//! What the runner reports when it ends: one compact JSON as the container's termination message. The contract between the
//! runner and the controller.

use serde::{Deserialize, Serialize};

use crate::{
    api::{FailureReason, OutputFormat, Progress},
    plan::Digest,
    text::without_secrets,
};

/// The kubelet cuts termination messages at 4096 bytes; half a JSON would be no result.
pub const MESSAGE_LIMIT: usize = 4096;
/// Seconds: nobody waits longer for a server, also where it asks for that.
pub const LONGEST_RETRY_AFTER: u32 = 60 * 60;

/// How a build ended, and where its time went.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BuildResult {
    /// Success or failure.
    pub outcome: Outcome,
    /// When the runner started, in milliseconds since 1970 by its node's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    /// Where the time went.
    #[serde(default)]
    pub timings: Milliseconds,
    /// The last progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Warnings, shortened to what fits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl BuildResult {
    /// A failure that nothing else is known of.
    pub fn failed(failure: BuildFailure) -> Self {
        Self {
            outcome: Outcome::Failed(failure),
            started_at: None,
            timings: Milliseconds::default(),
            progress: None,
            warnings: Vec::new(),
        }
    }
}

/// Success or failure.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The image was built, its tar written and the image pushed, as far as asked for.
    Succeeded(BuiltImage),
    /// The build failed.
    Failed(BuildFailure),
}

/// The image that was built.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BuiltImage {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Digest of the image's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<Digest>,
    /// Bytes of configuration and layers as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// Media type of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Platforms, for example `linux/amd64`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// Whether it was pushed.
    pub pushed: bool,
    /// The tar, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar: Option<WrittenTar>,
    /// The images of the additional targets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional: Vec<AdditionalImage>,
}

/// The image of an additional target.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AdditionalImage {
    /// The stage.
    pub target: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Digest of the image's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<Digest>,
    /// The tar; none where the message had no room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar: Option<WrittenTar>,
}

/// The tar that was written.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WrittenTar {
    /// Path of the tar below the output volume's root.
    pub path: String,
    /// Bytes.
    pub size: i64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// Its format.
    pub format: OutputFormat,
}

/// Why the build failed, as the runner saw it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BuildFailure {
    /// The kind of failure.
    pub reason: FailureReason,
    /// What happened.
    pub message: String,
    /// The failing step of the Dockerfile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Its exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The last lines that it printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_excerpt: Option<String>,
    /// Seconds after which a server said that it may be asked again (RFC 9110, section 10.2.3, Retry-After).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
}

impl BuildFailure {
    /// A failure of no step in particular.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            step: None,
            exit_code: None,
            log_excerpt: None,
            retry_after: None,
        }
    }

    /// The same with what a server said about when to try again.
    #[must_use]
    pub fn with_retry_after(self, seconds: u32) -> Self {
        let message = format!("{}; the server says to try again after {seconds}s", self.message);
        Self { message, retry_after: Some(seconds), ..self }
    }

    /// The same without what may be secret in the addresses of its message.
    #[must_use]
    pub fn without_secrets(self) -> Self {
        Self { message: without_secrets(&self.message), ..self }
    }
}

/// Where the time went, in milliseconds.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Milliseconds {
    /// Until the daemon answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon: Option<u64>,
    /// Fetching and checking the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<u64>,
    /// The steps of the Dockerfile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<u64>,
    /// Making the layers and writing the tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<u64>,
    /// Pushing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<u64>,
}
