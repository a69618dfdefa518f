//! Why a build failed: the closed list of `status.failure.reason`, each with its hint.

mod evidence;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a build failed. The same text is the reason of the `Stalled` condition and of the event.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub enum FailureReason {
    /// The spec cannot be built although the API server accepted it.
    InvalidSpec,
    /// The claim of the source or the output does not exist.
    ClaimMissing,
    /// A claim of the build has no volume.
    ClaimUnbound,
    /// A Secret that the spec names does not exist or lacks the key.
    SecretMissing,
    /// A Secret that the spec names holds something else than it should.
    SecretInvalid,
    /// A ConfigMap that the spec names does not exist, or lacks a key.
    ConfigMapMissing,
    /// The source is not there: repository, revision, archive or folder.
    SourceNotFound,
    /// The source asks for credentials, or refused those it got.
    SourceUnauthorized,
    /// The server of the source has too much to do, refused the connection or broke it off.
    SourceUnavailable,
    /// The archive does not have the checksum that the spec names.
    SourceChecksumMismatch,
    /// The source cannot be unpacked or leaves its root.
    SourceInvalid,
    /// A file or directory of the source cannot be read, or changed while it was read.
    SourceUnreadable,
    /// The context is not a folder of the source.
    ContextMissing,
    /// The Dockerfile is neither below the source's root nor below the context.
    DockerfileMissing,
    /// The Dockerfile cannot be read: syntax, unknown instruction, unknown stage.
    DockerfileInvalid,
    /// A step of the Dockerfile ended with another exit code than 0.
    StepFailed,
    /// A file that the spec, COPY or ADD names is not in the source.
    FileNotFound,
    /// A file of the source that the spec names holds something else than it should.
    FileInvalid,
    /// A base image does not exist in its registry.
    BaseImageNotFound,
    /// A registry answered 401.
    RegistryUnauthorized,
    /// A registry answered 402: the traffic that was paid for is used up.
    RegistryPaymentRequired,
    /// A registry answered 403.
    RegistryForbidden,
    /// A registry answered 404 to something other than a base image.
    RegistryNotFound,
    /// A registry answered 429.
    RegistryRateLimited,
    /// A registry answered 5xx, refused the connection or broke it off.
    RegistryUnavailable,
    /// A registry or mirror sent another content than the digest says.
    RegistryContentMismatch,
    /// The name of a registry or of another host does not resolve.
    NameResolution,
    /// The certificate of a registry or of another host is not trusted.
    TlsFailure,
    /// The host answers, but does not speak the registry API V2.
    RegistryNotV2,
    /// The registry refused the image for another reason.
    PushRefused,
    /// The build used more memory than its limit.
    OutOfMemory,
    /// A volume of the build is full.
    StorageFull,
    /// The output folder cannot take the files.
    OutputInvalid,
    /// The kubelet evicted the pod.
    Evicted,
    /// The pod made room for one of a higher priority.
    Preempted,
    /// The pod's node is gone.
    NodeLost,
    /// Somebody or something else deleted the pod.
    PodDeleted,
    /// The build's own container was killed, and not for its memory; or its node could not start it.
    RunnerKilled,
    /// An image of the build's pod cannot be pulled.
    BuilderImagePull,
    /// No node takes the pod.
    Unschedulable,
    /// A ResourceQuota of the namespace refuses the pod or the claim.
    QuotaExceeded,
    /// Pod Security or a policy engine refuses the pod.
    AdmissionRefused,
    /// The BuildKit daemon did not start or died.
    DaemonDied,
    /// The build, or a part of it, took longer than it may.
    Timeout,
    /// The build was cancelled.
    Cancelled,
    /// A fault of the operator itself or one that it cannot name.
    Internal,
}

impl FailureReason {
    /// The text in status, conditions, events and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidSpec => "InvalidSpec",
            Self::ClaimMissing => "ClaimMissing",
            Self::ClaimUnbound => "ClaimUnbound",
            Self::SecretMissing => "SecretMissing",
            Self::SecretInvalid => "SecretInvalid",
            Self::ConfigMapMissing => "ConfigMapMissing",
            Self::SourceNotFound => "SourceNotFound",
            Self::SourceUnauthorized => "SourceUnauthorized",
            Self::SourceUnavailable => "SourceUnavailable",
            Self::SourceChecksumMismatch => "SourceChecksumMismatch",
            Self::SourceInvalid => "SourceInvalid",
            Self::SourceUnreadable => "SourceUnreadable",
            Self::ContextMissing => "ContextMissing",
            Self::DockerfileMissing => "DockerfileMissing",
            Self::DockerfileInvalid => "DockerfileInvalid",
            Self::StepFailed => "StepFailed",
            Self::FileNotFound => "FileNotFound",
            Self::FileInvalid => "FileInvalid",
            Self::BaseImageNotFound => "BaseImageNotFound",
            Self::RegistryUnauthorized => "RegistryUnauthorized",
            Self::RegistryPaymentRequired => "RegistryPaymentRequired",
            Self::RegistryForbidden => "RegistryForbidden",
            Self::RegistryNotFound => "RegistryNotFound",
            Self::RegistryRateLimited => "RegistryRateLimited",
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::RegistryContentMismatch => "RegistryContentMismatch",
            Self::NameResolution => "NameResolution",
            Self::TlsFailure => "TlsFailure",
            Self::RegistryNotV2 => "RegistryNotV2",
            Self::PushRefused => "PushRefused",
            Self::OutOfMemory => "OutOfMemory",
            Self::StorageFull => "StorageFull",
            Self::OutputInvalid => "OutputInvalid",
            Self::Evicted => "Evicted",
            Self::Preempted => "Preempted",
            Self::NodeLost => "NodeLost",
            Self::PodDeleted => "PodDeleted",
            Self::RunnerKilled => "RunnerKilled",
            Self::BuilderImagePull => "BuilderImagePull",
            Self::Unschedulable => "Unschedulable",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::AdmissionRefused => "AdmissionRefused",
            Self::DaemonDied => "DaemonDied",
            Self::Timeout => "Timeout",
            Self::Cancelled => "Cancelled",
            Self::Internal => "Internal",
        }
    }

    /// Whether another attempt may help although nothing in the manifest changes: the pod was lost or a server out of
    /// order, not the build wrong.
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Evicted
                | Self::Preempted
                | Self::NodeLost
                | Self::PodDeleted
                | Self::RunnerKilled
                | Self::DaemonDied
                | Self::RegistryUnavailable
                | Self::RegistryRateLimited
                | Self::SourceUnavailable
        )
    }

    /// Whether it can be mended without a change of the spec: a build of an unchanged spec must be asked for.
    pub const fn may_be_mended_elsewhere(self) -> bool {
        !matches!(
            self,
            Self::InvalidSpec
                | Self::SourceChecksumMismatch
                | Self::SourceInvalid
                | Self::DockerfileMissing
                | Self::DockerfileInvalid
                | Self::StepFailed
                | Self::FileNotFound
                | Self::FileInvalid
                | Self::OutOfMemory
                | Self::Cancelled
        )
    }

    /// What the user can do about it.
    #[expect(clippy::too_many_lines, reason = "a line for each reason")]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::InvalidSpec => {
                "Correct the field that the message names and apply the manifest again."
            }
            Self::ClaimMissing => {
                "Create the PersistentVolumeClaim in the namespace of the OciBuild, or correct its name."
            }
            Self::ClaimUnbound => {
                "Look at the claim (kubectl describe pvc): its storage class, and whether the cluster can make such a volume."
            }
            Self::SecretMissing => {
                "Create the Secret with that key in the namespace of the OciBuild, or correct its name: kubectl create secret generic NAME --from-file=KEY=FILE; for a registry kubectl create secret docker-registry NAME --docker-server=… --docker-username=… --docker-password=…"
            }
            Self::SecretInvalid => "Correct the Secret that the message names.",
            Self::ConfigMapMissing => {
                "Create the ConfigMap in the namespace of the OciBuild, or correct its name or key."
            }
            Self::SourceNotFound => "Check the address, the revision and the path of the source.",
            Self::SourceUnauthorized => {
                "The source is private, or its address is wrong: some servers ask for a password for what does not exist."
            }
            Self::SourceUnavailable => {
                "Check that the server of the source is healthy and can be reached from the build's pod, and its port."
            }
            Self::SourceChecksumMismatch => {
                "The archive changed, or the checksum is that of another file. Compute it anew with sha256sum."
            }
            Self::SourceInvalid => {
                "Check that the archive is a tar (plain, gzip or zstd) and that no path or link in it leaves its root."
            }
            Self::SourceUnreadable => {
                "Let user 1000 read the file that the message names (chmod, chown, or pod.fsGroup), exclude it with .dockerignore, or stop what writes to the source during the build."
            }
            Self::ContextMissing => {
                "Correct context, a path below the source's root, or fill the source: the message lists what is there."
            }
            Self::DockerfileMissing => {
                "dockerfile is a path below the source's root, else below the context; the message names what was looked for."
            }
            Self::DockerfileInvalid => {
                "Correct the Dockerfile, in the line that the message names if it names one; a stage that is not there may be a mistake in target."
            }
            Self::StepFailed => {
                "Read the log excerpt: the command itself failed. The whole log: kubectl logs, with the pod that status.pod.name names."
            }
            Self::FileNotFound => {
                "Check the path that the message names: a field's path is relative to the source's root, that of COPY or ADD to the context; .dockerignore may leave it out."
            }
            Self::FileInvalid => "Correct the file of the source that the message names.",
            Self::BaseImageNotFound => {
                "Check name and tag of the base image. Some registries answer 'not found' for private images: then add registrySecrets."
            }
            Self::RegistryUnauthorized => {
                "Add the registry's credentials to registrySecrets, or correct user name and password in the Secret."
            }
            Self::RegistryPaymentRequired => {
                "The traffic of the registry or mirror is used up. Wait for its next period, pay for more, or use another mirror."
            }
            Self::RegistryForbidden => {
                "The credentials are known but not allowed to do this. Grant them access to the repository."
            }
            Self::RegistryNotFound => {
                "Check registry and imageName: the repository does not exist, and the registry does not create it by itself."
            }
            Self::RegistryRateLimited => {
                "Too many requests. Add credentials for a higher limit, use a mirror, or try again later."
            }
            Self::RegistryUnavailable => {
                "The registry did not answer properly. Try again when it is healthy."
            }
            Self::RegistryContentMismatch => {
                "Repair the registry or mirror, or push the image to it again: what it holds is damaged or cut off."
            }
            Self::NameResolution => {
                "Check the host name, and the DNS where the build runs; in a cluster a NetworkPolicy may also block it."
            }
            Self::TlsFailure => {
                "The certificate is not trusted, or the host speaks plain http: name its authority, or http: true, in spec.registries or in the operator's configuration (registries)."
            }
            Self::RegistryNotV2 => {
                "Check the address: the host answers, but not as an image registry."
            }
            Self::PushRefused => "Read the registry's words in the message.",
            Self::OutOfMemory => "Raise pod.resources.limits.memory, or let the build use less.",
            Self::StorageFull => {
                "Give the output claim or the build's ephemeral storage more room."
            }
            Self::OutputInvalid => {
                "Choose another output path, move away what lies there, or let user 1000 write to the volume: the message says which."
            }
            Self::Evicted => {
                "Give the build requests that fit what it uses (pod.resources), or nodes with more room."
            }
            Self::Preempted => "Give the build a higher priority class (pod.priorityClassName).",
            Self::NodeLost => {
                "The node went away. Raise retries, or keep builds off nodes that are short-lived."
            }
            Self::PodDeleted => {
                "Something deleted the build's pod: look at the cluster's audit log, or at jobs that clean up pods."
            }
            Self::RunnerKilled => {
                "Something on the node stopped the container or its start: look at the node's log for its out-of-memory killer, or for a restart of its container runtime."
            }
            Self::BuilderImagePull => {
                "Check the images in the operator's configuration and the nodes' access to their registry."
            }
            Self::Unschedulable => {
                "Read the scheduler's words in the message: requests, node selector, tolerations, volumes."
            }
            Self::QuotaExceeded => {
                "Wait until other builds have ended, or raise the ResourceQuota of the namespace."
            }
            Self::AdmissionRefused => {
                "The message has the words of the policy. Builds need Pod Security level baseline: kubectl label --overwrite namespace NAMESPACE pod-security.kubernetes.io/enforce=baseline; docs/isolation.md says which isolation needs more."
            }
            Self::DaemonDied => {
                "Read the log of container buildkitd. On hardened nodes rootless builds need unconfined seccomp and AppArmor, see docs/isolation.md."
            }
            Self::Timeout => {
                "See what it waited for. If it only needs longer, raise the field that the message names."
            }
            Self::Cancelled => {
                "Set the annotation ocibuild.dev/rebuild to a new text to build again."
            }
            Self::Internal => {
                "Read the logs of the build's pod and of the operator, and report what you find."
            }
        }
    }
}

impl std::fmt::Display for FailureReason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::FailureReason;

    #[test]
    fn a_reason_reads_the_same_in_status_conditions_and_metrics() {
        for reason in [
            FailureReason::InvalidSpec,
            FailureReason::StepFailed,
            FailureReason::RegistryNotV2,
            FailureReason::TlsFailure,
        ] {
            assert_eq!(serde_json::json!(reason), reason.as_str());
        }
    }
}
