use std::{fs, path::Path};

use k8s_openapi::jiff::Timestamp;

use super::{Transition, transition};
use crate::{
    api::{BuildPod, FailureReason, OciBuildStatus, Progress},
    controller::{
        lifecycle::{Lost, Wanted},
        summarise::{Facts, Standing, summarise},
    },
    plan::{Attempt, Digest},
    runner::result::{BuildFailure, BuildResult, BuiltImage, Milliseconds, Outcome},
};

fn begin(attempt: Attempt, after: Option<&Lost>) -> Standing<'_> {
    Standing::Begun { attempt, first_attempt: Attempt::FIRST, after }
}

const WAITING: Standing<'_> = Standing::Waiting { message: "", reason: None };
const RUNNING: Standing<'_> = Standing::Running { progress: None };

fn queued(reason: &'static str, position: Option<usize>) -> Standing<'static> {
    Standing::Queued {
        attempt: Attempt::FIRST,
        first_attempt: Attempt::FIRST,
        position,
        reason,
        message: "it waits",
    }
}

fn waiting_for(reason: FailureReason, message: &str) -> Standing<'_> {
    Standing::Waiting { message, reason: Some(reason) }
}

fn success() -> BuildResult {
    let built = BuiltImage {
        digest: Digest::from_sha256([0xab; 32]),
        config_digest: None,
        size: None,
        media_type: None,
        platforms: Vec::new(),
        pushed: true,
        tar: None,
        additional: Vec::new(),
    };
    BuildResult {
        outcome: Outcome::Succeeded(built),
        started_at: None,
        timings: Milliseconds::default(),
        progress: None,
        warnings: Vec::new(),
    }
}

fn failure(reason: FailureReason, message: &str) -> BuildResult {
    BuildResult::failed(BuildFailure {
        log_excerpt: Some("make: *** [all] Error 2".to_owned()),
        ..BuildFailure::new(reason, message)
    })
}

/// The events of a build that goes through these standings, one after the other.
fn events(
    generation: i64,
    before: &mut OciBuildStatus,
    standings: &[Standing<'_>],
) -> Vec<Transition> {
    let wanted = Wanted { generation, ..Wanted::default() };
    let mut events = Vec::new();
    for standing in standings {
        let is_begun = matches!(standing, Standing::Begun { .. });
        let pod = BuildPod {
            name: "app-g1-a1".to_owned(),
            node: Some("node-1".to_owned()),
            ..BuildPod::default()
        };
        let facts = Facts {
            wanted: &wanted,
            namespace: "team",
            reference: Some("docker.io/library/app:latest".to_owned()),
            output_claim: None,
            pod: (!is_begun).then_some(pod),
            now: Timestamp::UNIX_EPOCH,
        };
        let after = summarise(before, &facts, standing);
        events.extend(transition(before, &after));
        *before = after;
    }
    events
}

/// Kind, reason and note, as `kubectl describe` shows them.
fn told(events: &[Transition]) -> Vec<(&'static str, &str, &str)> {
    let kind = |event: &Transition| if event.is_warning { "Warning" } else { "Normal" };
    events.iter().map(|event| (kind(event), event.reason.as_str(), event.note.as_str())).collect()
}

#[test]
fn each_transition_is_one_event_with_a_reason_of_its_own() {
    let evicted = Lost {
        failure: BuildFailure::new(FailureReason::Evicted, "the node was low on memory"),
        retry: Timestamp::from_second(4).unwrap(),
    };
    let quota = waiting_for(FailureReason::QuotaExceeded, "exceeded quota: pods");
    let node = waiting_for(FailureReason::Unschedulable, "0/3 nodes are available");
    let done = Progress { total: 2, done: 1, ..Progress::default() };
    let (succeeded, failed) = (success(), failure(FailureReason::StepFailed, "exit code: 2"));
    let cancelled = BuildResult::failed(BuildFailure::new(
        FailureReason::Cancelled,
        "nobody has renewed the build's lease for 60s",
    ));
    for (what, standings, expected) in [
        ("begun", vec![begin(Attempt::FIRST, None)], vec!["Normal Begun"]),
        (
            "a pod that starts as it should",
            vec![begin(Attempt::FIRST, None), WAITING, WAITING],
            vec!["Normal Begun"],
        ),
        (
            "waiting for one thing after the other",
            vec![begin(Attempt::FIRST, None), quota.clone(), quota, node.clone(), node, WAITING],
            vec!["Normal Begun", "Warning QuotaExceeded", "Warning Unschedulable"],
        ),
        (
            "queued, with another position, then begun",
            vec![
                queued("Queued", Some(2)),
                queued("Queued", Some(1)),
                begin(Attempt::FIRST, None),
                RUNNING,
            ],
            vec!["Normal Queued", "Normal Begun", "Normal Building"],
        ),
        (
            "queued by a quota or a gate",
            vec![
                begin(Attempt::FIRST, None),
                queued("QuotaExceeded", None),
                queued("Gated", None),
                WAITING,
                WAITING,
            ],
            vec!["Normal Begun", "Normal QuotaExceeded", "Normal Gated", "Normal Begun"],
        ),
        (
            "building, with progress",
            vec![
                begin(Attempt::FIRST, None),
                RUNNING,
                Standing::Running { progress: Some(done) },
                RUNNING,
            ],
            vec!["Normal Begun", "Normal Building"],
        ),
        (
            "another attempt",
            vec![
                begin(Attempt::FIRST, None),
                RUNNING,
                begin(Attempt::FIRST.next(), Some(&evicted)),
                RUNNING,
            ],
            vec!["Normal Begun", "Normal Building", "Warning Retrying", "Normal Building"],
        ),
        (
            "succeeded",
            vec![begin(Attempt::FIRST, None), RUNNING, Standing::Finished(&succeeded)],
            vec!["Normal Begun", "Normal Building", "Normal Succeeded"],
        ),
        (
            "failed",
            vec![begin(Attempt::FIRST, None), RUNNING, Standing::Finished(&failed)],
            vec!["Normal Begun", "Normal Building", "Warning StepFailed"],
        ),
        (
            "cancelled",
            vec![begin(Attempt::FIRST, None), RUNNING, Standing::Finished(&cancelled)],
            vec!["Normal Begun", "Normal Building", "Warning Cancelled"],
        ),
        (
            "suspended and taken up again",
            vec![
                begin(Attempt::FIRST, None),
                RUNNING,
                Standing::Suspended,
                Standing::Suspended,
                begin(Attempt::FIRST, None),
            ],
            vec!["Normal Begun", "Normal Building", "Normal Suspended", "Normal Begun"],
        ),
    ] {
        let events = events(1, &mut OciBuildStatus::default(), &standings);
        let told: Vec<_> =
            told(&events).iter().map(|(kind, reason, _)| format!("{kind} {reason}")).collect();
        assert_eq!(told, expected, "{what}");
    }
}

#[test]
fn an_event_tells_the_story() {
    let evicted = Lost {
        failure: BuildFailure::new(FailureReason::Evicted, "the node was low on memory"),
        retry: Timestamp::from_second(4).unwrap(),
    };
    let second = begin(Attempt::FIRST.next(), Some(&evicted));
    let (succeeded, failed) = (success(), failure(FailureReason::StepFailed, "exit code: 2"));
    let mut status = OciBuildStatus::default();
    let first =
        [begin(Attempt::FIRST, None), RUNNING, second, RUNNING, Standing::Finished(&succeeded)];
    let mut all = events(1, &mut status, &first);
    all.extend(events(
        2,
        &mut status,
        &[begin(Attempt::FIRST, None), RUNNING, Standing::Finished(&failed)],
    ));
    insta::assert_yaml_snapshot!(told(&all));
    let of: Vec<_> = all.iter().map(|event| (event.generation, event.attempt)).collect();
    assert_eq!(of, [(1, 1), (1, 1), (1, 2), (1, 2), (1, 2), (2, 1), (2, 1), (2, 1)]);
}

#[test]
fn a_spec_that_cannot_be_built_is_an_event_again_when_it_is_asked_for_again() {
    let invalid = failure(FailureReason::InvalidSpec, "imageName is not valid");
    let mut status = OciBuildStatus::default();
    assert_eq!(events(1, &mut status, &[Standing::Finished(&invalid)]).len(), 1);
    assert_eq!(events(1, &mut status, &[Standing::Finished(&invalid)]).len(), 0);
    assert_eq!(events(2, &mut status, &[Standing::Finished(&invalid)]).len(), 1);
    let again = OciBuildStatus { observed_rebuild: Some("please".to_owned()), ..status.clone() };
    assert!(transition(&status, &again).is_some());
}

#[test]
fn a_long_story_is_cut_to_what_the_api_server_takes() {
    let long = failure(FailureReason::StepFailed, &"ä".repeat(5000));
    let events = events(
        1,
        &mut OciBuildStatus::default(),
        &[begin(Attempt::FIRST, None), Standing::Finished(&long)],
    );
    assert!(events.iter().all(|event| event.note.len() <= 1024), "{events:?}");
}

/// The reasons that are no failure's; those stand in docs/failure-reasons.md.
#[test]
fn every_reason_stands_in_the_documentation() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observing.md"))
        .unwrap();
    for reason in ["Queued", "Gated", "Begun", "Retrying", "Building", "Succeeded", "Suspended"] {
        assert!(
            page.contains(&format!("| `{reason}` |")),
            "docs/observing.md does not say what {reason} is"
        );
    }
}
