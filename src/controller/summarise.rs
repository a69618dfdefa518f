//! The only maker of status. Pure: the status before, and where the build stands, in; the whole new status out. A condition
//! that says the same as before keeps its time, so that an unchanged status is written byte for byte the same.

use std::time::Duration;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::Timestamp,
};

use super::{
    durations::Durations,
    lifecycle::{Lost, Wanted},
};
use crate::{
    api::{
        BuildImage, BuildPod, BuildTar, Condition, ConditionType, Failure, FailureReason,
        LastSuccess, OciBuildStatus, Phase, Progress, QueueStatus, TargetImage, Timings,
    },
    plan::{Attempt, duration::format_duration},
    runner::result::{BuildFailure, BuildResult, BuiltImage, Outcome, WrittenTar},
    text::{shortened, without_controls},
};

/// Longest text of a failure's message and log excerpt in the status.
const TEXT_LIMIT: usize = 4096;
/// While nothing is wrong with a pod that does not run yet.
const STARTING: &str = "the build's pod is being started";
/// Most warnings in the status.
const WARNINGS_LIMIT: usize = 10;

/// Where a build stands.
#[derive(Clone, Debug)]
pub enum Standing<'a> {
    /// An attempt begins; `after` is what ended the one before it.
    Begun {
        /// The attempt.
        attempt: Attempt,
        /// The first attempt of this build.
        first_attempt: Attempt,
        /// What ended the attempt before it.
        after: Option<&'a Lost>,
    },
    /// Something holds it back before its pod may run: the attempt is written down and has not begun.
    Queued {
        /// The attempt.
        attempt: Attempt,
        /// The first attempt of this build.
        first_attempt: Attempt,
        /// Its place in the operator's queue, if that is what it waits in.
        position: Option<usize>,
        /// The condition's reason.
        reason: &'static str,
        /// What it waits for.
        message: &'a str,
    },
    /// Its turn has come, and it waits for its pod to run.
    Waiting {
        /// For what; empty while nothing is wrong.
        message: &'a str,
        /// The reason's name, if something is wrong.
        reason: Option<FailureReason>,
    },
    /// It runs.
    Running {
        /// How far it is, if that is known.
        progress: Option<Progress>,
    },
    /// It has ended.
    Finished(&'a BuildResult),
    /// The spec holds it back.
    Suspended,
}

/// What the status says besides where the build stands.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The build that is wanted.
    pub wanted: &'a Wanted,
    /// Namespace of the build.
    pub namespace: &'a str,
    /// Name of the image, once the spec was checked.
    pub reference: Option<String>,
    /// Claim that takes the tar.
    pub output_claim: Option<&'a str>,
    /// The pod of the attempt, if it is there.
    pub pod: Option<BuildPod>,
    /// The time.
    pub now: Timestamp,
}

/// The new status.
pub fn summarise(
    before: &OciBuildStatus,
    facts: &Facts<'_>,
    standing: &Standing<'_>,
) -> OciBuildStatus {
    let mut status = before.clone();
    if let Some(pod) = &facts.pod {
        status.pod = Some(pod.clone());
    }
    match standing {
        Standing::Begun { attempt, first_attempt, after } => {
            begin(&mut status, before, facts, *attempt, *first_attempt, *after);
        }
        Standing::Queued { attempt, first_attempt, position, reason, message } => {
            queue(&mut status, before, facts, *attempt, *first_attempt);
            let position = position.and_then(|position| i32::try_from(position).ok());
            let since = before
                .queue
                .as_ref()
                .filter(|_| status.attempt == before.attempt)
                .map(|queue| queue.since.clone());
            status.queue =
                Some(QueueStatus { position, since: since.unwrap_or(MicroTime(facts.now)) });
            status.conditions = conditions_in_progress(before, facts, reason, message);
        }
        Standing::Waiting { message, reason } => {
            start(&mut status, facts);
            status.phase = Some(Phase::Pending);
            let reason = reason.map_or("Pending", FailureReason::as_str);
            let message = if message.is_empty() { STARTING } else { message };
            status.conditions = conditions_in_progress(before, facts, reason, message);
        }
        Standing::Running { progress } => {
            start(&mut status, facts);
            status.phase = Some(Phase::Running);
            if progress.is_some() {
                status.progress.clone_from(progress);
            }
            status.conditions = conditions_in_progress(before, facts, "Building", "the build runs");
        }
        Standing::Finished(result) => finish(&mut status, before, facts, result),
        Standing::Suspended => suspend(&mut status, before, facts),
    }
    status
}

fn begin(
    status: &mut OciBuildStatus,
    before: &OciBuildStatus,
    facts: &Facts<'_>,
    attempt: Attempt,
    first_attempt: Attempt,
    after: Option<&Lost>,
) {
    let is_retry = after.is_some();
    *status = OciBuildStatus {
        observed_generation: Some(facts.wanted.generation),
        observed_rebuild: facts.wanted.rebuild.clone().or_else(|| before.observed_rebuild.clone()),
        // What was there before the build began does not cancel it.
        observed_cancel: if is_retry {
            before.observed_cancel.clone()
        } else {
            facts.wanted.cancel.clone()
        },
        phase: Some(Phase::Pending),
        image: facts
            .reference
            .as_ref()
            .map(|reference| BuildImage { reference: reference.clone(), ..BuildImage::default() }),
        start_time: Some(
            before.start_time.clone().filter(|_| is_retry).unwrap_or(MicroTime(facts.now)),
        ),
        retry_time: after.map(|lost| MicroTime(lost.retry)),
        timings: before.timings.clone().filter(|_| is_retry),
        attempt: Some(attempt.number()),
        first_attempt: Some(first_attempt.number()),
        last_success: before.last_success.clone(),
        warnings: after.map_or_else(Vec::new, |Lost { failure, .. }| {
            let lost = format!(
                "attempt {} was lost: {}: {}",
                attempt.number() - 1,
                failure.reason,
                failure.message
            );
            before
                .warnings
                .iter()
                .cloned()
                .chain([shortened(&lost, 512)])
                .take(WARNINGS_LIMIT)
                .collect()
        }),
        ..OciBuildStatus::default()
    };
    let (reason, message) = match after {
        Some(Lost { failure, retry }) => {
            let seconds = retry.duration_since(facts.now).as_secs();
            let lost = format!("the one before was lost: {}: {}", failure.reason, failure.message);
            ("Retrying", format!("attempt {attempt} begins in {seconds}s; {lost}"))
        }
        None => ("Pending", STARTING.to_owned()),
    };
    status.conditions = conditions_in_progress(before, facts, reason, &message);
}

/// A build that waits for its turn. Of the last attempt's build nothing is left; of one that was tried before, its begin.
fn queue(
    status: &mut OciBuildStatus,
    before: &OciBuildStatus,
    facts: &Facts<'_>,
    attempt: Attempt,
    first_attempt: Attempt,
) {
    let is_same = before.observed_generation == Some(facts.wanted.generation)
        && before.attempt == Some(attempt.number());
    let is_retry = is_same && attempt > first_attempt;
    let pod = status.pod.take().filter(|_| is_same);
    *status = OciBuildStatus {
        observed_generation: Some(facts.wanted.generation),
        observed_rebuild: facts.wanted.rebuild.clone().or_else(|| before.observed_rebuild.clone()),
        observed_cancel: if is_same {
            before.observed_cancel.clone()
        } else {
            facts.wanted.cancel.clone()
        },
        phase: Some(Phase::Queued),
        image: facts
            .reference
            .as_ref()
            .map(|reference| BuildImage { reference: reference.clone(), ..BuildImage::default() }),
        start_time: before.start_time.clone().filter(|_| is_retry),
        attempt: Some(attempt.number()),
        first_attempt: Some(first_attempt.number()),
        last_success: before.last_success.clone(),
        warnings: if is_retry { before.warnings.clone() } else { Vec::new() },
        pod,
        ..OciBuildStatus::default()
    };
}

/// The wait for its turn, if there was one, is over: from here on it is the build's own time.
fn start(status: &mut OciBuildStatus, facts: &Facts<'_>) {
    status.start_time.get_or_insert(MicroTime(facts.now));
    if let Some(queue) = status.queue.take() {
        let waited =
            Duration::try_from(facts.now.duration_since(queue.since.0)).unwrap_or_default();
        status.timings =
            Some(Timings { queued: Some(format_duration(waited)), ..Timings::default() });
    }
}

fn suspend(status: &mut OciBuildStatus, before: &OciBuildStatus, facts: &Facts<'_>) {
    *status = OciBuildStatus {
        observed_generation: Some(facts.wanted.generation),
        observed_rebuild: before.observed_rebuild.clone(),
        observed_cancel: facts.wanted.cancel.clone(),
        phase: Some(Phase::Suspended),
        last_success: before.last_success.clone(),
        ..OciBuildStatus::default()
    };
    let message = "suspend is true: nothing is built until it is false";
    status.conditions =
        vec![condition(before, facts, ConditionType::Ready, "False", "Suspended", message)];
}

fn finish(
    status: &mut OciBuildStatus,
    before: &OciBuildStatus,
    facts: &Facts<'_>,
    result: &BuildResult,
) {
    let took = before.start_time.as_ref().map(|start| facts.now.duration_since(start.0));
    let took = took.and_then(|took| Duration::try_from(took).ok());
    status.observed_generation = Some(facts.wanted.generation);
    status.observed_rebuild =
        facts.wanted.rebuild.clone().or_else(|| before.observed_rebuild.clone());
    status.observed_cancel.clone_from(&facts.wanted.cancel);
    status.retry_time = None;
    status.queue = None;
    status.completion_time = Some(MicroTime(facts.now));
    status.duration = took.map(format_duration);
    status.timings = Some(timings(before, result));
    if let Some(progress) = result.progress.clone() {
        status.progress = Some(plausible(progress));
    }
    let all_warnings = before
        .warnings
        .iter()
        .chain(&result.warnings)
        .map(|warning| shortened(&without_controls(warning), 512));
    status.warnings = all_warnings.take(WARNINGS_LIMIT).collect();
    match &result.outcome {
        Outcome::Succeeded(built) => succeed(status, before, facts, built),
        Outcome::Failed(failure) => fail(status, before, facts, failure),
    }
}

/// Longest text of the current step.
const STEP_LIMIT: usize = 256;

/// What a pod says of its progress is a tenant's word: numbers that make sense, texts of a bounded length. The API server would
/// refuse any other, again and again, and the build would never end.
pub fn plausible(progress: Progress) -> Progress {
    let total = progress.total.max(0);
    let done = progress.done.clamp(0, total);
    Progress {
        total,
        done,
        cached: progress.cached.clamp(0, done),
        current: progress
            .current
            .map(|current| current.chars().filter(|c| !c.is_control()).take(STEP_LIMIT).collect()),
        summary: format!("{done}/{total}"),
    }
}

fn succeed(
    status: &mut OciBuildStatus,
    before: &OciBuildStatus,
    facts: &Facts<'_>,
    built: &BuiltImage,
) {
    let image = BuildImage {
        reference: facts.reference.clone().unwrap_or_default(),
        digest: Some(built.digest.to_string()),
        short_digest: Some(built.digest.short()),
        config_digest: built.config_digest.as_ref().map(ToString::to_string),
        size: built.size.map(|size| size.max(0)),
        media_type: built.media_type.clone(),
        platforms: built.platforms.clone(),
        pushed: built.pushed,
    };
    let located = |tar: &Option<WrittenTar>| {
        tar.as_ref().zip(facts.output_claim).map(|(tar, claim)| BuildTar {
            location: format!("pvc://{}/{claim}/{}", facts.namespace, tar.path),
            claim_name: claim.to_owned(),
            path: tar.path.clone(),
            size: tar.size.max(0),
            sha256: tar.sha256.clone(),
            format: tar.format.as_str().to_owned(),
        })
    };
    let tar = located(&built.tar);
    status.additional_images = built
        .additional
        .iter()
        .map(|additional| TargetImage {
            target: additional.target.clone(),
            digest: additional.digest.to_string(),
            config_digest: additional.config_digest.as_ref().map(ToString::to_string),
            tar: located(&additional.tar),
        })
        .collect();
    let message = format!("{} was built: {}", image.reference, built.digest);
    status.phase = Some(Phase::Succeeded);
    status.failure = None;
    status.last_success = Some(LastSuccess {
        generation: facts.wanted.generation,
        image: image.clone(),
        tar: tar.clone(),
        completion_time: Time(facts.now),
    });
    status.image = Some(image);
    status.tar = tar;
    status.conditions =
        vec![condition(before, facts, ConditionType::Ready, "True", "Succeeded", &message)];
}

fn fail(
    status: &mut OciBuildStatus,
    before: &OciBuildStatus,
    facts: &Facts<'_>,
    failure: &BuildFailure,
) {
    let step = failure.step.as_ref().map(|step| format!(" in step {step}")).unwrap_or_default();
    let failure = &BuildFailure {
        message: without_controls(&failure.message),
        step: failure.step.as_deref().map(without_controls),
        log_excerpt: failure.log_excerpt.as_deref().map(without_controls),
        ..failure.clone()
    };
    let hint = hint(failure.reason);
    let message = shortened(&format!("{}{step}. {hint}", failure.message), 1024);
    let reason = failure.reason.as_str();
    status.phase = Some(Phase::Failed);
    status.tar = None;
    status.failure = Some(Failure {
        reason: failure.reason,
        message: shortened(&failure.message, TEXT_LIMIT),
        step: failure.step.clone(),
        exit_code: failure.exit_code,
        log_excerpt: failure.log_excerpt.as_ref().map(|excerpt| shortened(excerpt, TEXT_LIMIT)),
        hint,
    });
    status.conditions = vec![
        condition(before, facts, ConditionType::Ready, "False", reason, &message),
        condition(before, facts, ConditionType::Stalled, "True", reason, &message),
    ];
}

fn hint(reason: FailureReason) -> String {
    let again = "Then build again: kubectl annotate --overwrite ocibuild NAME ocibuild.dev/rebuild=\"$(date)\"";
    let words = reason.hint();
    if reason.may_be_mended_elsewhere() { format!("{words} {again}") } else { words.to_owned() }
}

fn conditions_in_progress(
    before: &OciBuildStatus,
    facts: &Facts<'_>,
    reason: &str,
    message: &str,
) -> Vec<Condition> {
    let message = shortened(message, 1024);
    vec![
        condition(before, facts, ConditionType::Ready, "False", reason, &message),
        condition(before, facts, ConditionType::Reconciling, "True", reason, &message),
    ]
}

fn condition(
    before: &OciBuildStatus,
    facts: &Facts<'_>,
    type_: ConditionType,
    status: &str,
    reason: &str,
    message: &str,
) -> Condition {
    let same = before
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_.as_str() && condition.status == status);
    Condition {
        type_: type_.as_str().to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(facts.wanted.generation),
        last_transition_time: same
            .map_or(Time(facts.now), |condition| condition.last_transition_time.clone()),
    }
}

fn timings(before: &OciBuildStatus, result: &BuildResult) -> Timings {
    let text = |taken: Option<Duration>| taken.map(format_duration);
    let Durations { pod_start, daemon, source, build, export, push } =
        Durations::of(before, result);
    Timings {
        queued: before.timings.as_ref().and_then(|timings| timings.queued.clone()),
        pod_start: text(pod_start),
        daemon: text(daemon),
        source: text(source),
        build: text(build),
        export: text(export),
        push: text(push),
    }
}

#[cfg(test)]
mod tests;
