//! What to do next with a build. Pure: what was observed in, one [`Decision`] out. The whole life of a build is in
//! [`decide`]; read it from top to bottom.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::diagnose::{PodState, Running, Wait, Waiting};
use crate::{
    api::{FailureReason, OciBuild, Phase, REBUILD_ANNOTATION},
    plan::{Attempt, operator_config::Waits},
    runner::result::{BuildFailure, BuildResult, Outcome},
};

/// Which build is wanted: a generation of the spec, and the text by which another build of the same generation is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Generation of the spec.
    pub generation: i64,
    /// Text of the annotation, if there is one.
    pub rebuild: Option<String>,
}

impl Wanted {
    /// What the object asks for.
    pub fn of(build: &OciBuild) -> Self {
        Self {
            generation: build.metadata.generation.unwrap_or_default(),
            rebuild: build.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REBUILD_ANNOTATION).cloned()),
        }
    }
}

/// What was written down about the build so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Generation that the status speaks of.
    pub generation: Option<i64>,
    /// Text of the annotation that was handled.
    pub rebuild: Option<String>,
    /// Number of the attempt.
    pub attempt: Option<Attempt>,
    /// First attempt of the current build.
    pub first_attempt: Option<Attempt>,
    /// Where the build stands.
    pub phase: Option<Phase>,
    /// Whether the pod of the attempt was ever seen.
    pub pod_seen: bool,
    /// When the first attempt of the build began.
    pub started: Option<Timestamp>,
}

impl Recorded {
    /// What the object's status says.
    pub fn of(build: &OciBuild) -> Self {
        let Some(status) = &build.status else { return Self::default() };
        Self {
            generation: status.observed_generation,
            rebuild: status.observed_rebuild.clone(),
            attempt: status.attempt.and_then(Attempt::from_number),
            first_attempt: status.first_attempt.and_then(Attempt::from_number),
            phase: status.phase,
            pod_seen: status.pod.as_ref().is_some_and(|pod| pod.uid.is_some()),
            started: status.start_time.as_ref().map(|time| time.0),
        }
    }

    /// Whether the recorded build is the one that is wanted. An annotation that was taken away asks for nothing.
    pub fn is(&self, wanted: &Wanted) -> bool {
        self.generation == Some(wanted.generation) && (wanted.rebuild.is_none() || self.rebuild == wanted.rebuild)
    }

    /// Whether the wanted build has ended. Nothing undoes that, not even a stricter configuration.
    pub fn is_settled(&self, wanted: &Wanted) -> bool {
        self.is(wanted) && self.phase.is_some_and(Phase::is_final)
    }
}

/// Limits that decide.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Attempts after the first.
    pub retries: i32,
    /// How long a build waits for what is not there.
    pub waits: Waits,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one is made in a reconcile and dropped with it")]
pub enum Decision {
    /// The wanted build has ended and is written down: nothing to do.
    Settled,
    /// Write down a new attempt, then make its pod. `after` is what ended the attempt before it.
    Begin {
        /// The new attempt.
        attempt: Attempt,
        /// The first attempt of this build.
        first_attempt: Attempt,
        /// What ended the attempt before it.
        after: Option<BuildFailure>,
    },
    /// The attempt is written down: make its pod.
    CreatePod {
        /// The attempt.
        attempt: Attempt,
    },
    /// Wait, for `message`; look again at the latest when `recheck` is over.
    Wait {
        /// What the build waits for; empty while nothing is wrong.
        message: String,
        /// The reason's name, if something is wrong.
        reason: Option<FailureReason>,
        /// When to look again if nothing happens.
        recheck: Option<Duration>,
    },
    /// The build runs: report its progress.
    Track(Running),
    /// The build has ended.
    Finish(BuildResult),
}

/// What to do next with a build.
pub fn decide(wanted: &Wanted, recorded: &Recorded, pod: &PodState, limits: &Limits, now: Timestamp) -> Decision {
    if !recorded.is(wanted) {
        let same_generation = recorded.generation == Some(wanted.generation);
        let attempt = recorded.attempt.filter(|_| same_generation).map_or(Attempt::FIRST, Attempt::next);
        return Decision::Begin { attempt, first_attempt: attempt, after: None };
    }
    if recorded.is_settled(wanted) {
        return Decision::Settled;
    }
    let Some(attempt) = recorded.attempt else {
        return Decision::Begin { attempt: Attempt::FIRST, first_attempt: Attempt::FIRST, after: None };
    };
    let first_attempt = recorded.first_attempt.unwrap_or(attempt);
    let retry_or_fail = |failure: BuildFailure| {
        let used = attempt.number() - first_attempt.number();
        if failure.reason.is_retryable() && used < limits.retries {
            Decision::Begin { attempt: attempt.next(), first_attempt, after: Some(failure) }
        } else {
            Decision::Finish(BuildResult::failed(failure))
        }
    };
    match pod {
        PodState::Absent if recorded.pod_seen => retry_or_fail(BuildFailure::new(
            FailureReason::PodDeleted,
            format!("the pod of attempt {attempt} was deleted before its build had ended"),
        )),
        PodState::Absent => Decision::CreatePod { attempt },
        PodState::Foreign => Decision::Wait {
            message: "a pod of this name belongs to a deleted build; waiting until it is gone".to_owned(),
            reason: None,
            recheck: Some(Duration::from_secs(1)),
        },
        PodState::Waiting(waiting) => wait(waiting, limits, now),
        PodState::Running(running) => Decision::Track(running.clone()),
        PodState::Terminating(failure) => Decision::Wait {
            message: failure.message.clone(),
            reason: Some(failure.reason),
            recheck: Some(Duration::from_secs(5)),
        },
        PodState::Ended(result) => match &result.outcome {
            Outcome::Succeeded(_) => Decision::Finish(result.clone()),
            Outcome::Failed(failure) => match retry_or_fail(failure.clone()) {
                Decision::Finish(_) => Decision::Finish(result.clone()),
                retry => retry,
            },
        },
        PodState::Lost(failure) => retry_or_fail(failure.clone()),
    }
}

fn wait(waiting: &Waiting, limits: &Limits, now: Timestamp) -> Decision {
    let (limit, field) = match waiting.wait {
        Wait::Claim => (limits.waits.claim.0, "claim"),
        Wait::Schedule => (limits.waits.schedule.0, "schedule"),
        Wait::Start => (limits.waits.start.0, "start"),
    };
    let waited = waiting.since.map_or(SignedDuration::ZERO, |since| now.duration_since(since).max(SignedDuration::ZERO));
    let left = limit.saturating_sub(waited.unsigned_abs());
    if waiting.hopeless || left.is_zero() {
        let words = if waiting.message.is_empty() { "its containers did not start" } else { waiting.message.as_str() };
        let message = if waiting.hopeless {
            words.to_owned()
        } else {
            format!("waited {}s (deadlines.{field}) in vain: {words}", limit.as_secs())
        };
        return Decision::Finish(BuildResult::failed(BuildFailure::new(waiting.reason, message)));
    }
    Decision::Wait {
        message: waiting.message.clone(),
        reason: (!waiting.message.is_empty()).then_some(waiting.reason),
        recheck: Some(left + Duration::from_millis(50)),
    }
}

#[cfg(test)]
mod tests;
