//! What to do next with a build. Pure: what was observed in, one [`Decision`] out. The whole life of a build is in
//! [`decide`]; read it from top to bottom.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    diagnose::{PodState, Running, Wait, Waiting},
    queue::Turn,
};
use crate::{
    api::{CANCEL_ANNOTATION, FailureReason, OciBuild, Phase, REBUILD_ANNOTATION},
    plan::{Attempt, duration::format_duration, operator_config::Waits},
    runner::result::{BuildFailure, BuildResult, LONGEST_RETRY_AFTER, Outcome},
};

/// The longest pause before a retry.
const LONGEST_PAUSE: Duration = Duration::from_secs(LONGEST_RETRY_AFTER as u64);
/// The first pause before a retry after a pod was lost, and after a registry did not serve. Each further one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const FIRST_PAUSE_OF_REGISTRY: Duration = Duration::from_secs(10);
/// Longest pause that the operator takes by itself.
const LONGEST_OWN_PAUSE: Duration = Duration::from_mins(5);

/// Which build is wanted: a generation of the spec, the text by which another build of the same generation is asked for, and the
/// text by which a build is cancelled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Generation of the spec.
    pub generation: i64,
    /// Text of the annotation that asks for another build, if there is one.
    pub rebuild: Option<String>,
    /// Text of the annotation that cancels, if there is one.
    pub cancel: Option<String>,
}

impl Wanted {
    /// What the object asks for.
    pub fn of(build: &OciBuild) -> Self {
        let annotation = |name: &str| {
            build
                .metadata
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get(name).cloned())
        };
        Self {
            generation: build.metadata.generation.unwrap_or_default(),
            rebuild: annotation(REBUILD_ANNOTATION),
            cancel: annotation(CANCEL_ANNOTATION),
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
    /// Text of the annotation that was there when the build began: it does not cancel this one.
    pub cancel: Option<String>,
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
    /// Since when the build waits in the queue, if it does.
    pub queued: Option<Timestamp>,
    /// When the attempt may begin.
    pub retry: Option<Timestamp>,
}

impl Recorded {
    /// What the object's status says.
    pub fn of(build: &OciBuild) -> Self {
        let Some(status) = &build.status else { return Self::default() };
        Self {
            generation: status.observed_generation,
            rebuild: status.observed_rebuild.clone(),
            cancel: status.observed_cancel.clone(),
            attempt: status.attempt.and_then(Attempt::from_number),
            first_attempt: status.first_attempt.and_then(Attempt::from_number),
            phase: status.phase,
            pod_seen: status.pod.as_ref().is_some_and(|pod| pod.uid.is_some()),
            started: status.start_time.as_ref().map(|time| time.0),
            queued: status.queue.as_ref().map(|queue| queue.since.0),
            retry: status.retry_time.as_ref().map(|time| time.0),
        }
    }

    /// Since when the pod of the attempt could have been made: not in the queue, not in a pause, not in earlier attempts.
    pub fn tried_since(&self) -> Option<Timestamp> {
        let begun = self.started.filter(|_| self.phase != Some(Phase::Queued))?;
        Some(self.retry.map_or(begun, |retry| retry.max(begun)))
    }

    /// Whether the recorded build is the one that is wanted. An annotation that was taken away asks for nothing.
    pub fn is(&self, wanted: &Wanted) -> bool {
        self.generation == Some(wanted.generation)
            && (wanted.rebuild.is_none() || self.rebuild == wanted.rebuild)
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

impl Limits {
    /// What is left of the time that a build may wait in the queue, if it waits there and that time is limited.
    pub fn queue_left(&self, recorded: &Recorded, now: Timestamp) -> Option<Duration> {
        let since = recorded.queued.filter(|_| recorded.phase == Some(Phase::Queued))?;
        let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        Some(self.waits.queue?.0.saturating_sub(waited))
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one is made in a reconcile and dropped with it")]
pub enum Decision {
    /// The wanted build has ended and is written down: nothing to do.
    Settled,
    /// It is not the build's turn: write down the attempt that it waits for, and its place.
    Queue {
        /// The attempt.
        attempt: Attempt,
        /// The first attempt of this build.
        first_attempt: Attempt,
        /// How many turns it is away, from 1.
        position: usize,
    },
    /// Something else, such as Kueue, holds the pod back by a scheduling gate (KEP-3521): leave it alone.
    Gated {
        /// In the scheduler's words.
        message: String,
    },
    /// Write down a new attempt, then make its pod.
    Begin {
        /// The new attempt.
        attempt: Attempt,
        /// The first attempt of this build.
        first_attempt: Attempt,
        /// What ended the attempt before it.
        after: Option<Lost>,
    },
    /// The attempt is written down: make its pod.
    CreatePod {
        /// The attempt.
        attempt: Attempt,
    },
    /// The attempt is written down, and its time has not come.
    Pause(Duration),
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

impl Decision {
    /// Its name in traces and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Queue { .. } => "queue",
            Self::Gated { .. } => "gated",
            Self::Begin { .. } => "begin",
            Self::CreatePod { .. } => "create_pod",
            Self::Pause(_) => "pause",
            Self::Wait { .. } => "wait",
            Self::Track(_) => "track",
            Self::Finish(_) => "finish",
        }
    }
}

/// What ended an attempt that is followed by another.
#[derive(Clone, Debug, PartialEq)]
pub struct Lost {
    /// What ended it.
    pub failure: BuildFailure,
    /// When the next one may begin.
    pub retry: Timestamp,
}

/// What is said while the name of a pod is taken.
pub const NAME_TAKEN: &str = "a pod of this name belongs to something else, for example to a deleted build; waiting until it is gone";

/// What to do next with a build.
pub fn decide(
    wanted: &Wanted,
    recorded: &Recorded,
    pod: &PodState,
    limits: &Limits,
    turn: Turn,
    now: Timestamp,
) -> Decision {
    let begin = |attempt, first_attempt| match turn {
        Turn::Granted => Decision::Begin { attempt, first_attempt, after: None },
        Turn::Waiting { position } => Decision::Queue { attempt, first_attempt, position },
    };
    if !recorded.is(wanted) {
        let same_generation = recorded.generation == Some(wanted.generation);
        let attempt =
            recorded.attempt.filter(|_| same_generation).map_or(Attempt::FIRST, Attempt::next);
        return begin(attempt, attempt);
    }
    if recorded.is_settled(wanted) {
        return Decision::Settled;
    }
    if wanted.cancel.is_some() && wanted.cancel != recorded.cancel {
        let message = format!("cancelled by the annotation {CANCEL_ANNOTATION}");
        return Decision::Finish(BuildResult::failed(BuildFailure::new(
            FailureReason::Cancelled,
            message,
        )));
    }
    let is_held_back = matches!(pod, PodState::Absent | PodState::Foreign | PodState::Gated { .. });
    if let Some(limit) = limits
        .waits
        .queue
        .filter(|_| is_held_back && limits.queue_left(recorded, now) == Some(Duration::ZERO))
    {
        let seconds = limit.0.as_secs();
        let message = format!(
            "the build waited {seconds}s in vain for its turn; raise deadlines.queue to let it wait longer"
        );
        return Decision::Finish(BuildResult::failed(BuildFailure::new(
            FailureReason::Timeout,
            message,
        )));
    }
    let Some(attempt) = recorded.attempt else { return begin(Attempt::FIRST, Attempt::FIRST) };
    let first_attempt = recorded.first_attempt.unwrap_or(attempt);
    let retry_or_fail = |failure: BuildFailure| {
        let used = attempt.number() - first_attempt.number();
        if failure.reason.is_retryable() && used < limits.retries {
            let retry = now + pause(&failure, used);
            Decision::Begin {
                attempt: attempt.next(),
                first_attempt,
                after: Some(Lost { failure, retry }),
            }
        } else {
            Decision::Finish(BuildResult::failed(failure))
        }
    };
    match pod {
        PodState::Absent if recorded.pod_seen => retry_or_fail(BuildFailure::new(
            FailureReason::PodDeleted,
            format!("the pod of attempt {attempt} was deleted before its build had ended"),
        )),
        PodState::Absent => match (turn, left(recorded.retry, now)) {
            (Turn::Waiting { position }, _) => Decision::Queue { attempt, first_attempt, position },
            (Turn::Granted, Some(left)) => Decision::Pause(left),
            (Turn::Granted, None) => Decision::CreatePod { attempt },
        },
        PodState::Foreign => match turn {
            Turn::Granted => wait_for_name(recorded, limits, now),
            Turn::Waiting { position } => Decision::Queue { attempt, first_attempt, position },
        },
        PodState::Gated { message } => Decision::Gated { message: message.clone() },
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

/// How long to wait before the next attempt: longer each time, and no shorter than a registry asks for.
fn pause(failure: &BuildFailure, used: i32) -> Duration {
    let is_of_registry = matches!(
        failure.reason,
        FailureReason::RegistryUnavailable | FailureReason::RegistryRateLimited
    );
    let first = if is_of_registry { FIRST_PAUSE_OF_REGISTRY } else { FIRST_PAUSE };
    let own =
        first.saturating_mul(4_u32.saturating_pow(used.unsigned_abs())).min(LONGEST_OWN_PAUSE);
    let asked =
        failure.retry_after.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds.into()));
    own.max(asked).min(LONGEST_PAUSE)
}

/// What is left of a pause. A pause longer than any that is taken comes from a clock that was set back: it is over.
fn left(until: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    let left = Duration::try_from(until?.duration_since(now)).ok()?;
    (!left.is_zero() && left <= LONGEST_PAUSE).then_some(left)
}

/// The name of the pod is taken, as a rule by a pod of a deleted build that is about to go.
fn wait_for_name(recorded: &Recorded, limits: &Limits, now: Timestamp) -> Decision {
    let taken = Waiting {
        reason: FailureReason::Timeout,
        message: NAME_TAKEN.to_owned(),
        wait: Wait::Schedule,
        since: recorded.tried_since(),
        hopeless: false,
    };
    match wait(&taken, limits, now) {
        Decision::Wait { message, .. } => {
            Decision::Wait { message, reason: None, recheck: Some(Duration::from_secs(1)) }
        }
        end => end,
    }
}

fn wait(waiting: &Waiting, limits: &Limits, now: Timestamp) -> Decision {
    let (limit, field) = match waiting.wait {
        Wait::Claim => (limits.waits.claim.0, "claim"),
        Wait::Schedule => (limits.waits.schedule.0, "schedule"),
        Wait::Start => (limits.waits.start.0, "start"),
    };
    let waited = waiting
        .since
        .map_or(SignedDuration::ZERO, |since| now.duration_since(since).max(SignedDuration::ZERO));
    let left = limit.saturating_sub(waited.unsigned_abs());
    if waiting.hopeless || left.is_zero() {
        let words = if waiting.message.is_empty() {
            waiting.wait.words()
        } else {
            waiting.message.as_str()
        };
        let message = if waiting.hopeless {
            words.to_owned()
        } else {
            format!("waited {}s (deadlines.{field}) in vain: {words}", limit.as_secs())
        };
        return Decision::Finish(BuildResult::failed(BuildFailure::new(waiting.reason, message)));
    }
    let limit = format_duration(limit);
    Decision::Wait {
        message: match waiting.message.as_str() {
            "" => String::new(),
            words => format!("{words} (the build fails after {limit} of this: deadlines.{field})"),
        },
        reason: (!waiting.message.is_empty()).then_some(waiting.reason),
        recheck: Some(left + Duration::from_millis(50)),
    }
}

#[cfg(test)]
mod tests;
