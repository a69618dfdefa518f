//! What the operator reads of a build's pod. Thousands of pods stay in the cache, most of them long ended: what no decision reads
//! is dropped as soon as the API server's answer is read.

use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, ResourceRequirements},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;
use serde::{Deserialize, de::IgnoredAny};

use super::watched_metadata::WatchedMetadata;
use crate::plan::{layout, pod::ISOLATION_ANNOTATION};

/// A pod, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = "Pod")]
#[serde(from = "Answer")]
pub struct WatchedPod {
    /// Name, owners and times.
    pub metadata: ObjectMeta,
    /// Its node.
    pub node: Option<String>,
    /// How its steps are isolated, as its annotation says.
    pub isolation: Option<String>,
    /// Memory limit of the container in which the steps run.
    pub memory_limit: Option<String>,
    /// Whether its phase is Failed.
    pub has_failed: bool,
    /// Why it is in its phase, as a name.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// Its address.
    pub address: Option<String>,
    /// `DisruptionTarget`, and `PodScheduled` of one that has not ended.
    pub conditions: Vec<PodCondition>,
    /// The container of the build.
    pub build: Option<Container>,
    /// The container of the daemon.
    pub daemon: Option<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub state: ContainerState,
    /// How it ended before it was started again.
    pub last_state: ContainerState,
}

/// What a container does.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "AnsweredState")]
pub enum ContainerState {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// It runs.
    Running,
    /// It waits for its start.
    Waiting(Waiting),
    /// It has ended.
    Terminated(Terminated),
}

/// Why a container waits.
#[derive(Clone, Debug, Deserialize)]
pub struct Waiting {
    /// As a name.
    pub reason: Option<String>,
    /// In words.
    pub message: Option<String>,
}

/// How a container ended.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminated {
    /// Exit code; 128 and the number of the signal, if one ended it.
    pub exit_code: i32,
    /// Why, as a name.
    pub reason: Option<String>,
    /// What it left in its termination message, or the end of its log.
    pub message: Option<String>,
}

impl ContainerState {
    /// How it ended, if it has.
    pub fn terminated(&self) -> Option<&Terminated> {
        if let Self::Terminated(terminated) = self { Some(terminated) } else { None }
    }

    /// Why it waits, if it does.
    pub fn waiting(&self) -> Option<&Waiting> {
        if let Self::Waiting(waiting) = self { Some(waiting) } else { None }
    }
}

/// One of these, or none.
#[derive(Deserialize)]
struct AnsweredState {
    running: Option<IgnoredAny>,
    waiting: Option<Waiting>,
    terminated: Option<Terminated>,
}

impl From<AnsweredState> for ContainerState {
    fn from(state: AnsweredState) -> Self {
        match state {
            AnsweredState { terminated: Some(terminated), .. } => Self::Terminated(terminated),
            AnsweredState { waiting: Some(waiting), .. } => Self::Waiting(waiting),
            AnsweredState { running: Some(_), .. } => Self::Running,
            AnsweredState { .. } => Self::Unknown,
        }
    }
}

impl WatchedPod {
    /// A condition that the pod has.
    pub fn condition(&self, type_: &str) -> Option<&PodCondition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }
}

/// What the API server sends of a pod, but for what nobody reads.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    metadata: WatchedMetadata,
    spec: Spec,
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    init_containers: Vec<SpecifiedContainer>,
}

#[derive(Deserialize)]
struct SpecifiedContainer {
    name: String,
    resources: Option<ResourceRequirements>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    conditions: Vec<PodCondition>,
    init_container_statuses: Vec<AnsweredContainer>,
    container_statuses: Vec<AnsweredContainer>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AnsweredContainer {
    name: String,
    state: ContainerState,
    last_state: ContainerState,
}

impl From<Answer> for WatchedPod {
    fn from(Answer { metadata, spec, status }: Answer) -> Self {
        let mut metadata = ObjectMeta::from(metadata);
        let isolation = metadata
            .annotations
            .as_mut()
            .and_then(|annotations| annotations.remove(ISOLATION_ANNOTATION));
        let daemon = spec
            .init_containers
            .into_iter()
            .find(|container| container.name == layout::DAEMON_CONTAINER);
        let limits =
            daemon.and_then(|daemon| daemon.resources).and_then(|resources| resources.limits);
        let container = |statuses: Vec<AnsweredContainer>, name| {
            let status = statuses.into_iter().find(|container| container.name == name)?;
            Some(Container { name, state: status.state, last_state: status.last_state })
        };
        let build = container(status.container_statuses, layout::BUILD_CONTAINER);
        let has_ended = build.as_ref().is_some_and(|build| build.state.terminated().is_some());
        let is_read = |condition: &PodCondition| match condition.type_.as_str() {
            "DisruptionTarget" => true,
            "PodScheduled" => !has_ended,
            _ => false,
        };
        Self {
            metadata: ObjectMeta { labels: None, annotations: None, ..metadata },
            node: spec.node_name,
            isolation,
            memory_limit: limits
                .and_then(|mut limits| limits.remove("memory"))
                .map(|limit| limit.0),
            has_failed: status.phase.as_deref() == Some("Failed"),
            reason: status.reason,
            message: status.message,
            address: status.pod_ip,
            conditions: status.conditions.into_iter().filter(is_read).collect(),
            build,
            daemon: container(status.init_container_statuses, layout::DAEMON_CONTAINER),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::WatchedPod;

    #[test]
    fn what_is_read_of_a_pod_is_kept_and_nothing_else() {
        let container = |name: &str| {
            json!({
                "name": name, "image": "i", "imageID": "", "ready": true, "restartCount": 1, "started": true,
                "state": { "terminated": { "exitCode": 3, "reason": "Error", "message": "words", "containerID": "c", "startedAt": "2026-01-01T00:00:00Z" } },
                "lastState": { "waiting": { "reason": "CrashLoopBackOff" } },
            })
        };
        let pod: WatchedPod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "app-g1-a1", "namespace": "team", "uid": "u", "labels": { "a": "b" },
                "annotations": { "ocibuild.dev/isolation": "userns", "ocibuild.dev/instructions": "long" },
                "managedFields": [{ "manager": "kubelet" }],
            },
            "spec": {
                "nodeName": "node",
                "initContainers": [
                    { "name": "other", "resources": { "limits": { "memory": "1Gi" } } },
                    { "name": "buildkitd", "resources": { "limits": { "memory": "64Mi" } } },
                ],
                "containers": [{ "name": "build" }],
            },
            "status": {
                "phase": "Failed", "reason": "Evicted", "message": "m", "podIP": "10.0.0.1", "qosClass": "Burstable",
                "conditions": [
                    { "type": "Ready", "status": "False" }, { "type": "PodScheduled", "status": "True" },
                    { "type": "DisruptionTarget", "status": "True" },
                ],
                "containerStatuses": [container("sidecar"), container("build")],
                "initContainerStatuses": [container("buildkitd"), container("other")],
            },
        }))
        .unwrap();
        insta::assert_debug_snapshot!(pod);
    }

    #[test]
    fn a_pod_that_nothing_is_known_of_yet_is_read_too() {
        for empty in [
            json!({ "metadata": { "name": "p" } }),
            json!({ "metadata": {}, "spec": {}, "status": {} }),
        ] {
            let pod: WatchedPod = serde_json::from_value(empty).unwrap();
            assert!(pod.build.is_none() && pod.conditions.is_empty());
        }
    }
}
