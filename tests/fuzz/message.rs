//! The termination message of a build's container, and the pod around it, on their way into the status.

use k8s_openapi::jiff::Timestamp;
use ocibuild::{
    api::OciBuildStatus,
    controller::{
        diagnose::{PodState, diagnose},
        lifecycle::Wanted,
        summarise::{Facts, Standing, summarise},
        watched_pod::WatchedPod,
    },
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{hold, made_of, schema};

const WORDS: &[&str] = &[
    "",
    "a",
    "failed to parse config",
    "ä",
    "\n",
    "\u{1b}[31m",
    "\0",
    "\"",
    "\\",
    "main.go:",
    "linux/amd64",
    "out of memory ",
];
const REASONS: &[&str] = &[
    "StepFailed",
    "Cancelled",
    "DaemonDied",
    "OutOfMemory",
    "Timeout",
    "Internal",
    "RegistryServerError",
    "NoSuchReason",
    "",
];

/// What the API server would keep of a status of one build is at most this long, whatever a container said.
const STATUS_LIMIT: usize = 64 * 1024;

fn a_text() -> BoxedStrategy<Value> {
    prop_oneof![4 => made_of(WORDS, 8).prop_map(Value::from), 1 => ".{0,40}".prop_map(Value::from), 1 => Just(Value::from("x".repeat(3000)))]
    .boxed()
}

fn a_number() -> BoxedStrategy<Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (0..100_i64).prop_map(Value::from),
        Just(Value::from(1e300)),
        Just(Value::Null),
    ]
    .boxed()
}

fn a_digest() -> BoxedStrategy<Value> {
    prop_oneof![6 => Just(Value::from(format!("sha256:{}", "0a".repeat(32)))), 1 => a_text()]
        .boxed()
}

fn a_tar() -> BoxedStrategy<Value> {
    let format = prop::sample::select(vec!["docker", "oci", "zip"]);
    prop_oneof![
        Just(Value::Null),
        (a_text(), a_number(), a_text(), format)
            .prop_map(|(path, size, sha256, format)| json!({ "path": path, "size": size, "sha256": sha256, "format": format })),
    ]
    .boxed()
}

fn an_outcome() -> BoxedStrategy<Value> {
    let additional =
        prop::collection::vec((a_text(), a_digest(), a_tar()), 0..3).prop_map(|targets| {
            targets
            .into_iter()
            .map(|(target, digest, tar)| json!({ "target": target, "digest": digest, "tar": tar }))
            .collect::<Vec<_>>()
        });
    let built =
        (a_digest(), a_digest(), a_number(), a_text(), prop::collection::vec(a_text(), 0..3), any::<bool>(), a_tar(), additional)
            .prop_map(|(digest, config, size, media_type, platforms, pushed, tar, additional)| {
                json!({ "succeeded": {
                "digest": digest, "configDigest": config, "size": size, "mediaType": media_type, "platforms": platforms,
                "pushed": pushed, "tar": tar, "additional": additional,
            } })
            });
    let failed = (prop::sample::select(REASONS), a_text(), a_text(), a_number(), a_text(), a_number()).prop_map(
        |(reason, message, step, exit_code, excerpt, retry_after)| {
            json!({ "failed": {
                "reason": reason, "message": message, "step": step, "exitCode": exit_code, "logExcerpt": excerpt,
                "retryAfter": retry_after,
            } })
        },
    );
    prop_oneof![built, failed].boxed()
}

fn a_result() -> BoxedStrategy<String> {
    let progress = (a_number(), a_number(), a_number(), a_text(), a_text()).prop_map(|(total, done, cached, current, summary)| {
        json!({ "total": total, "done": done, "cached": cached, "current": current, "summary": summary })
    });
    let timings =
        (a_number(), a_number()).prop_map(|(build, push)| json!({ "build": build, "push": push }));
    let warnings = prop::collection::vec(a_text(), 0..3);
    (an_outcome(), a_number(), timings, prop::option::of(progress), warnings)
        .prop_map(|(outcome, started, timings, progress, warnings)| {
            let mut result = json!({ "outcome": outcome, "startedAt": started, "timings": timings, "warnings": warnings });
            if let Some(progress) = progress {
                result["progress"] = progress;
            }
            result.to_string()
        })
        .boxed()
}

/// Cut, and with some bytes replaced.
fn damaged(text: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (
        text,
        any::<prop::sample::Index>(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    )
        .prop_map(|(text, length, replaced)| {
            let mut bytes = text.into_bytes();
            bytes.truncate(length.index(bytes.len() + 1));
            let length = bytes.len();
            for (at, byte) in replaced.into_iter().filter(|_| length > 0) {
                bytes[at.index(length)] = byte;
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
}

fn pod(message: &str, more: &Value) -> WatchedPod {
    let mut pod = json!({
        "metadata": { "name": "b-g1-a1", "ownerReferences": [{ "apiVersion": "v1", "kind": "OciBuild", "name": "b", "uid": "u", "controller": true }] },
        "status": {
            "phase": more["phase"],
            "conditions": [{ "type": more["condition"], "status": "True", "reason": more["text"], "message": more["text"] }],
            "containerStatuses": [{
                "name": "build", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": more["exitCode"], "reason": more["reason"], "message": message } },
            }],
            "initContainerStatuses": [{
                "name": "buildkitd", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "lastState": { "terminated": { "exitCode": more["exitCode"], "reason": more["reason"], "message": more["text"] } },
            }],
        },
    });
    if more["deleted"] == true {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    serde_json::from_value(pod).unwrap()
}

fn more() -> BoxedStrategy<Value> {
    let phase = prop::sample::select(vec!["Running", "Failed", "Succeeded", ""]);
    let reason = prop::sample::select(vec!["OOMKilled", "Error", "Completed", ""]);
    let condition = prop::sample::select(vec!["DisruptionTarget", "PodScheduled", "Ready"]);
    (phase, reason, condition, any::<i32>(), made_of(WORDS, 6), any::<bool>()).prop_map(|(phase, reason, condition, exit_code, text, deleted)| {
        json!({ "phase": phase, "reason": reason, "condition": condition, "exitCode": exit_code, "text": text, "deleted": deleted })
    })
    .boxed()
}

fn ends_in_a_status_that_is_taken(message: &str, more: &Value) -> Result<(), TestCaseError> {
    let pod = pod(message, more);
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let result = match diagnose(Some(&pod), "u", now) {
        PodState::Ended(result) => result,
        PodState::Lost(failure) => ocibuild::runner::result::BuildResult::failed(failure),
        _ => return Ok(()),
    };
    let wanted = Wanted { generation: 1, ..Wanted::default() };
    let facts = Facts {
        wanted: &wanted,
        namespace: "n",
        reference: Some("a:b".to_owned()),
        output_claim: Some("claim"),
        pod: None,
        now,
    };
    let status = summarise(&OciBuildStatus::default(), &facts, &Standing::Finished(&result));
    let refusal = schema::refusal(&status);
    prop_assert!(
        refusal.is_none(),
        "the API server would refuse the status: {}",
        refusal.unwrap_or_default()
    );
    let length = serde_json::to_string(&status).unwrap().len();
    prop_assert!(length < STATUS_LIMIT, "{length} bytes of status come of {} bytes", message.len());
    Ok(())
}

#[test]
fn results_with_strange_values_end_in_a_status_that_the_api_server_takes() {
    hold(4, (a_result(), more()), |(message, more)| {
        ends_in_a_status_that_is_taken(&message, &more)
    });
}

#[test]
fn results_that_are_cut_or_damaged_end_in_a_status_that_the_api_server_takes() {
    hold(4, (damaged(a_result()), more()), |(message, more)| {
        ends_in_a_status_that_is_taken(&message, &more)
    });
}

#[test]
fn any_text_may_be_the_last_words_of_a_container() {
    hold(2, (any::<String>(), more()), |(message, more)| {
        ends_in_a_status_that_is_taken(&message, &more)
    });
}
