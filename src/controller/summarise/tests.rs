use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Facts, Standing, summarise};
use crate::{
    api::{BuildPod, FailureReason, OciBuildStatus, OutputFormat, Phase, Progress},
    controller::lifecycle::Wanted,
    plan::{Attempt, Digest},
    runner::result::{AdditionalImage, BuildFailure, BuildResult, BuiltImage, Milliseconds, Outcome, WrittenTar},
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
    let standing = Standing::Begun { attempt: Attempt::FIRST, first_attempt: Attempt::FIRST, after: None };
    summarise(&OciBuildStatus::default(), &Facts { pod: None, ..facts(wanted, 0) }, &standing)
}

fn wanted() -> Wanted {
    Wanted { generation: 2, rebuild: None }
}

fn success() -> BuildResult {
    let built = BuiltImage {
        digest: Digest::from_sha256([0xab; 32]),
        config_digest: Some(Digest::from_sha256([0xcd; 32])),
        size: Some(1234),
        media_type: Some("application/vnd.oci.image.manifest.v1+json".to_owned()),
        platforms: vec!["linux/amd64".to_owned()],
        pushed: true,
        tar: Some(WrittenTar { path: "image.tar".to_owned(), size: 5678, sha256: "ef".repeat(32), format: OutputFormat::Docker }),
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
        timings: Milliseconds { daemon: Some(120), source: Some(5), build: Some(400), export: Some(80), push: None },
        progress: Some(Progress { total: 2, done: 2, cached: 1, current: None, summary: "2/2".to_owned() }),
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
    let next = Wanted { generation: 3, rebuild: None };
    let standing = Standing::Begun { attempt: Attempt::FIRST, first_attempt: Attempt::FIRST, after: None };
    let again = summarise(&succeeded, &Facts { pod: None, ..facts(&next, 60) }, &standing);
    let failure = BuildFailure {
        step: Some("[2/3] RUN make".to_owned()),
        exit_code: Some(2),
        log_excerpt: Some("make: *** No targets".to_owned()),
        ..BuildFailure::new(FailureReason::StepFailed, "process \"/bin/sh -c make\" did not complete successfully: exit code: 2")
    };
    let failed = summarise(&again, &facts(&next, 65), &Standing::Finished(&BuildResult::failed(failure)));
    insta::assert_yaml_snapshot!(failed);
}

#[test]
fn a_suspended_build_keeps_the_last_success_alone() {
    let wanted = wanted();
    let succeeded = summarise(&begun(&wanted), &facts(&wanted, 4), &Standing::Finished(&success()));
    let next = Wanted { generation: 3, rebuild: None };
    let suspended = summarise(&succeeded, &facts(&next, 60), &Standing::Suspended);
    assert_eq!((suspended.phase, suspended.observed_generation), (Some(Phase::Suspended), Some(3)));
    assert!(suspended.last_success.is_some() && suspended.image.is_none() && suspended.attempt.is_none());
    assert_eq!(summarise(&suspended, &facts(&next, 90), &Standing::Suspended), suspended);
}

#[test]
fn a_status_that_says_the_same_is_the_same_at_any_time() {
    let wanted = wanted();
    let waiting = Standing::Waiting { message: "no node", reason: Some(FailureReason::Unschedulable) };
    let first = summarise(&begun(&wanted), &facts(&wanted, 1), &waiting);
    assert_eq!(summarise(&first, &facts(&wanted, 500), &waiting), first);
    let running = summarise(&first, &facts(&wanted, 501), &Standing::Running { progress: None });
    assert_eq!(summarise(&running, &facts(&wanted, 900), &Standing::Running { progress: None }), running);
}

#[test]
fn a_retry_keeps_the_begin_and_tells_what_was_lost() {
    let wanted = wanted();
    let lost = BuildFailure::new(FailureReason::Evicted, "the node was low on memory");
    let second = Standing::Begun { attempt: Attempt::FIRST.next(), first_attempt: Attempt::FIRST, after: Some(&lost) };
    let status = summarise(&begun(&wanted), &Facts { pod: None, ..facts(&wanted, 30) }, &second);
    assert_eq!(status.start_time.as_ref().map(|time| time.0), Some(begin()));
    assert_eq!(status.warnings, ["attempt 1 was lost: Evicted: the node was low on memory"]);
    assert_eq!((status.attempt, status.phase, status.pod), (Some(2), Some(Phase::Pending), None));
}

#[test]
fn long_texts_of_a_build_are_cut_between_characters() {
    let wanted = wanted();
    let failure =
        BuildFailure { log_excerpt: Some("ä".repeat(9000)), ..BuildFailure::new(FailureReason::StepFailed, "€".repeat(9000)) };
    let status = summarise(&begun(&wanted), &facts(&wanted, 1), &Standing::Finished(&BuildResult::failed(failure)));
    let failure = status.failure.unwrap();
    assert!(failure.message.len() <= 4096 && failure.message.ends_with('…'));
    assert!(failure.log_excerpt.unwrap().len() <= 4096);
    assert!(status.conditions.iter().all(|condition| condition.message.len() <= 1024));
}
