//! What a pod says about its build. Pure: a pod in, a [`PodState`] out. The build's end is the end of its container: the pod's
//! phase follows two seconds later, when the daemon has stopped too.

use k8s_openapi::{
    api::core::v1::PodCondition,
    jiff::{SignedDuration, Timestamp},
};

use super::watched_pod::{Container, ContainerState, Terminated, WatchedPod};
use crate::{
    api::FailureReason,
    plan::{claim::own_claim_name, layout},
    runner::result::{BuildFailure, BuildResult, Outcome},
};

/// How long after its deadline a pod that is being deleted is still expected to go by itself.
const TERMINATION_SLACK: SignedDuration = SignedDuration::from_secs(30);
/// Exit code of a process that SIGKILL ended.
const KILLED: i32 = 137;

/// What the pod of an attempt says.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one is made in a reconcile and dropped with it")]
pub enum PodState {
    /// It is not there.
    Absent,
    /// A pod of that name belongs to something else, for example to a deleted build of the same name.
    Foreign,
    /// A scheduling gate holds it back (KEP-3521).
    Gated {
        /// In the scheduler's words.
        message: String,
    },
    /// It waits for a node, for volumes or for images.
    Waiting(Waiting),
    /// The build's container runs.
    Running(Running),
    /// It is being deleted, and its build has not ended yet.
    Terminating(BuildFailure),
    /// The build ended with a result.
    Ended(BuildResult),
    /// The build ended without a result, and the pod says why.
    Lost(BuildFailure),
}

/// What a pod waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// What the failure will be called if the wait is too long.
    pub reason: FailureReason,
    /// In the words of the scheduler or the kubelet; empty while nothing is wrong.
    pub message: String,
    /// Which deadline counts.
    pub wait: Wait,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Waiting longer cannot help.
    pub hopeless: bool,
}

/// The deadlines of the operator's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For a claim.
    Claim,
    /// For a node.
    Schedule,
    /// For volumes and images.
    Start,
}

impl Wait {
    /// What was missing, where nobody says it.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Claim => "its claim does not exist",
            Self::Schedule => {
                "no node took the pod, and the scheduler does not say why: look at the pod and its claims with kubectl describe"
            }
            Self::Start => {
                "its volumes and images were not ready, and the kubelet does not say why: look at the pod with kubectl describe"
            }
        }
    }
}

/// Where a running pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its address, to read progress from.
    pub address: Option<String>,
}

/// Reads a pod. `owner` is the UID of the build that should own it.
pub fn diagnose(pod: Option<&WatchedPod>, owner: &str, now: Timestamp) -> PodState {
    let Some(pod) = pod else { return PodState::Absent };
    let owned =
        pod.metadata.owner_references.iter().flatten().any(|reference| reference.uid == owner);
    if !owned {
        return PodState::Foreign;
    }
    let (build, daemon) = (pod.build.as_ref(), pod.daemon.as_ref());
    let disruption = disruption(pod);

    if let Some(terminated) = build.and_then(|build| build.state.terminated()) {
        // For its own limits the kubelet evicts a pod without the condition.
        let is_evicted = pod.reason.as_deref() == Some("Evicted");
        let evicted = is_evicted.then(|| failed_pod(pod, disruption.clone())).or(disruption);
        let taken_away =
            evicted.or_else(|| pod.metadata.deletion_timestamp.is_some().then(|| deleted(pod)));
        return ended(terminated, daemon, pod.memory_limit.as_deref(), taken_away);
    }
    if pod.has_failed {
        return PodState::Lost(failed_pod(pod, disruption));
    }
    if let Some(deletion) = &pod.metadata.deletion_timestamp {
        let failure = disruption.unwrap_or_else(|| deleted(pod));
        let overdue = now.duration_since(deletion.0) > TERMINATION_SLACK;
        return if overdue { PodState::Lost(failure) } else { PodState::Terminating(failure) };
    }
    if build.is_some_and(|build| matches!(build.state, ContainerState::Running)) {
        return PodState::Running(Running { address: pod.address.clone() });
    }
    let is_gated =
        |scheduled: &&PodCondition| scheduled.reason.as_deref() == Some("SchedulingGated");
    if let Some(gate) = pod.condition("PodScheduled").filter(is_gated) {
        return PodState::Gated { message: gate.message.clone().unwrap_or_default() };
    }
    PodState::Waiting(waiting(pod, build, daemon))
}

fn ended(
    terminated: &Terminated,
    daemon: Option<&Container>,
    memory_limit: Option<&str>,
    disruption: Option<BuildFailure>,
) -> PodState {
    let message = terminated.message.as_deref().unwrap_or_default();
    let Ok(mut result) = serde_json::from_str::<BuildResult>(message) else {
        return PodState::Lost(disruption.unwrap_or_else(|| without_result(terminated)));
    };
    if let Outcome::Failed(failure) = &mut result.outcome {
        // The runner sees only that it was told to stop, or that the daemon is gone; the pod knows why.
        match failure.reason {
            FailureReason::Cancelled | FailureReason::DaemonDied if disruption.is_some() => {
                return disruption.map_or(PodState::Absent, PodState::Lost);
            }
            FailureReason::DaemonDied | FailureReason::StepFailed
                if daemon.is_some_and(was_out_of_memory) =>
            {
                failure.reason = FailureReason::OutOfMemory;
                failure.message = format!(
                    "BuildKit's container reached its memory limit and was killed; {}",
                    failure.message
                );
            }
            // The kernel kills the largest process of the container, a step's; then the container lives on.
            FailureReason::StepFailed if failure.exit_code == Some(KILLED) => {
                if let Some(limit) = memory_limit {
                    failure.reason = FailureReason::OutOfMemory;
                    failure.message = format!(
                        "the step was killed (SIGKILL), as the kernel does when BuildKit's container reaches its memory limit of {limit}; {}",
                        failure.message
                    );
                }
            }
            FailureReason::DaemonDied => {
                if let Some(words) = daemon.and_then(last_words) {
                    explain(failure, &words);
                }
            }
            _ => {}
        }
    }
    PodState::Ended(result)
}

/// What a daemon said before it ended, as the kubelet took it from its log.
fn last_words(daemon: &Container) -> Option<String> {
    let last = daemon.last_state.terminated().filter(|terminated| terminated.exit_code != 0)?;
    // A Go program follows its words by its stack.
    let is_stack = |line: &str| {
        ["\t", "main.", "runtime.", "github.com/"].iter().any(|begin| line.starts_with(begin))
    };
    // What it answered the runner may repeat what a registry said, credentials too; the runner has it, and hides them.
    let is_answer = |line: &str| line.contains("returned error: ");
    let is_said = |line: &&str| !line.is_empty() && !is_stack(line) && !is_answer(line);
    let said: Vec<_> = last.message.as_deref()?.lines().filter(is_said).collect();
    let words: String = said[said.len().saturating_sub(3)..].join("; ").chars().take(512).collect();
    (!words.is_empty()).then_some(words)
}

fn explain(failure: &mut BuildFailure, words: &str) {
    if words.contains("failed to parse config") || words.contains("failed to load config") {
        failure.reason = FailureReason::InvalidSpec;
        failure.message = format!("buildkitConfig: BuildKit does not take it: {words}");
    } else {
        failure.message = format!("{}; its last words: {words}", failure.message);
    }
}

fn without_result(terminated: &Terminated) -> BuildFailure {
    let reason = terminated.reason.as_deref().unwrap_or_default();
    if reason == "OOMKilled" {
        return BuildFailure::new(
            FailureReason::OutOfMemory,
            "the build's own container reached its memory limit and was killed".to_owned(),
        );
    }
    if reason == "ContainerStatusUnknown" {
        let message = "the node lost track of the build's container (ContainerStatusUnknown), as it does when it was restarted";
        return BuildFailure::new(FailureReason::NodeLost, message);
    }
    // The node failed, for example because the kubelet or the runtime was restarted in that moment. It would fail again
    // only for what the image and the limits are to blame for: what the image cannot execute, and too little memory to begin.
    let said = terminated.message.as_deref().unwrap_or_default().trim();
    let words: String = said.chars().take(512).collect();
    let of_the_pod = ["exec: ", "exec format error", "OOM-killed"];
    if reason == "StartError" && !of_the_pod.iter().any(|why| said.contains(why)) {
        let message = format!("the build's container could not be started on its node: {words}");
        return BuildFailure::new(FailureReason::RunnerKilled, message);
    }
    // 128 and the number of the signal: SIGKILL, SIGTERM.
    if matches!(terminated.exit_code, 137 | 143) {
        let message = format!(
            "the build's container was killed from outside, with exit code {}",
            terminated.exit_code
        );
        return BuildFailure::new(FailureReason::RunnerKilled, message);
    }
    let tail = if words.is_empty() { String::new() } else { format!(": {words}") };
    BuildFailure::new(
        FailureReason::Internal,
        format!(
            "the build's container ended with exit code {} ({reason}) and without a result{tail}",
            terminated.exit_code
        ),
    )
}

fn failed_pod(pod: &WatchedPod, disruption: Option<BuildFailure>) -> BuildFailure {
    let message = pod.message.clone().unwrap_or_default();
    match pod.reason.as_deref() {
        Some("Evicted") => evicted(message),
        Some("DeadlineExceeded") => BuildFailure::new(
            FailureReason::Timeout,
            format!("the pod was active longer than its deadline: {message}"),
        ),
        Some("NodeLost" | "NodeShutdown" | "Terminated") => {
            BuildFailure::new(FailureReason::NodeLost, message)
        }
        reason => disruption.unwrap_or_else(|| {
            BuildFailure::new(
                FailureReason::Internal,
                format!("pod {} failed: {} {message}", name(pod), reason.unwrap_or("no reason")),
            )
        }),
    }
}

/// A pod that uses more storage than its limits allow would do so again; one that had to go for others would not.
fn evicted(message: String) -> BuildFailure {
    let own_limits = [
        "exceeds the total limit of containers",
        "exceeds the limit",
        "exceeded its local ephemeral storage limit",
    ];
    let is_own_fault = own_limits.iter().any(|words| message.contains(words));
    BuildFailure::new(
        if is_own_fault { FailureReason::StorageFull } else { FailureReason::Evicted },
        message,
    )
}

fn deleted(pod: &WatchedPod) -> BuildFailure {
    BuildFailure::new(
        FailureReason::PodDeleted,
        format!("pod {} was deleted by somebody other than the operator", name(pod)),
    )
}

/// The condition that Kubernetes sets on a pod which it takes away (KEP-3329).
fn disruption(pod: &WatchedPod) -> Option<BuildFailure> {
    let condition =
        pod.condition("DisruptionTarget").filter(|condition| condition.status == "True")?;
    let message = condition.message.clone().unwrap_or_default();
    let reason = match condition.reason.as_deref() {
        Some("PreemptionByScheduler") => FailureReason::Preempted,
        Some("DeletionByTaintManager" | "DeletionByPodGC") => FailureReason::NodeLost,
        _ => return Some(evicted(message)),
    };
    Some(BuildFailure::new(reason, message))
}

fn waiting(pod: &WatchedPod, build: Option<&Container>, daemon: Option<&Container>) -> Waiting {
    let scheduled = pod.condition("PodScheduled");
    if let Some(scheduled) = scheduled
        && scheduled.status == "False"
    {
        let message = scheduled.message.clone().unwrap_or_default();
        let (reason, wait) =
            if message.contains("persistentvolumeclaim \"") && message.contains("not found") {
                // The scheduler may not have heard yet of a claim that was made a moment ago.
                (
                    FailureReason::ClaimMissing,
                    if names_own_claim(pod, &message) { Wait::Schedule } else { Wait::Claim },
                )
            } else if message.contains("unbound immediate PersistentVolumeClaims")
                || message.contains("binding volumes")
            {
                (FailureReason::ClaimUnbound, Wait::Schedule)
            } else {
                (FailureReason::Unschedulable, Wait::Schedule)
            };
        return Waiting {
            reason,
            message,
            wait,
            since: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            hopeless: false,
        };
    }
    let is_scheduled = scheduled.is_some_and(|scheduled| scheduled.status == "True");
    let since = if is_scheduled {
        scheduled.and_then(|scheduled| scheduled.last_transition_time.as_ref()).map(|time| time.0)
    } else {
        pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
    };
    let stuck = [daemon, build].into_iter().flatten().find_map(stuck_container);
    let (reason, message, hopeless) =
        stuck.unwrap_or((FailureReason::Unschedulable, String::new(), false));
    Waiting {
        reason: if is_scheduled && message.is_empty() { FailureReason::Timeout } else { reason },
        message,
        wait: if is_scheduled { Wait::Start } else { Wait::Schedule },
        since,
        hopeless,
    }
}

/// Whether the scheduler speaks of the claim that the operator makes for a build.
fn names_own_claim(pod: &WatchedPod, message: &str) -> bool {
    let mut builds = pod.metadata.owner_references.iter().flatten().map(|owner| &owner.name);
    builds.any(|build| message.contains(&format!("\"{}\"", own_claim_name(build))))
}

fn stuck_container(container: &Container) -> Option<(FailureReason, String, bool)> {
    let waiting = container.state.waiting()?;
    let words = waiting.message.clone().unwrap_or_default();
    let message = |what: &str| format!("container {}: {what}: {words}", container.name);
    match waiting.reason.as_deref()? {
        reason @ ("ErrImagePull"
        | "ImagePullBackOff"
        | "ErrImageNeverPull"
        | "RegistryUnavailable") => Some((FailureReason::BuilderImagePull, message(reason), false)),
        reason @ "InvalidImageName" => {
            Some((FailureReason::BuilderImagePull, message(reason), true))
        }
        reason @ "CrashLoopBackOff" => Some((FailureReason::DaemonDied, message(reason), false)),
        reason @ ("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            let is_daemon = container.name == layout::DAEMON_CONTAINER;
            Some((
                if is_daemon { FailureReason::DaemonDied } else { FailureReason::Internal },
                message(reason),
                false,
            ))
        }
        _ => None,
    }
}

fn was_out_of_memory(container: &Container) -> bool {
    let killed = |state: &ContainerState| {
        state.terminated().is_some_and(|end| end.reason.as_deref() == Some("OOMKilled"))
    };
    killed(&container.state) || killed(&container.last_state)
}

fn name(pod: &WatchedPod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
