//! What the caches keep of builds and pods. Pure. Thousands of both stay in them, most of them long ended; what no decision reads is
//! dropped before it gets there.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::ResourceExt;

use super::{
    MEMORY_ANNOTATION, NODE_ANNOTATION,
    lifecycle::{Recorded, Wanted},
};
use crate::{
    api::{CANCEL_ANNOTATION, OciBuild, OciBuildSpec, OciBuildStatus, REBUILD_ANNOTATION},
    plan::{layout, pod::ISOLATION_ANNOTATION},
};

/// Conditions of a pod that say something.
pub const CONDITIONS: [&str; 2] = ["PodScheduled", "DisruptionTarget"];

/// Drops what nobody reads of a build; of one that has ended all but how it ended and how long it is kept. Whoever changes its
/// spec or asks for another build sends the whole object again.
pub fn slim_build(build: &mut OciBuild) {
    build.metadata.managed_fields = None;
    if let Some(annotations) = &mut build.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    if !is_settled(build) {
        return;
    }
    build.metadata.labels = None;
    if let Some(annotations) = &mut build.metadata.annotations {
        annotations.retain(|name, _| name == REBUILD_ANNOTATION || name == CANCEL_ANNOTATION);
    }
    build.spec = OciBuildSpec { ttl_after_finished: build.spec.ttl_after_finished.take(), ..OciBuildSpec::default() };
    if let Some(status) = build.status.take() {
        build.status = Some(OciBuildStatus {
            observed_generation: status.observed_generation,
            observed_rebuild: status.observed_rebuild,
            observed_cancel: status.observed_cancel,
            phase: status.phase,
            attempt: status.attempt,
            first_attempt: status.first_attempt,
            completion_time: status.completion_time,
            ..OciBuildStatus::default()
        });
    }
}

/// Whether the build that is wanted has ended.
pub fn is_settled(build: &OciBuild) -> bool {
    Recorded::of(build).is_settled(&Wanted::of(build))
}

/// Drops what [`super::diagnose`] does not read of a pod.
pub fn slim_pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.labels = None;
    let memory = memory_limit(pod);
    let node = pod.spec.take().and_then(|spec| spec.node_name);
    let isolation = pod.annotations_mut().remove(ISOLATION_ANNOTATION);
    let kept = [(NODE_ANNOTATION, node), (ISOLATION_ANNOTATION, isolation), (MEMORY_ANNOTATION, memory)];
    pod.metadata.annotations =
        Some(kept.into_iter().filter_map(|(key, value)| value.map(|value| (key.to_owned(), value))).collect());
    let Some(status) = pod.status.take() else { return };
    let conditions = status.conditions.unwrap_or_default();
    pod.status = Some(PodStatus {
        phase: status.phase,
        reason: status.reason,
        message: status.message,
        pod_ip: status.pod_ip,
        conditions: Some(conditions.into_iter().filter(|condition| CONDITIONS.contains(&condition.type_.as_str())).collect()),
        container_statuses: status.container_statuses.map(slim_containers),
        init_container_statuses: status.init_container_statuses.map(slim_containers),
        ..PodStatus::default()
    });
}

/// Of the container in which the steps run.
fn memory_limit(pod: &Pod) -> Option<String> {
    let containers = pod.spec.as_ref()?.init_containers.as_ref()?;
    let daemon = containers.iter().find(|container| container.name == layout::DAEMON_CONTAINER)?;
    daemon.resources.as_ref()?.limits.as_ref()?.get("memory").map(|limit| limit.0.clone())
}

fn slim_containers(statuses: Vec<ContainerStatus>) -> Vec<ContainerStatus> {
    let slim = |status: ContainerStatus| ContainerStatus {
        name: status.name,
        state: status.state,
        last_state: status.last_state,
        ..ContainerStatus::default()
    };
    statuses.into_iter().map(slim).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{is_settled, slim_build, slim_pod};
    use crate::{api::OciBuild, controller::diagnose::diagnose};

    fn build(phase: &str, generation: i64, rebuild: Option<&str>) -> OciBuild {
        let annotations = rebuild.map_or_else(|| json!({}), |rebuild| json!({ "ocibuild.dev/rebuild": rebuild, "team": "a" }));
        serde_json::from_value(json!({
            "metadata": { "name": "b", "namespace": "n", "uid": "u", "generation": 2, "annotations": annotations },
            "spec": { "context": ".", "imageName": "b", "source": { "files": { "Dockerfile": "FROM scratch" } }, "ttlAfterFinished": "1h" },
            "status": {
                "phase": phase, "observedGeneration": generation, "observedRebuild": "one", "attempt": 2, "firstAttempt": 1,
                "completionTime": "2026-01-01T00:00:00.000000Z", "warnings": ["attempt 1 was lost"],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_build_that_has_ended_keeps_what_says_so_and_any_other_keeps_all() {
        for (phase, generation, rebuild, settled) in [
            ("Succeeded", 2, None, true),
            ("Failed", 2, Some("one"), true),
            ("Failed", 2, Some("two"), false),
            ("Succeeded", 1, None, false),
            ("Running", 2, None, false),
        ] {
            let whole = build(phase, generation, rebuild);
            let mut slim = whole.clone();
            slim_build(&mut slim);
            assert_eq!((is_settled(&whole), is_settled(&slim)), (settled, settled), "{phase} {generation} {rebuild:?}");
            assert_eq!(slim.spec.ttl_after_finished.as_deref(), Some("1h"));
            assert_eq!(slim == whole, !settled, "{phase} {generation} {rebuild:?}");
            let ended = |build: &OciBuild| build.status.as_ref().and_then(|status| status.completion_time.clone());
            assert_eq!(ended(&slim), ended(&whole));
        }
    }

    fn a_state() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!({ "running": {} })),
            prop::sample::select(vec!["ErrImagePull", "CrashLoopBackOff", "ContainerCreating"])
                .prop_map(|reason| json!({ "waiting": { "reason": reason, "message": "m" } })),
            (any::<i32>(), prop::sample::select(vec!["OOMKilled", "Error", "ContainerStatusUnknown"])).prop_map(
                |(code, reason)| json!({ "terminated": { "exitCode": code, "reason": reason, "message": "no result" } })
            ),
        ]
    }

    proptest! {
        #[test]
        fn a_slim_pod_says_the_same(
            phase in prop::sample::select(vec!["Pending", "Running", "Failed"]),
            reason in prop::sample::select(vec!["Evicted", "NodeLost", ""]),
            condition in prop::sample::select(vec!["PodScheduled", "DisruptionTarget", "Ready"]),
            status in prop::sample::select(vec!["True", "False"]),
            states in (a_state(), a_state(), a_state()),
            is_deleted in any::<bool>(),
        ) {
            let container = |name: &str, state: &Value, last: &Value| json!({
                "name": name, "image": "i", "imageID": "", "ready": true, "restartCount": 1, "state": state, "lastState": last,
            });
            let mut pod = json!({
                "metadata": {
                    "name": "b-g1-a1", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": { "a": "b" },
                    "ownerReferences": [{ "apiVersion": "v1", "kind": "OciBuild", "name": "b", "uid": "u" }],
                },
                "spec": { "nodeName": "node", "containers": [] },
                "status": {
                    "phase": phase, "reason": reason, "message": "m", "podIP": "10.0.0.1", "qosClass": "Burstable",
                    "conditions": [{ "type": condition, "status": status, "reason": reason, "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
                    "containerStatuses": [container("build", &states.0, &states.1)],
                    "initContainerStatuses": [container("buildkitd", &states.1, &states.2)],
                },
            });
            if is_deleted {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:10Z");
            }
            let whole: Pod = serde_json::from_value(pod).unwrap();
            let mut slim = whole.clone();
            slim_pod(&mut slim);
            let now: Timestamp = "2026-01-01T00:00:20Z".parse().unwrap();
            prop_assert_eq!(diagnose(Some(&slim), "u", now), diagnose(Some(&whole), "u", now));
        }
    }
}
