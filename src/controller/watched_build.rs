//! What the operator keeps of an OciBuild. Thousands that have ended stay in the cache: of these only how they ended and how long
//! they are kept. Whoever changes the spec of one or asks for another build sends the whole object again. Nor is a large spec kept,
//! such as one with its files in it: some hundred of them would be all the memory that the operator has.

use std::io::{self, Write};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Resource;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    lifecycle::{Recorded, Wanted},
    watched_metadata::WatchedMetadata,
};
use crate::api::{
    CANCEL_ANNOTATION, OciBuild, OciBuildSpec, OciBuildStatus, Phase, REBUILD_ANNOTATION,
};

/// Bytes of a spec, as JSON, that are kept.
const SPEC_LIMIT: usize = 16 * 1024;

/// A build, as far as it is needed.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "OciBuild")]
#[serde(from = "Answer")]
pub struct WatchedBuild {
    metadata: ObjectMeta,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    /// It has not ended.
    Open(Box<(OciBuildSpec, Option<OciBuildStatus>)>),
    /// It has not ended, and its spec is too large to be kept.
    Large(Box<Option<OciBuildStatus>>),
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

/// What the cache has of a build.
#[derive(Debug, PartialEq)]
pub enum Kept<'a> {
    /// The object; of one that has ended no more than what was kept.
    Build(Box<OciBuild>),
    /// The API server has it.
    NotHere,
    /// It cannot be read, for this reason.
    Unreadable(&'a str),
}

impl WatchedBuild {
    /// The object, if it was kept.
    pub fn kept(&self) -> Kept<'_> {
        let metadata = self.metadata.clone();
        match &self.content {
            Content::Open(content) => {
                let (spec, status) = content.as_ref().clone();
                Kept::Build(Box::new(OciBuild { metadata, spec, status }))
            }
            Content::Large(_) => Kept::NotHere,
            Content::Ended(ended) => Kept::Build(Box::new(OciBuild {
                metadata,
                spec: OciBuildSpec {
                    ttl_after_finished: ended.ttl.clone(),
                    ..OciBuildSpec::default()
                },
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
            })),
            Content::Unreadable(error) => Kept::Unreadable(error),
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
            Content::Large(status) => status.as_ref().as_ref(),
            Content::Ended(_) | Content::Unreadable(_) => None,
        }
    }
}

/// What the API server sends of a build. Spec and status are read one by one: what cannot be read is the fault of one object, and
/// no reason not to read the others of a list.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    metadata: WatchedMetadata,
    #[serde(default)]
    spec: Option<Box<RawValue>>,
    #[serde(default)]
    status: Option<Box<RawValue>>,
}

/// A build with all that is read of it, large or not.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "OciBuild")]
#[serde(try_from = "Answer")]
pub struct WholeBuild {
    metadata: ObjectMeta,
    spec: OciBuildSpec,
    status: Option<OciBuildStatus>,
}

impl TryFrom<Answer> for WholeBuild {
    type Error = serde_json::Error;

    fn try_from(answer: Answer) -> Result<Self, Self::Error> {
        let (spec, status) = read(answer.spec.as_deref(), answer.status.as_deref())?;
        Ok(Self { metadata: answer.metadata.into(), spec, status })
    }
}

impl From<WholeBuild> for OciBuild {
    fn from(WholeBuild { metadata, spec, status }: WholeBuild) -> Self {
        Self { metadata, spec, status }
    }
}

fn read(
    spec: Option<&RawValue>,
    status: Option<&RawValue>,
) -> Result<(OciBuildSpec, Option<OciBuildStatus>), serde_json::Error> {
    let spec = serde_json::from_str(spec.map_or("null", RawValue::get))?;
    Ok((spec, status.map(|status| serde_json::from_str(status.get())).transpose()?))
}

impl From<Answer> for WatchedBuild {
    fn from(answer: Answer) -> Self {
        let metadata = ObjectMeta::from(answer.metadata);
        let build = match read(answer.spec.as_deref(), answer.status.as_deref()) {
            Ok((spec, status)) => OciBuild { metadata, spec, status },
            Err(error) => {
                return Self { metadata, content: Content::Unreadable(error.to_string()) };
            }
        };
        let is_ended = Recorded::of(&build).is_settled(&Wanted::of(&build));
        let OciBuild { mut metadata, spec, status } = build;
        match status {
            Some(status) if is_ended => {
                if let Some(annotations) = &mut metadata.annotations {
                    annotations.retain(|name, _| {
                        [REBUILD_ANNOTATION, CANCEL_ANNOTATION].contains(&name.as_str())
                    });
                }
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
            status if is_large(&spec) => {
                Self { metadata, content: Content::Large(Box::new(status)) }
            }
            status => Self { metadata, content: Content::Open(Box::new((spec, status))) },
        }
    }
}

/// Whether a spec is too large to be kept.
pub fn is_large(spec: &OciBuildSpec) -> bool {
    let mut size = Size(0);
    serde_json::to_writer(&mut size, spec).is_err() || size.0 > SPEC_LIMIT
}

/// Counts what is written.
struct Size(usize);

impl Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Kept, Recorded, SPEC_LIMIT, Wanted, WatchedBuild};
    use crate::api::OciBuild;

    fn build(phase: &str, generation: i64, rebuild: Option<&str>) -> Value {
        let annotations = rebuild.map(|rebuild| json!({ "ocibuild.dev/rebuild": rebuild }));
        json!({
            "apiVersion": "ocibuild.dev/v1alpha1", "kind": "OciBuild",
            "metadata": {
                "name": "b", "namespace": "n", "uid": "u", "generation": 2, "annotations": annotations, "labels": { "kueue.x-k8s.io/queue-name": "a" },
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
            let whole: OciBuild =
                serde_json::from_value(build(phase, generation, rebuild)).unwrap();
            let watched: WatchedBuild =
                serde_json::from_value(build(phase, generation, rebuild)).unwrap();
            let Kept::Build(kept) = watched.kept() else { panic!("it was not kept") };
            assert_eq!(
                watched.open_status().is_none(),
                is_ended,
                "{phase} {generation} {rebuild:?}"
            );
            assert_eq!(*kept == whole, !is_ended, "{phase} {generation} {rebuild:?}");
            assert_eq!(
                (Recorded::of(&kept), Wanted::of(&kept)),
                (Recorded::of(&whole), Wanted::of(&whole))
            );
            assert_eq!(kept.spec.ttl_after_finished, whole.spec.ttl_after_finished);
            let ended = |build: OciBuild| build.status.and_then(|status| status.completion_time);
            assert_eq!(ended(*kept), ended(whole));
            assert!(!watched.is_done(), "its time to be deleted comes");
        }
    }

    #[test]
    fn a_large_spec_is_not_kept_while_its_status_is() {
        let mut large = build("Queued", 2, None);
        large["spec"]["source"]["files"]["Dockerfile"] = json!("x".repeat(SPEC_LIMIT));
        let watched: WatchedBuild = serde_json::from_value(large).unwrap();
        assert_eq!(watched.kept(), Kept::NotHere);
        assert_eq!(watched.open_status().unwrap().attempt, Some(2));
        assert!(watched.is_readable() && !watched.is_done());
    }

    #[test]
    fn a_list_can_be_read_whatever_is_in_one_of_its_objects() {
        let mut deep = build("Running", 2, None).to_string();
        let nested = "[".repeat(300) + &"]".repeat(300);
        deep = deep.replace(
            "\"uid\":\"u\"",
            &format!("\"uid\":\"u\",\"managedFields\":[{{\"fieldsV1\":{nested}}}]"),
        );
        let unreadable = build("Running", 2, None).to_string().replace("\"1h\"", &nested);
        let list = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"metadata\":{{}},\"items\":[{deep},{unreadable}]}}"
        );
        let list: kube::core::ObjectList<WatchedBuild> = serde_json::from_str(&list).unwrap();
        assert_eq!(
            list.items.iter().map(WatchedBuild::is_readable).collect::<Vec<_>>(),
            [true, false]
        );
        let event: kube::core::WatchEvent<WatchedBuild> =
            serde_json::from_str(&format!("{{\"type\":\"ADDED\",\"object\":{deep}}}")).unwrap();
        assert!(matches!(event, kube::core::WatchEvent::Added(build) if build.is_readable()));
    }

    #[test]
    fn an_object_that_cannot_be_read_says_why() {
        let mut unreadable = build("Running", 2, None);
        unreadable["spec"]["context"] = json!(7);
        let watched: WatchedBuild = serde_json::from_value(unreadable).unwrap();
        assert!(!watched.is_readable());
        assert_eq!(
            watched.kept(),
            Kept::Unreadable("invalid type: integer `7`, expected a string at line 1 column 12")
        );
    }
}
