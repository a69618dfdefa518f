//! What each reason is derived from: how the operator knows.

use super::FailureReason;

impl FailureReason {
    /// Where the failure shows, in the words of who says it.
    #[expect(clippy::too_many_lines, reason = "a line for each reason")]
    pub const fn evidence(self) -> &'static str {
        match self {
            Self::InvalidSpec => {
                "The operator's own checks of the spec, the API server's answer 400 or 422 to the pod, or buildkitd's last words about its configuration."
            }
            Self::ClaimMissing => {
                "The scheduler: `persistentvolumeclaim \"…\" not found` in the pod's condition PodScheduled."
            }
            Self::ClaimUnbound => {
                "The scheduler: `unbound immediate PersistentVolumeClaims`, or the claim's volume cannot be bound, in the pod's condition PodScheduled."
            }
            Self::SecretMissing => {
                "The mounted Secret is empty or lacks the key (the mounts are optional)."
            }
            Self::SecretInvalid => {
                "The content of the mounted Secret: no JSON with `auths`, no private key, too large."
            }
            Self::ConfigMapMissing => {
                "The mounted ConfigMap is empty or lacks a key (the mounts are optional)."
            }
            Self::SourceNotFound => {
                "git's words (`couldn't find remote ref`, `repository … not found`), a server's answer 404 or 410, a registry's 404, or a folder that is not on the volume."
            }
            Self::SourceUnauthorized => {
                "git's words (`could not read Username`, `Authentication failed`), or the answer 401 or 403 of a server or registry."
            }
            Self::SourceUnavailable => {
                "A server's answer 429 or 5xx, or the network's words: connection refused, reset, timed out, unexpected EOF."
            }
            Self::SourceChecksumMismatch => {
                "SHA-256 of what was fetched against the spec, the manifest or the client."
            }
            Self::SourceInvalid => {
                "The runner unpacks the source: no tar, a path or link that leaves the root, a device, too large."
            }
            Self::SourceUnreadable => {
                "The runner compares type, size and modification time of each requested file with the announced values."
            }
            Self::ContextMissing => "The runner looks for the context in the source.",
            Self::DockerfileMissing => {
                "The runner looks for the Dockerfile in the source and the context."
            }
            Self::DockerfileInvalid => {
                "BuildKit: `dockerfile parse error on line …`, `target stage … could not be found` and the like."
            }
            Self::StepFailed => {
                "BuildKit: `process … did not complete successfully: exit code: …`; step and log are of that step."
            }
            Self::FileNotFound => {
                "BuildKit: `failed to calculate checksum … not found`; for fields of the spec the runner looks itself."
            }
            Self::FileInvalid => "The runner reads the file that a field names.",
            Self::BaseImageNotFound => {
                "The answer 404 to a manifest or blob, in BuildKit's words `not found`, or `pull access denied`."
            }
            Self::RegistryUnauthorized => {
                "The answer 401 of a registry or of its token server, as BuildKit quotes it."
            }
            Self::RegistryPaymentRequired => "The answer 402, as BuildKit quotes it.",
            Self::RegistryForbidden => {
                "The answer 403, or the registry's word `denied`, as BuildKit quotes it."
            }
            Self::RegistryNotFound => "The answer 404 to an upload, as BuildKit quotes it.",
            Self::RegistryRateLimited => {
                "The answer 429, or the registry's word `toomanyrequests`, as BuildKit quotes it; the runner then asks the registry once for its Retry-After."
            }
            Self::RegistryUnavailable => {
                "The answer 5xx, or the network's words: connection refused, reset, timed out, EOF, as BuildKit quotes them."
            }
            Self::RegistryContentMismatch => {
                "BuildKit checks each blob: `unexpected commit digest`, `failed size validation`."
            }
            Self::NameResolution => {
                "The resolver's words: `no such host`, `server misbehaving`, `Could not resolve host`."
            }
            Self::TlsFailure => {
                "The words of TLS: `x509: …`, `tls: …`, `server gave HTTP response to HTTPS client`."
            }
            Self::RegistryNotV2 => {
                "An answer 200 that is no manifest: a web page, or a media type that no image has. After a push the runner looks itself."
            }
            Self::PushRefused => "Any other answer 4xx to the push, as BuildKit quotes it.",
            Self::OutOfMemory => {
                "The kubelet: reason OOMKilled of container buildkitd or build; or exit code 137 of a step whose pod has a memory limit."
            }
            Self::StorageFull => {
                "`no space left on device` or `disk quota exceeded`, or the kubelet evicts the pod for its ephemeral storage or the size limit of a volume."
            }
            Self::OutputInvalid => {
                "The runner looks at the output folder before it builds: a link, a file, or files that are not a build's lie in its place, or it may not be written to."
            }
            Self::Evicted => {
                "The pod's reason Evicted, or its condition DisruptionTarget (EvictionByEvictionAPI, TerminationByKubelet)."
            }
            Self::Preempted => {
                "The pod's condition DisruptionTarget with reason PreemptionByScheduler."
            }
            Self::NodeLost => {
                "The pod's condition DisruptionTarget (DeletionByTaintManager, DeletionByPodGC), or its reason NodeLost, NodeShutdown or Terminated."
            }
            Self::PodDeleted => {
                "The pod is gone or has a deletion timestamp, and the operator did not delete it."
            }
            Self::RunnerKilled => {
                "Exit code 137 or 143 of container build, without a result and without the reason OOMKilled; or its reason \
                 StartError, and neither the image nor the limits are to blame."
            }
            Self::BuilderImagePull => {
                "The kubelet: ErrImagePull, ImagePullBackOff, ErrImageNeverPull or InvalidImageName of a container."
            }
            Self::Unschedulable => {
                "The pod's condition PodScheduled is False: the scheduler's words."
            }
            Self::QuotaExceeded => "The API server's answer 403 with `exceeded quota`.",
            Self::AdmissionRefused => {
                "The API server's other answers 403, 400 or 422 of an admission webhook or policy, and 500 where a webhook cannot be called."
            }
            Self::DaemonDied => {
                "The daemon's socket does not listen or breaks (`error reading from server`), or its container is in CrashLoopBackOff; with its last words."
            }
            Self::Timeout => {
                "The clocks of the runner (`timeout`, `deadlines`) and of the operator, and activeDeadlineSeconds of the pod behind them."
            }
            Self::Cancelled => {
                "The annotation `ocibuild.dev/cancel`, a lease that nobody renewed, SIGTERM to the runner, or a namespace that is being deleted."
            }
            Self::Internal => "None of the others.",
        }
    }
}
