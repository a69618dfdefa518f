use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    super::{
        diagnose::{PodState, Running, Wait, Waiting},
        queue::Turn,
    },
    Decision, Limits, Recorded, Wanted, decide,
};
use crate::{
    api::{FailureReason, Phase},
    plan::{
        Attempt, Digest,
        duration::format_duration,
        operator_config::{ConfigDuration, Waits},
    },
    runner::result::{BuildFailure, BuildResult, BuiltImage, Outcome},
};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn limits() -> Limits {
    Limits { retries: 2, waits: Waits::default() }
}

fn wanted(generation: i64, rebuild: Option<&str>) -> Wanted {
    Wanted { generation, rebuild: rebuild.map(str::to_owned), cancel: None }
}

fn attempt(number: i32) -> Attempt {
    Attempt::from_number(number).unwrap()
}

/// A build of generation 3 in its attempt `number`, begun with attempt 1.
fn recorded(phase: Phase, number: i32, pod_seen: bool) -> Recorded {
    Recorded {
        generation: Some(3),
        attempt: Some(attempt(number)),
        first_attempt: Some(Attempt::FIRST),
        phase: Some(phase),
        pod_seen,
        started: Some(now()),
        ..Recorded::default()
    }
}

#[test]
fn neither_the_queue_nor_pauses_nor_earlier_attempts_are_time_in_which_the_pod_could_have_been_made()
 {
    let later = |seconds| now() + SignedDuration::from_secs(seconds);
    for (phase, started, retry, expected) in [
        (Phase::Pending, Some(now()), None, Some(now())),
        (Phase::Pending, Some(now()), Some(later(600)), Some(later(600))),
        (Phase::Pending, Some(later(900)), Some(later(600)), Some(later(900))),
        (Phase::Queued, None, None, None),
        (Phase::Queued, Some(now()), None, None),
    ] {
        let recorded = Recorded { started, retry, ..recorded(phase, 2, false) };
        assert_eq!(recorded.tried_since(), expected, "{recorded:?}");
    }
}

fn success() -> BuildResult {
    let built = BuiltImage {
        digest: Digest::from_sha256([7; 32]),
        config_digest: None,
        size: None,
        media_type: None,
        platforms: Vec::new(),
        pushed: false,
        tar: None,
        additional: Vec::new(),
    };
    BuildResult {
        outcome: Outcome::Succeeded(built),
        ..BuildResult::failed(failure(FailureReason::Internal))
    }
}

fn failure(reason: FailureReason) -> BuildFailure {
    BuildFailure::new(reason, "words")
}

fn waiting(wait: Wait, seconds: i64, message: &str) -> PodState {
    PodState::Waiting(Waiting {
        reason: FailureReason::Unschedulable,
        message: message.to_owned(),
        wait,
        since: Some(now() - SignedDuration::from_secs(seconds)),
        hopeless: false,
    })
}

fn decision(wanted: &Wanted, recorded: &Recorded, pod: &PodState) -> Decision {
    decide(wanted, recorded, pod, &limits(), Turn::Granted, now())
}

#[test]
fn a_new_build_begins_with_attempt_1() {
    let begin =
        Decision::Begin { attempt: Attempt::FIRST, first_attempt: Attempt::FIRST, after: None };
    assert_eq!(decision(&wanted(1, None), &Recorded::default(), &PodState::Absent), begin);
    assert_eq!(decision(&wanted(1, Some("x")), &Recorded::default(), &PodState::Absent), begin);
}

#[test]
fn a_changed_generation_begins_anew_whatever_the_old_one_does() {
    let begin =
        Decision::Begin { attempt: Attempt::FIRST, first_attempt: Attempt::FIRST, after: None };
    for phase in [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed] {
        for pod in [
            PodState::Absent,
            PodState::Ended(success()),
            PodState::Running(Running { address: None }),
        ] {
            assert_eq!(decision(&wanted(4, None), &recorded(phase, 2, true), &pod), begin);
        }
    }
}

#[test]
fn a_generation_that_was_built_or_failed_is_never_built_again() {
    for phase in [Phase::Succeeded, Phase::Failed] {
        for pod in [
            PodState::Absent,
            PodState::Foreign,
            PodState::Ended(success()),
            waiting(Wait::Start, 9999, ""),
        ] {
            assert_eq!(
                decision(&wanted(3, None), &recorded(phase, 1, true), &pod),
                Decision::Settled
            );
        }
    }
}

#[test]
fn a_new_rebuild_text_asks_for_another_build_of_the_same_generation() {
    let handled =
        Recorded { rebuild: Some("monday".to_owned()), ..recorded(Phase::Succeeded, 2, true) };
    for (text, expected) in [
        (Some("monday"), Decision::Settled),
        (None, Decision::Settled),
        (
            Some("tuesday"),
            Decision::Begin { attempt: attempt(3), first_attempt: attempt(3), after: None },
        ),
    ] {
        assert_eq!(decision(&wanted(3, text), &handled, &PodState::Absent), expected, "{text:?}");
    }
}

#[test]
fn the_attempt_is_written_down_before_its_pod_is_made() {
    let begun = recorded(Phase::Pending, 1, false);
    assert_eq!(
        decision(&wanted(3, None), &begun, &PodState::Absent),
        Decision::CreatePod { attempt: Attempt::FIRST }
    );
}

#[test]
fn a_pod_that_was_seen_and_is_gone_is_lost_and_tried_again() {
    let Decision::Begin { attempt: next, first_attempt, after: Some(after) } =
        decision(&wanted(3, None), &recorded(Phase::Running, 1, true), &PodState::Absent)
    else {
        panic!("not tried again")
    };
    assert_eq!(
        (next.number(), first_attempt.number(), after.failure.reason),
        (2, 1, FailureReason::PodDeleted)
    );
}

#[test]
fn what_is_not_the_builds_fault_is_tried_again_until_the_retries_are_used_up() {
    for (reason, number, is_retried) in [
        (FailureReason::Evicted, 1, true),
        (FailureReason::Preempted, 2, true),
        (FailureReason::NodeLost, 3, false),
        (FailureReason::DaemonDied, 1, true),
        (FailureReason::StepFailed, 1, false),
        (FailureReason::OutOfMemory, 1, false),
        (FailureReason::Timeout, 1, false),
        (FailureReason::RegistryUnauthorized, 1, false),
    ] {
        for pod in
            [PodState::Lost(failure(reason)), PodState::Ended(BuildResult::failed(failure(reason)))]
        {
            let decision =
                decision(&wanted(3, None), &recorded(Phase::Running, number, true), &pod);
            assert_eq!(
                matches!(decision, Decision::Begin { .. }),
                is_retried,
                "{reason} in attempt {number}: {decision:?}"
            );
            assert_eq!(
                matches!(decision, Decision::Finish(_)),
                !is_retried,
                "{reason} in attempt {number}: {decision:?}"
            );
        }
    }
}

#[test]
fn a_rebuild_has_retries_of_its_own() {
    let rebuilt = Recorded { first_attempt: Some(attempt(5)), ..recorded(Phase::Running, 6, true) };
    let decision =
        decision(&wanted(3, None), &rebuilt, &PodState::Lost(failure(FailureReason::Evicted)));
    assert!(
        matches!(decision, Decision::Begin { attempt, .. } if attempt.number() == 7),
        "{decision:?}"
    );
}

#[test]
fn each_wait_ends_at_its_own_deadline_and_says_what_it_waited_for() {
    for (wait, limit, field) in [
        (Wait::Claim, 60, "claim"),
        (Wait::Schedule, 1800, "schedule"),
        (Wait::Start, 600, "start"),
    ] {
        let in_time = decision(
            &wanted(3, None),
            &recorded(Phase::Pending, 1, false),
            &waiting(wait, limit - 1, "no node"),
        );
        let Decision::Wait { message, reason, recheck } = in_time else { panic!("{in_time:?}") };
        let shown = format_duration(Duration::from_secs(limit.unsigned_abs()));
        assert_eq!(
            message,
            format!("no node (the build fails after {shown} of this: deadlines.{field})")
        );
        assert_eq!(reason, Some(FailureReason::Unschedulable));
        assert_eq!(recheck, Some(Duration::from_millis(1050)));
        let late = decision(
            &wanted(3, None),
            &recorded(Phase::Pending, 1, false),
            &waiting(wait, limit, "no node"),
        );
        let Decision::Finish(BuildResult { outcome: Outcome::Failed(failure), .. }) = late else {
            panic!("{late:?}")
        };
        assert_eq!(
            failure.message,
            format!("waited {limit}s (deadlines.{field}) in vain: no node")
        );
    }
}

#[test]
fn a_name_that_stays_taken_is_not_waited_for_for_ever() {
    for (seconds, ends) in [(1799, false), (1800, true)] {
        let begun = Recorded {
            started: Some(now() - SignedDuration::from_secs(seconds)),
            ..recorded(Phase::Pending, 1, false)
        };
        match decision(&wanted(3, None), &begun, &PodState::Foreign) {
            Decision::Wait { reason: None, recheck: Some(recheck), .. } if !ends => {
                assert_eq!(recheck, Duration::from_secs(1));
            }
            Decision::Finish(BuildResult { outcome: Outcome::Failed(failure), .. }) if ends => {
                assert_eq!(failure.reason, FailureReason::Timeout);
                assert!(
                    failure.message.starts_with(
                        "waited 1800s (deadlines.schedule) in vain: a pod of this name"
                    )
                );
            }
            other => panic!("after {seconds}s: {other:?}"),
        }
    }
}

#[test]
fn what_cannot_get_better_is_not_waited_for() {
    let pod = PodState::Waiting(Waiting {
        reason: FailureReason::BuilderImagePull,
        message: "InvalidImageName".to_owned(),
        wait: Wait::Start,
        since: Some(now()),
        hopeless: true,
    });
    let decision = decision(&wanted(3, None), &recorded(Phase::Pending, 1, false), &pod);
    assert!(matches!(decision, Decision::Finish(_)), "{decision:?}");
}

#[test]
fn a_clock_that_went_back_does_not_end_a_wait() {
    let decision = decision(
        &wanted(3, None),
        &recorded(Phase::Pending, 1, false),
        &waiting(Wait::Claim, -3600, ""),
    );
    assert!(matches!(decision, Decision::Wait { .. }), "{decision:?}");
}

#[test]
fn a_build_that_is_not_next_waits_with_its_attempt_written_down_and_no_pod() {
    let waiting = Turn::Waiting { position: 7 };
    let queued = recorded(Phase::Queued, 1, false);
    for (wanted, recorded, number) in [
        (wanted(1, None), Recorded::default(), 1),
        // The pods of other generations have other names, those of the same one have not.
        (wanted(4, None), recorded(Phase::Succeeded, 2, true), 1),
        (wanted(3, Some("again")), recorded(Phase::Succeeded, 2, true), 3),
        (wanted(3, None), queued.clone(), 1),
        (wanted(3, None), recorded(Phase::Pending, 1, false), 1),
    ] {
        // Nor does it lose its place where a pod of a deleted build still has its pod's name.
        for pod in [PodState::Absent, PodState::Foreign] {
            let decision = decide(&wanted, &recorded, &pod, &limits(), waiting, now());
            let (attempt, first_attempt) = (attempt(number), attempt(number));
            assert_eq!(
                decision,
                Decision::Queue { attempt, first_attempt, position: 7 },
                "{recorded:?} {pod:?}"
            );
        }
    }
    let decision =
        decide(&wanted(3, None), &queued, &PodState::Absent, &limits(), Turn::Granted, now());
    assert_eq!(decision, Decision::CreatePod { attempt: Attempt::FIRST });
}

#[test]
fn waiting_for_a_turn_ends_at_its_deadline_if_it_has_one() {
    let queued = Recorded {
        queued: Some(now() - SignedDuration::from_secs(60)),
        ..recorded(Phase::Queued, 1, false)
    };
    let gated = PodState::Gated { message: String::new() };
    for (limit, pod, is_over) in [
        (Some(60), PodState::Absent, true),
        (Some(60), PodState::Foreign, true),
        (Some(60), gated.clone(), true),
        (Some(61), PodState::Absent, false),
        (Some(61), gated, false),
        (Some(60), PodState::Running(Running { address: None }), false),
        (None, PodState::Absent, false),
    ] {
        let queue = limit.map(|seconds| ConfigDuration(Duration::from_secs(seconds)));
        let limits = Limits { waits: Waits { queue, ..Waits::default() }, ..limits() };
        let decision =
            decide(&wanted(3, None), &queued, &pod, &limits, Turn::Waiting { position: 2 }, now());
        let is_timeout = matches!(&decision, Decision::Finish(BuildResult { outcome: Outcome::Failed(failure), .. })
            if failure.reason == FailureReason::Timeout && failure.message.contains("deadlines.queue"));
        assert_eq!(is_timeout, is_over, "{limit:?} {pod:?}: {decision:?}");
    }
}

#[test]
fn a_pod_that_a_gate_holds_back_is_left_alone() {
    let gated = PodState::Gated {
        message: "Scheduling is blocked due to non-empty scheduling gates".to_owned(),
    };
    let decision = decision(&wanted(3, None), &recorded(Phase::Pending, 1, false), &gated);
    assert!(matches!(decision, Decision::Gated { .. }), "{decision:?}");
}

#[test]
fn an_annotation_that_came_after_the_build_had_begun_cancels_it() {
    let cancel = |text: Option<&str>| Wanted { cancel: text.map(str::to_owned), ..wanted(3, None) };
    let begun = Recorded { cancel: Some("old".to_owned()), ..recorded(Phase::Running, 1, true) };
    for (text, recorded, is_cancelled) in [
        (Some("new"), begun.clone(), true),
        (Some("new"), Recorded { phase: Some(Phase::Queued), ..begun.clone() }, true),
        (Some("old"), begun.clone(), false),
        (None, begun.clone(), false),
        (Some("new"), Recorded { phase: Some(Phase::Succeeded), ..begun.clone() }, false),
        // What the annotation says belongs to the build before.
        (Some("new"), Recorded { generation: Some(2), ..begun }, false),
    ] {
        let decision =
            decision(&cancel(text), &recorded, &PodState::Running(Running { address: None }));
        let reason = match &decision {
            Decision::Finish(BuildResult { outcome: Outcome::Failed(failure), .. }) => {
                Some(failure.reason)
            }
            _ => None,
        };
        assert_eq!(
            reason == Some(FailureReason::Cancelled),
            is_cancelled,
            "{text:?} {recorded:?}: {decision:?}"
        );
    }
}

#[test]
fn pauses_before_retries_grow_and_are_no_shorter_than_a_registry_asks_for() {
    for (reason, retry_after, number, seconds) in [
        (FailureReason::Evicted, None, 1, 1),
        (FailureReason::Evicted, None, 2, 4),
        (FailureReason::RegistryUnavailable, None, 1, 10),
        (FailureReason::RegistryUnavailable, None, 2, 40),
        (FailureReason::RegistryUnavailable, Some(3), 1, 10),
        (FailureReason::RegistryUnavailable, Some(77), 1, 77),
        (FailureReason::RegistryUnavailable, Some(u32::MAX), 1, 3600),
    ] {
        let lost = PodState::Lost(BuildFailure { retry_after, ..failure(reason) });
        let decision = decision(&wanted(3, None), &recorded(Phase::Running, number, true), &lost);
        let Decision::Begin { after: Some(after), .. } = decision else { panic!("{decision:?}") };
        assert_eq!(
            after.retry.duration_since(now()),
            SignedDuration::from_secs(seconds),
            "{reason} {retry_after:?} {number}"
        );
    }
    let many = Limits { retries: 100, ..limits() };
    let lost = PodState::Lost(failure(FailureReason::Evicted));
    let decision = decide(
        &wanted(3, None),
        &recorded(Phase::Running, 90, true),
        &lost,
        &many,
        Turn::Granted,
        now(),
    );
    let Decision::Begin { after: Some(after), .. } = decision else { panic!("{decision:?}") };
    assert_eq!(
        after.retry.duration_since(now()),
        SignedDuration::from_mins(5),
        "the operator's own pauses end somewhere"
    );
}

#[test]
fn a_pause_ends_also_when_the_clock_is_set_back() {
    for (seconds, expected) in [
        (30, Decision::Pause(Duration::from_secs(30))),
        (0, Decision::CreatePod { attempt: attempt(2) }),
        (-30, Decision::CreatePod { attempt: attempt(2) }),
        (999_999, Decision::CreatePod { attempt: attempt(2) }),
    ] {
        let retry = Some(now() + SignedDuration::from_secs(seconds));
        let paused = Recorded { retry, ..recorded(Phase::Pending, 2, false) };
        assert_eq!(decision(&wanted(3, None), &paused, &PodState::Absent), expected, "{seconds}");
    }
}

mod convergence;
