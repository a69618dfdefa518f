use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{PodState, Wait, WatchedPod, diagnose};
use crate::{api::FailureReason, runner::result::Outcome};

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

/// A pod of the build with UID `owner`, with this status.
fn pod(status: &Value) -> WatchedPod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "app-g1-a1",
            "labels": { "ocibuild.dev/build": "app" },
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{ "apiVersion": "ocibuild.dev/v1alpha1", "kind": "OciBuild", "name": "app", "uid": "owner", "controller": true }],
        },
        "status": status,
    }))
    .unwrap()
}

fn terminated(exit_code: i32, reason: &str, message: &str) -> Value {
    json!([{ "name": "build", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": { "terminated": { "exitCode": exit_code, "reason": reason, "message": message } } }])
}

fn diagnosed(status: &Value) -> PodState {
    diagnose(Some(&pod(status)), "owner", now())
}

fn failed_result(reason: &str) -> String {
    json!({ "outcome": { "failed": { "reason": reason, "message": "words" } } }).to_string()
}

#[test]
fn a_pod_of_another_owner_is_foreign() {
    assert_eq!(diagnose(Some(&pod(&json!({}))), "another", now()), PodState::Foreign);
    assert_eq!(diagnose(None, "owner", now()), PodState::Absent);
}

#[test]
fn the_end_of_the_builds_container_counts_while_the_pod_still_runs() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let message =
        json!({ "outcome": { "succeeded": { "digest": digest, "pushed": false } } }).to_string();
    let PodState::Ended(result) = diagnosed(
        &json!({ "phase": "Running", "containerStatuses": terminated(0, "Completed", &message) }),
    ) else {
        panic!("not ended")
    };
    assert!(matches!(result.outcome, Outcome::Succeeded(image) if image.digest.as_str() == digest));
}

#[test]
fn an_end_without_a_result_is_named_by_what_the_container_says() {
    let long =
        format!("{} exec: \"/ocibuild\": permission denied", "runc create failed: ".repeat(40));
    for (exit_code, reason, message, expected) in [
        (137, "OOMKilled", "", FailureReason::OutOfMemory),
        (137, "Error", "", FailureReason::RunnerKilled),
        (143, "Error", "", FailureReason::RunnerKilled),
        (137, "ContainerStatusUnknown", "", FailureReason::NodeLost),
        (
            128,
            "StartError",
            "failed to start containerd task \"1\": context canceled",
            FailureReason::RunnerKilled,
        ),
        (
            128,
            "StartError",
            "failed to validate OCI runtime features: signal: killed",
            FailureReason::RunnerKilled,
        ),
        (
            128,
            "StartError",
            "container init was OOM-killed (memory limit too low?)",
            FailureReason::Internal,
        ),
        (128, "StartError", &long, FailureReason::Internal),
        (
            128,
            "StartError",
            "exec: \"/ocibuild\": no such file or directory",
            FailureReason::Internal,
        ),
        (1, "Error", "not json", FailureReason::Internal),
        (
            1,
            "Error",
            r#"{"outcome":{"succeeded":{"digest":"lie","pushed":true}}}"#,
            FailureReason::Internal,
        ),
    ] {
        let state =
            diagnosed(&json!({ "containerStatuses": terminated(exit_code, reason, message) }));
        assert!(
            matches!(&state, PodState::Lost(failure) if failure.reason == expected),
            "{state:?}"
        );
    }
}

#[test]
fn a_dead_daemon_that_ran_out_of_memory_is_named_so() {
    let daemon = json!([{ "name": "buildkitd", "image": "", "imageID": "", "ready": false, "restartCount": 1,
                          "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } }]);
    for (reason, expected) in [
        ("DaemonDied", FailureReason::OutOfMemory),
        ("DockerfileMissing", FailureReason::DockerfileMissing),
    ] {
        let state = diagnosed(&json!({
            "initContainerStatuses": daemon, "containerStatuses": terminated(1, "Error", &failed_result(reason)),
        }));
        let PodState::Ended(result) = state else { panic!("{state:?}") };
        assert!(
            matches!(&result.outcome, Outcome::Failed(failure) if failure.reason == expected),
            "{result:?}"
        );
    }
}

#[test]
fn a_step_that_was_killed_ran_out_of_memory_if_there_is_a_limit() {
    let result = json!({ "outcome": { "failed": { "reason": "StepFailed", "message": "exit code: 137", "exitCode": 137 } } });
    for (limit, reason, words) in [
        (Some("64Mi"), FailureReason::OutOfMemory, "limit of 64Mi; exit code: 137"),
        (None, FailureReason::StepFailed, "exit code: 137"),
    ] {
        let mut pod =
            pod(&json!({ "containerStatuses": terminated(1, "Error", &result.to_string()) }));
        pod.memory_limit = limit.map(str::to_owned);
        let PodState::Ended(result) = diagnose(Some(&pod), "owner", now()) else {
            panic!("not ended")
        };
        let Outcome::Failed(failure) = result.outcome else { panic!("not failed") };
        assert_eq!(failure.reason, reason);
        assert!(failure.message.ends_with(words), "{}", failure.message);
    }
}

#[test]
fn a_pod_that_used_more_storage_than_it_may_is_told_from_one_that_made_room() {
    for (message, expected) in [
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 30Mi. ",
            FailureReason::StorageFull,
        ),
        (
            "Usage of EmptyDir volume \"state\" exceeds the limit \"1Gi\". ",
            FailureReason::StorageFull,
        ),
        (
            "Container buildkitd exceeded its local ephemeral storage limit \"30Mi\". ",
            FailureReason::StorageFull,
        ),
        ("The node was low on resource: ephemeral-storage. ", FailureReason::Evicted),
    ] {
        let condition = json!({ "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": message });
        for status in [
            json!({ "phase": "Failed", "reason": "Evicted", "message": message }),
            json!({ "conditions": [condition], "containerStatuses": terminated(1, "Error", &failed_result("Cancelled")) }),
            json!({ "conditions": [condition], "containerStatuses": terminated(1, "Error", &failed_result("DaemonDied")) }),
        ] {
            let state = diagnosed(&status);
            assert!(
                matches!(&state, PodState::Lost(failure) if failure.reason == expected),
                "{message}: {state:?}"
            );
        }
    }
}

#[test]
fn a_pod_that_kubernetes_takes_away_says_why() {
    for (reason, expected) in [
        ("PreemptionByScheduler", FailureReason::Preempted),
        ("DeletionByTaintManager", FailureReason::NodeLost),
        ("EvictionByEvictionAPI", FailureReason::Evicted),
        ("TerminationByKubelet", FailureReason::Evicted),
    ] {
        let state = diagnosed(&json!({
            "phase": "Running",
            "conditions": [{ "type": "DisruptionTarget", "status": "True", "reason": reason, "message": "words" }],
            "containerStatuses": terminated(1, "Error", &failed_result("Cancelled")),
        }));
        assert!(
            matches!(&state, PodState::Lost(failure) if failure.reason == expected),
            "{reason}: {state:?}"
        );
    }
}

#[test]
fn a_build_that_ended_because_its_pod_was_deleted_is_lost_and_one_that_was_done_is_not() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let done =
        json!({ "outcome": { "succeeded": { "digest": digest, "pushed": true } } }).to_string();
    for (message, is_lost) in [
        (failed_result("Cancelled"), true),
        (String::new(), true),
        (failed_result("StepFailed"), false),
        (done, false),
    ] {
        let mut pod = pod(
            &json!({ "phase": "Running", "containerStatuses": terminated(1, "Error", &message) }),
        );
        pod.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:09:50Z")).unwrap());
        let state = diagnose(Some(&pod), "owner", now());
        let is_named = matches!(&state, PodState::Lost(failure) if failure.reason == FailureReason::PodDeleted);
        assert_eq!(is_named, is_lost, "{message}: {state:?}");
    }
}

#[test]
fn a_failed_pod_is_named_by_its_reason() {
    for (reason, expected) in [
        ("Evicted", FailureReason::Evicted),
        ("DeadlineExceeded", FailureReason::Timeout),
        ("NodeLost", FailureReason::NodeLost),
        ("Strange", FailureReason::Internal),
    ] {
        let state = diagnosed(&json!({ "phase": "Failed", "reason": reason, "message": "words" }));
        assert!(
            matches!(&state, PodState::Lost(failure) if failure.reason == expected),
            "{reason}: {state:?}"
        );
    }
}

#[test]
fn a_pod_that_is_being_deleted_is_given_up_half_a_minute_after_its_deadline() {
    let mut pod = pod(&json!({ "phase": "Running" }));
    for (deletion, is_lost) in [("2026-01-01T00:09:50Z", false), ("2026-01-01T00:09:00Z", true)] {
        pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!(deletion)).unwrap());
        let state = diagnose(Some(&pod), "owner", now());
        assert_eq!(matches!(state, PodState::Lost(_)), is_lost, "{state:?}");
        assert_eq!(matches!(state, PodState::Terminating(_)), !is_lost, "{state:?}");
    }
}

#[test]
fn what_a_pod_waits_for_has_a_name_and_a_deadline_of_its_own() {
    let scheduled = json!({ "type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:05:00Z" });
    let unscheduled = |message: &str| json!([{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message }]);
    let pulling = |reason: &str| {
        json!([{ "name": "buildkitd", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": { "waiting": { "reason": reason, "message": "words" } } }])
    };
    for (status, reason, wait, since, hopeless) in [
        (
            json!({ "conditions": unscheduled("0/1 nodes are available") }),
            FailureReason::Unschedulable,
            Wait::Schedule,
            "00:00",
            false,
        ),
        (
            json!({ "conditions": unscheduled("persistentvolumeclaim \"src\" not found") }),
            FailureReason::ClaimMissing,
            Wait::Claim,
            "00:00",
            false,
        ),
        (
            json!({ "conditions": unscheduled("persistentvolumeclaim \"app-output\" not found") }),
            FailureReason::ClaimMissing,
            Wait::Schedule,
            "00:00",
            false,
        ),
        (
            json!({ "conditions": unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims") }),
            FailureReason::ClaimUnbound,
            Wait::Schedule,
            "00:00",
            false,
        ),
        (
            json!({ "conditions": [scheduled], "initContainerStatuses": pulling("ImagePullBackOff") }),
            FailureReason::BuilderImagePull,
            Wait::Start,
            "00:05",
            false,
        ),
        (
            json!({ "conditions": [scheduled], "initContainerStatuses": pulling("InvalidImageName") }),
            FailureReason::BuilderImagePull,
            Wait::Start,
            "00:05",
            true,
        ),
        (
            json!({ "conditions": [scheduled], "initContainerStatuses": pulling("CrashLoopBackOff") }),
            FailureReason::DaemonDied,
            Wait::Start,
            "00:05",
            false,
        ),
        (
            json!({ "conditions": [scheduled], "initContainerStatuses": pulling("RunContainerError") }),
            FailureReason::DaemonDied,
            Wait::Start,
            "00:05",
            false,
        ),
        (json!({ "conditions": [scheduled] }), FailureReason::Timeout, Wait::Start, "00:05", false),
    ] {
        let PodState::Waiting(waiting) = diagnosed(&status) else { panic!("{status}") };
        let expected_since: Timestamp = format!("2026-01-01T{since}:00Z").parse().unwrap();
        assert_eq!(
            (waiting.reason, waiting.wait, waiting.since, waiting.hopeless),
            (reason, wait, Some(expected_since), hopeless)
        );
    }
}

#[test]
fn what_a_daemon_said_before_it_ended_is_said_again() {
    for (said, reason, words) in [
        (
            "buildkitd: toml: cannot decode TOML string\nfailed to parse config\ngithub.com/moby/buildkit/cmd/buildkitd/config.Load\n\tgithub.com/moby",
            FailureReason::InvalidSpec,
            "buildkitConfig: BuildKit does not take it: buildkitd: toml: cannot decode TOML string; failed to parse config",
        ),
        (
            "buildkitd: operation not permitted\n",
            FailureReason::DaemonDied,
            "words; its last words: buildkitd: operation not permitted",
        ),
        (
            "level=error msg=\"/moby.buildkit.v1.Control/Solve returned error: denied: Basic aHVudGVyMg==\"\nfatal error: out of memory\n",
            FailureReason::DaemonDied,
            "words; its last words: fatal error: out of memory",
        ),
        ("", FailureReason::DaemonDied, "words"),
    ] {
        let daemon = json!([{ "name": "buildkitd", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                              "lastState": { "terminated": { "exitCode": 1, "reason": "Error", "message": said } } }]);
        let state = diagnosed(&json!({
            "initContainerStatuses": daemon, "containerStatuses": terminated(1, "Error", &failed_result("DaemonDied")),
        }));
        let PodState::Ended(result) = state else { panic!("{state:?}") };
        let Outcome::Failed(failure) = result.outcome else { panic!("not failed") };
        assert_eq!((failure.reason, failure.message.as_str()), (reason, words));
    }
}

#[test]
fn a_pod_with_a_scheduling_gate_is_held_back_by_somebody_else() {
    let words = "Scheduling is blocked due to non-empty scheduling gates";
    let condition = json!({ "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": words });
    let state = diagnosed(&json!({ "phase": "Pending", "conditions": [condition] }));
    assert_eq!(state, PodState::Gated { message: words.to_owned() });
}

#[test]
fn a_pod_that_the_kubelet_evicts_for_its_own_limits_says_so_in_its_reason_alone() {
    let message = "Pod ephemeral local storage usage exceeds the total limit of containers 64Mi. ";
    let containers = terminated(1, "Error", &failed_result("Cancelled"));
    for phase in ["Running", "Failed"] {
        let status = json!({ "phase": phase, "reason": "Evicted", "message": message, "containerStatuses": containers });
        let state = diagnosed(&status);
        let is_named = matches!(&state, PodState::Lost(failure) if failure.reason == FailureReason::StorageFull);
        assert!(is_named, "{phase}: {state:?}");
    }
}
