//! What the operator keeps of an OciBuild. Thousands that have ended stay in the cache: of these only how they ended and how long
//! they are kept. Whoever changes the spec of one or asks for another build sends the whole object again.

use std::borrow::Cow;

use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Resource, core::DeserializeGuard};
use serde::Deserialize;

use super::lifecycle::{Recorded, Wanted};
use crate::api::{CANCEL_ANNOTATION, OciBuild, OciBuildSpec, OciBuildStatus, Phase, REBUILD_ANNOTATION};

/// A build, as far as it is needed.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "DeserializeGuard<OciBuild>")]
pub struct WatchedBuild {
    metadata: ObjectMeta,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    /// It has not ended.
    Open(Box<(OciBuildSpec, Option<OciBuildStatus>)>),
    /// The build that is wanted has ended.
    Ended(Ended),
    /// The object cannot be read, for this reason.
    Unreadable(String),
}

/// What is kept of a build that has ended.
#[derive(Clone, Debug)]
struct Ended {
    ttl: Option<String>,
    generation: Option<i64>,
    rebuild: Option<String>,
    cancel: Option<String>,
    phase: Option<Phase>,
    attempt: Option<i32>,
    first_attempt: Option<i32>,
    completion: Option<MicroTime>,
}

impl WatchedBuild {
    /// The object, or why it cannot be read. Of one that has ended it has no more than what was kept.
    pub fn build(&self) -> Result<OciBuild, &str> {
        let metadata = self.metadata.clone();
        match &self.content {
            Content::Open(content) => {
                let (spec, status) = content.as_ref().clone();
                Ok(OciBuild { metadata, spec, status })
            }
            Content::Ended(ended) => Ok(OciBuild {
                metadata,
                spec: OciBuildSpec { ttl_after_finished: ended.ttl.clone(), ..OciBuildSpec::default() },
                status: Some(OciBuildStatus {
                    observed_generation: ended.generation,
                    observed_rebuild: ended.rebuild.clone(),
                    observed_cancel: ended.cancel.clone(),
                    phase: ended.phase,
                    attempt: ended.attempt,
                    first_attempt: ended.first_attempt,
                    completion_time: ended.completion.clone(),
                    ..OciBuildStatus::default()
                }),
            }),
            Content::Unreadable(error) => Err(error),
        }
    }

    /// Whether the object can be read.
    pub fn is_readable(&self) -> bool {
        !matches!(self.content, Content::Unreadable(_))
    }

    /// Whether nothing is left to do, ever, but for a change of the object.
    pub fn is_done(&self) -> bool {
        matches!(&self.content, Content::Ended(ended) if ended.ttl.is_none())
    }

    /// The status of a build that has not ended.
    pub fn open_status(&self) -> Option<&OciBuildStatus> {
        match &self.content {
            Content::Open(content) => content.1.as_ref(),
            Content::Ended(_) | Content::Unreadable(_) => None,
        }
    }
}

impl From<DeserializeGuard<OciBuild>> for WatchedBuild {
    fn from(guard: DeserializeGuard<OciBuild>) -> Self {
        let mut build = match guard.0 {
            Ok(build) => build,
            Err(invalid) => {
                let metadata = ObjectMeta { managed_fields: None, ..invalid.metadata };
                return Self { metadata, content: Content::Unreadable(invalid.error) };
            }
        };
        build.metadata.managed_fields = None;
        let is_ended = Recorded::of(&build).is_settled(&Wanted::of(&build));
        let OciBuild { mut metadata, spec, status } = build;
        if let Some(annotations) = &mut metadata.annotations {
            annotations.retain(|name, _| match name.as_str() {
                REBUILD_ANNOTATION | CANCEL_ANNOTATION => true,
                "kubectl.kubernetes.io/last-applied-configuration" => false,
                _ => !is_ended,
            });
        }
        match status {
            Some(status) if is_ended => {
                metadata.labels = None;
                let ended = Ended {
                    ttl: spec.ttl_after_finished,
                    generation: status.observed_generation,
                    rebuild: status.observed_rebuild,
                    cancel: status.observed_cancel,
                    phase: status.phase,
                    attempt: status.attempt,
                    first_attempt: status.first_attempt,
                    completion: status.completion_time,
                };
                Self { metadata, content: Content::Ended(ended) }
            }
            status => Self { metadata, content: Content::Open(Box::new((spec, status))) },
        }
    }
}

impl Resource for WatchedBuild {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        OciBuild::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        OciBuild::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        OciBuild::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        OciBuild::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Recorded, Wanted, WatchedBuild};
    use crate::api::OciBuild;

    fn build(phase: &str, generation: i64, rebuild: Option<&str>) -> Value {
        let annotations = rebuild.map_or_else(|| json!({}), |rebuild| json!({ "ocibuild.dev/rebuild": rebuild }));
        json!({
            "apiVersion": "ocibuild.dev/v1alpha1", "kind": "OciBuild",
            "metadata": {
                "name": "b", "namespace": "n", "uid": "u", "generation": 2, "annotations": annotations, "labels": { "team": "a" },
            },
            "spec": { "context": ".", "imageName": "b", "source": { "files": { "Dockerfile": "FROM scratch" } }, "ttlAfterFinished": "1h" },
            "status": {
                "phase": phase, "observedGeneration": generation, "observedRebuild": "one", "attempt": 2, "firstAttempt": 1,
                "completionTime": "2026-01-01T00:00:00.000000Z", "warnings": ["attempt 1 was lost"],
            },
        })
    }

    #[test]
    fn a_build_that_has_ended_keeps_what_says_so_and_any_other_keeps_all() {
        for (phase, generation, rebuild, is_ended) in [
            ("Succeeded", 2, None, true),
            ("Failed", 2, Some("one"), true),
            ("Failed", 2, Some("two"), false),
            ("Succeeded", 1, None, false),
            ("Running", 2, None, false),
        ] {
            let whole: OciBuild = serde_json::from_value(build(phase, generation, rebuild)).unwrap();
            let watched: WatchedBuild = serde_json::from_value(build(phase, generation, rebuild)).unwrap();
            let kept = watched.build().unwrap();
            assert_eq!(watched.open_status().is_none(), is_ended, "{phase} {generation} {rebuild:?}");
            assert_eq!(kept == whole, !is_ended, "{phase} {generation} {rebuild:?}");
            assert_eq!((Recorded::of(&kept), Wanted::of(&kept)), (Recorded::of(&whole), Wanted::of(&whole)));
            assert_eq!(kept.spec.ttl_after_finished, whole.spec.ttl_after_finished);
            let ended = |build: OciBuild| build.status.and_then(|status| status.completion_time);
            assert_eq!(ended(kept), ended(whole));
            assert!(!watched.is_done(), "its time to be deleted comes");
        }
    }

    #[test]
    fn an_object_that_cannot_be_read_says_why() {
        let mut unreadable = build("Running", 2, None);
        unreadable["spec"]["context"] = json!(7);
        let watched: WatchedBuild = serde_json::from_value(unreadable).unwrap();
        assert!(!watched.is_readable());
        assert_eq!(watched.build().unwrap_err(), "Invalid type integer `7`. Expected a string");
    }
}
