use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{
    super::diagnose::{PodState, Running, Wait, Waiting},
    Decision, Limits, Recorded, Wanted, decide,
};
use crate::{
    api::{FailureReason, Phase},
    plan::{Attempt, Digest, operator_config::Waits},
    runner::result::{BuildFailure, BuildResult, BuiltImage, Outcome},
};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn limits() -> Limits {
    Limits { retries: 2, waits: Waits::default() }
}

fn wanted(generation: i64, rebuild: Option<&str>) -> Wanted {
    Wanted { generation, rebuild: rebuild.map(str::to_owned) }
}

fn attempt(number: i32) -> Attempt {
    Attempt::from_number(number).unwrap()
}

/// A build of generation 3 in its attempt `number`, begun with attempt 1.
fn recorded(phase: Phase, number: i32, pod_seen: bool) -> Recorded {
    Recorded {
        generation: Some(3),
        rebuild: None,
        attempt: Some(attempt(number)),
        first_attempt: Some(Attempt::FIRST),
        phase: Some(phase),
        pod_seen,
        started: Some(now()),
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
    BuildResult { outcome: Outcome::Succeeded(built), ..BuildResult::failed(failure(FailureReason::Internal)) }
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
    decide(wanted, recorded, pod, &limits(), now())
}

#[test]
fn a_new_build_begins_with_attempt_1() {
    let begin = Decision::Begin { attempt: Attempt::FIRST, first_attempt: Attempt::FIRST, after: None };
    assert_eq!(decision(&wanted(1, None), &Recorded::default(), &PodState::Absent), begin);
    assert_eq!(decision(&wanted(1, Some("x")), &Recorded::default(), &PodState::Absent), begin);
}

#[test]
fn a_changed_generation_begins_anew_whatever_the_old_one_does() {
    let begin = Decision::Begin { attempt: Attempt::FIRST, first_attempt: Attempt::FIRST, after: None };
    for phase in [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed] {
        for pod in [PodState::Absent, PodState::Ended(success()), PodState::Running(Running { address: None })] {
            assert_eq!(decision(&wanted(4, None), &recorded(phase, 2, true), &pod), begin);
        }
    }
}

#[test]
fn a_generation_that_was_built_or_failed_is_never_built_again() {
    for phase in [Phase::Succeeded, Phase::Failed] {
        for pod in [PodState::Absent, PodState::Foreign, PodState::Ended(success()), waiting(Wait::Start, 9999, "")] {
            assert_eq!(decision(&wanted(3, None), &recorded(phase, 1, true), &pod), Decision::Settled);
        }
    }
}

#[test]
fn a_new_rebuild_text_asks_for_another_build_of_the_same_generation() {
    let handled = Recorded { rebuild: Some("monday".to_owned()), ..recorded(Phase::Succeeded, 2, true) };
    for (text, expected) in [
        (Some("monday"), Decision::Settled),
        (None, Decision::Settled),
        (Some("tuesday"), Decision::Begin { attempt: attempt(3), first_attempt: attempt(3), after: None }),
    ] {
        assert_eq!(decision(&wanted(3, text), &handled, &PodState::Absent), expected, "{text:?}");
    }
}

#[test]
fn the_attempt_is_written_down_before_its_pod_is_made() {
    let begun = recorded(Phase::Pending, 1, false);
    assert_eq!(decision(&wanted(3, None), &begun, &PodState::Absent), Decision::CreatePod { attempt: Attempt::FIRST });
}

#[test]
fn a_pod_that_was_seen_and_is_gone_is_lost_and_tried_again() {
    let Decision::Begin { attempt: next, first_attempt, after: Some(after) } =
        decision(&wanted(3, None), &recorded(Phase::Running, 1, true), &PodState::Absent)
    else {
        panic!("not tried again")
    };
    assert_eq!((next.number(), first_attempt.number(), after.reason), (2, 1, FailureReason::PodDeleted));
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
        for pod in [PodState::Lost(failure(reason)), PodState::Ended(BuildResult::failed(failure(reason)))] {
            let decision = decision(&wanted(3, None), &recorded(Phase::Running, number, true), &pod);
            assert_eq!(matches!(decision, Decision::Begin { .. }), is_retried, "{reason} in attempt {number}: {decision:?}");
            assert_eq!(matches!(decision, Decision::Finish(_)), !is_retried, "{reason} in attempt {number}: {decision:?}");
        }
    }
}

#[test]
fn a_rebuild_has_retries_of_its_own() {
    let rebuilt = Recorded { first_attempt: Some(attempt(5)), ..recorded(Phase::Running, 6, true) };
    let decision = decision(&wanted(3, None), &rebuilt, &PodState::Lost(failure(FailureReason::Evicted)));
    assert!(matches!(decision, Decision::Begin { attempt, .. } if attempt.number() == 7), "{decision:?}");
}

#[test]
fn each_wait_ends_at_its_own_deadline_and_says_what_it_waited_for() {
    for (wait, limit, field) in [(Wait::Claim, 60, "claim"), (Wait::Schedule, 1800, "schedule"), (Wait::Start, 600, "start")] {
        let in_time = decision(&wanted(3, None), &recorded(Phase::Pending, 1, false), &waiting(wait, limit - 1, "no node"));
        let Decision::Wait { message, reason, recheck } = in_time else { panic!("{in_time:?}") };
        assert_eq!((message.as_str(), reason), ("no node", Some(FailureReason::Unschedulable)));
        assert_eq!(recheck, Some(Duration::from_millis(1050)));
        let late = decision(&wanted(3, None), &recorded(Phase::Pending, 1, false), &waiting(wait, limit, "no node"));
        let Decision::Finish(BuildResult { outcome: Outcome::Failed(failure), .. }) = late else { panic!("{late:?}") };
        assert_eq!(failure.message, format!("waited {limit}s (deadlines.{field}) in vain: no node"));
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
    let decision = decision(&wanted(3, None), &recorded(Phase::Pending, 1, false), &waiting(Wait::Claim, -3600, ""));
    assert!(matches!(decision, Decision::Wait { .. }), "{decision:?}");
}

fn any_reason() -> impl Strategy<Value = FailureReason> {
    prop::sample::select(vec![
        FailureReason::Evicted,
        FailureReason::DaemonDied,
        FailureReason::StepFailed,
        FailureReason::PodDeleted,
        FailureReason::Timeout,
        FailureReason::Unschedulable,
    ])
}

fn any_pod() -> impl Strategy<Value = PodState> {
    prop_oneof![
        Just(PodState::Absent),
        Just(PodState::Foreign),
        (0i64..4000).prop_map(|seconds| waiting(Wait::Schedule, seconds, "")),
        Just(PodState::Running(Running { address: None })),
        any_reason().prop_map(|reason| PodState::Terminating(failure(reason))),
        any_reason().prop_map(|reason| PodState::Lost(failure(reason))),
        any_reason().prop_map(|reason| PodState::Ended(BuildResult::failed(failure(reason)))),
        Just(PodState::Ended(success())),
    ]
}

/// What the controller writes down after a decision.
fn record(before: &Recorded, wanted: &Wanted, decision: &Decision, pod: &PodState) -> Recorded {
    let pod_seen = before.pod_seen || !matches!(pod, PodState::Absent | PodState::Foreign);
    match decision {
        Decision::Begin { attempt, first_attempt, .. } => Recorded {
            generation: Some(wanted.generation),
            rebuild: wanted.rebuild.clone().or_else(|| before.rebuild.clone()),
            attempt: Some(*attempt),
            first_attempt: Some(*first_attempt),
            phase: Some(Phase::Pending),
            pod_seen: false,
            started: Some(now()),
        },
        Decision::Wait { .. } => Recorded { phase: Some(Phase::Pending), pod_seen, ..before.clone() },
        Decision::Track(_) => Recorded { phase: Some(Phase::Running), pod_seen, ..before.clone() },
        Decision::Finish(result) => {
            let phase = if matches!(result.outcome, Outcome::Succeeded(_)) { Phase::Succeeded } else { Phase::Failed };
            Recorded { phase: Some(phase), pod_seen, ..before.clone() }
        }
        Decision::Settled | Decision::CreatePod { .. } => before.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_the_pods_do_attempts_are_bounded_and_a_final_phase_stays(
        pods in prop::collection::vec((any_pod(), any::<bool>()), 1..60),
    ) {
        let wanted = wanted(1, None);
        let mut recorded = Recorded::default();
        for (pod, write_is_lost) in pods {
            // What a new attempt sees first is that its pod is not there.
            let pod = if recorded.attempt.is_none() { PodState::Absent } else { pod };
            let decision = decision(&wanted, &recorded, &pod);
            if recorded.phase.is_some_and(Phase::is_final) {
                prop_assert_eq!(&decision, &Decision::Settled);
            }
            if !write_is_lost {
                let after = record(&recorded, &wanted, &decision, &pod);
                prop_assert!(after.attempt >= recorded.attempt, "attempts only grow");
                recorded = after;
            }
            prop_assert!(recorded.attempt.is_none_or(|attempt| attempt.number() <= 1 + limits().retries));
        }
    }

    #[test]
    fn a_build_whose_pod_ends_well_is_settled_after_one_more_step(
        pods in prop::collection::vec(any_pod(), 0..20),
    ) {
        let wanted = wanted(1, Some("x"));
        let mut recorded = Recorded::default();
        for pod in pods.into_iter().chain([PodState::Ended(success()), PodState::Ended(success()), PodState::Ended(success())]) {
            let decision = decision(&wanted, &recorded, &pod);
            recorded = record(&recorded, &wanted, &decision, &pod);
        }
        prop_assert_eq!(decision(&wanted, &recorded, &PodState::Ended(success())), Decision::Settled);
    }
}
