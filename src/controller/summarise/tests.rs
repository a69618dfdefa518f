use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Facts, Standing, summarise};
use crate::{
    api::{BuildPod, FailureReason, OciBuildStatus, OutputFormat, Phase, Progress},
    controller::lifecycle::{Lost, Wanted},
    plan::{Attempt, Digest},
    runner::result::{
        AdditionalImage, BuildFailure, BuildResult, BuiltImage, Milliseconds, Outcome, WrittenTar,
    },
};

fn begin() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn facts(wanted: &Wanted, seconds: i64) -> Facts<'_> {
    Facts {
        wanted,
        namespace: "team",
        reference: Some("docker.io/my-team/app:v1".to_owned()),
        output_claim: Some("app-output"),
        pod: Some(BuildPod {
            name: "app-g2-a1".to_owned(),
            uid: Some("pod-uid".to_owned()),
            node: Some("node-1".to_owned()),
            isolation: Some("rootless".to_owned()),
        }),
        now: begin() + SignedDuration::from_secs(seconds),
    }
}

fn begun(wanted: &Wanted) -> OciBuildStatus {
    let standing =
        Standing::Begun { attempt: Attempt::FIRST, first_attempt: Attempt::FIRST, after: None };
    summarise(&OciBuildStatus::default(), &Facts { pod: None, ..facts(wanted, 0) }, &standing)
}

fn wanted() -> Wanted {
    Wanted { generation: 2, ..Wanted::default() }
}

fn success() -> BuildResult {
    let built = BuiltImage {
        digest: Digest::from_sha256([0xab; 32]),
        config_digest: Some(Digest::from_sha256([0xcd; 32])),
        size: Some(1234),
        media_type: Some("application/vnd.oci.image.manifest.v1+json".to_owned()),
        platforms: vec!["linux/amd64".to_owned()],
        pushed: true,
        tar: Some(WrittenTar {
            path: "image.tar".to_owned(),
            size: 5678,
            sha256: "ef".repeat(32),
            format: OutputFormat::Docker,
        }),
        additional: vec![AdditionalImage {
            target: "test".to_owned(),
            digest: Digest::from_sha256([0x12; 32]),
            config_digest: None,
            tar: Some(WrittenTar {
                path: "targets/test/image.tar".to_owned(),
                size: 9,
                sha256: "ab".repeat(32),
                format: OutputFormat::Docker,
            }),
        }],
    };
    BuildResult {
        outcome: Outcome::Succeeded(built),
        started_at: Some(begin().as_millisecond() + 900),
        timings: Milliseconds {
            daemon: Some(120),
            source: Some(5),
            build: Some(400),
            export: Some(80),
            push: None,
        },
        progress: Some(Progress {
            total: 2,
            done: 2,
            cached: 1,
            current: None,
            summary: "2/2".to_owned(),
        }),
        warnings: vec!["a warning".to_owned()],
    }
}

#[test]
fn a_build_that_succeeds_reads_so_from_begin_to_end() {
    let wanted = wanted();
    let begun = begun(&wanted);
    let running = summarise(&begun, &facts(&wanted, 1), &Standing::Running { progress: None });
    let succeeded = summarise(&running, &facts(&wanted, 4), &Standing::Finished(&success()));
    insta::assert_yaml_snapshot!([begun, running, succeeded]);
}

#[test]
fn a_build_that_fails_says_why_and_keeps_the_last_success() {
    let wanted = wanted();
    let succeeded = summarise(&begun(&wanted), &facts(&wanted, 4), &Standing::Finished(&success()));
    let next = Wanted { generation: 3, ..Wanted::default() };
    let standing =
        Standing::Begun { attempt: Attempt::FIRST, first_attempt: Attempt::FIRST, after: None };
    let again = summarise(&succeeded, &Facts { pod: None, ..facts(&next, 60) }, &standing);
    let failure = BuildFailure {
        step: Some("[2/3] RUN make".to_owned()),
        exit_code: Some(2),
        log_excerpt: Some("make: *** No targets".to_owned()),
        ..BuildFailure::new(
            FailureReason::StepFailed,
            "process \"/bin/sh -c make\" did not complete successfully: exit code: 2",
        )
    };
    let failed =
        summarise(&again, &facts(&next, 65), &Standing::Finished(&BuildResult::failed(failure)));
    insta::assert_yaml_snapshot!(failed);
}

#[test]
fn a_suspended_build_keeps_the_last_success_alone() {
    let wanted = wanted();
    let succeeded = summarise(&begun(&wanted), &facts(&wanted, 4), &Standing::Finished(&success()));
    let next = Wanted { generation: 3, ..Wanted::default() };
    let suspended = summarise(&succeeded, &facts(&next, 60), &Standing::Suspended);
    assert_eq!((suspended.phase, suspended.observed_generation), (Some(Phase::Suspended), Some(3)));
    assert!(
        suspended.last_success.is_some()
            && suspended.image.is_none()
            && suspended.attempt.is_none()
    );
    assert_eq!(summarise(&suspended, &facts(&next, 90), &Standing::Suspended), suspended);
}

#[test]
fn a_status_that_says_the_same_is_the_same_at_any_time() {
    let wanted = wanted();
    let waiting =
        Standing::Waiting { message: "no node", reason: Some(FailureReason::Unschedulable) };
    let first = summarise(&begun(&wanted), &facts(&wanted, 1), &waiting);
    assert_eq!(summarise(&first, &facts(&wanted, 500), &waiting), first);
    let running = summarise(&first, &facts(&wanted, 501), &Standing::Running { progress: None });
    assert_eq!(
        summarise(&running, &facts(&wanted, 900), &Standing::Running { progress: None }),
        running
    );
}

#[test]
fn a_retry_keeps_the_begin_and_tells_what_was_lost() {
    let wanted = wanted();
    let failure = BuildFailure::new(FailureReason::Evicted, "the node was low on memory");
    let lost = Lost { failure, retry: begin() + SignedDuration::from_secs(34) };
    let second = Standing::Begun {
        attempt: Attempt::FIRST.next(),
        first_attempt: Attempt::FIRST,
        after: Some(&lost),
    };
    let status = summarise(&begun(&wanted), &Facts { pod: None, ..facts(&wanted, 30) }, &second);
    assert_eq!(status.start_time.as_ref().map(|time| time.0), Some(begin()));
    assert_eq!(status.warnings, ["attempt 1 was lost: Evicted: the node was low on memory"]);
    assert_eq!((status.attempt, status.phase, status.pod), (Some(2), Some(Phase::Pending), None));
    assert_eq!(
        status.conditions[0].message,
        "attempt 2 begins in 4s; the one before was lost: Evicted: the node was low on memory"
    );
}

#[test]
fn long_texts_of_a_build_are_cut_between_characters() {
    let wanted = wanted();
    let failure = BuildFailure {
        log_excerpt: Some("ä".repeat(9000)),
        ..BuildFailure::new(FailureReason::StepFailed, "€".repeat(9000))
    };
    let status = summarise(
        &begun(&wanted),
        &facts(&wanted, 1),
        &Standing::Finished(&BuildResult::failed(failure)),
    );
    let failure = status.failure.unwrap();
    assert!(failure.message.len() <= 4096 && failure.message.ends_with('…'));
    assert!(failure.log_excerpt.unwrap().len() <= 4096);
    assert!(status.conditions.iter().all(|condition| condition.message.len() <= 1024));
}

#[test]
fn the_wait_for_a_turn_is_told_and_is_not_the_builds_time() {
    let wanted = Wanted { cancel: Some("an old text".to_owned()), ..wanted() };
    let queued = |position, message| Standing::Queued {
        attempt: Attempt::FIRST,
        first_attempt: Attempt::FIRST,
        position,
        reason: "Queued",
        message,
    };
    let at = |seconds| Facts { pod: None, ..facts(&wanted, seconds) };
    let first = summarise(&OciBuildStatus::default(), &at(0), &queued(Some(7), "number 7"));
    let later = summarise(&first, &at(50), &queued(Some(3), "number 3"));
    let held = summarise(&later, &at(60), &queued(None, "exceeded quota: builds"));
    let created = summarise(&held, &at(100), &Standing::Waiting { message: "", reason: None });
    let running = summarise(&created, &facts(&wanted, 101), &Standing::Running { progress: None });
    let result = BuildResult { started_at: None, ..success() };
    let succeeded = summarise(&running, &facts(&wanted, 104), &Standing::Finished(&result));
    assert_eq!(
        first.observed_cancel.as_deref(),
        Some("an old text"),
        "it does not cancel this build"
    );
    assert_eq!(
        (first.phase, first.attempt, &first.start_time),
        (Some(Phase::Queued), Some(1), &None)
    );
    let positions = [&first, &later, &held].map(|status| status.queue.clone().unwrap().position);
    assert_eq!(positions, [Some(7), Some(3), None]);
    assert!(
        [&first, &later, &held]
            .iter()
            .all(|status| status.queue.as_ref().unwrap().since.0 == begin())
    );
    assert_eq!((created.phase, &created.queue), (Some(Phase::Pending), &None));
    assert_eq!(succeeded.timings.unwrap().queued.as_deref(), Some("1m40s"));
    assert_eq!(succeeded.duration.as_deref(), Some("4.0s"));
}

#[test]
fn another_build_of_the_same_generation_waits_without_what_the_last_one_left() {
    let wanted = wanted();
    let succeeded = summarise(&begun(&wanted), &facts(&wanted, 4), &Standing::Finished(&success()));
    let again = Wanted { rebuild: Some("again".to_owned()), ..wanted };
    let second = Attempt::FIRST.next();
    let standing = Standing::Queued {
        attempt: second,
        first_attempt: second,
        position: Some(1),
        reason: "Queued",
        message: "number 1",
    };
    let queued = summarise(&succeeded, &Facts { pod: None, ..facts(&again, 60) }, &standing);
    assert_eq!(
        (queued.attempt, queued.first_attempt, queued.pod, queued.tar),
        (Some(2), Some(2), None, None)
    );
    assert_eq!((queued.start_time, queued.completion_time, queued.duration), (None, None, None));
    assert!(queued.last_success.is_some());
}
