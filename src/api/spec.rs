//! `OciBuild` and its `spec`.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OciBuildStatus, Output, PodSettings, Source};

/// CEL: a path that stays below the root it is relative to. Empty means the root.
pub(super) const RELATIVE_PATH: &str = "!self.startsWith('/') && !self.split('/').exists(part, part == '..')";

/// CEL: the name of an object (RFC 1123 subdomain).
pub(super) const OBJECT_NAME: &str = "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')";

/// One wanted image. The parameters of the Concourse OCI build task stand under their own names in camelCase, beside what
/// only Kubernetes has.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "ocibuild.dev",
    version = "v1alpha1",
    kind = "OciBuild",
    plural = "ocibuilds",
    shortname = "ocib",
    category = "all",
    namespaced,
    status = "OciBuildStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "OciBuild is one wanted OCI image: what to build it from, how, and where it goes. Each generation of the spec is built once.",
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name: at most 52 characters, so that the names of its pods stay below 63"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.summary"),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image.reference"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.image.shortDigest"),
    printcolumn(name = "Time", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.failure.reason", priority = "1"),
    printcolumn(name = "Tar", type_ = "string", json_path = ".status.tar.location", priority = "1"),
    printcolumn(name = "Pod", type_ = "string", json_path = ".status.pod.name", priority = "1")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
#[x_kube(validation = Rule::new("!self.push || has(self.registry)").message("registry: required with push: true, for example registry: docker.io/my-team"))]
#[x_kube(validation = Rule::new("!(has(self.output) && has(self.output.none)) || self.push").message("output.none: only with push: true, else the image would be lost"))]
pub struct OciBuildSpec {
    /// Where the files of the build come from. In a Concourse task these are its inputs.
    pub source: Source,

    /// Build context: a path below the source's root; `.` is the root itself. Task parameter CONTEXT.
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.size() > 0").message("context: must not be empty; '.' is the source's root"))]
    #[x_kube(validation = Rule::new(RELATIVE_PATH).message("context: a path below the source's root: not absolute and without '..'"))]
    pub context: String,

    /// Dockerfile: a path below the source's root if a file is there, else below the context. Default: `Dockerfile` in the
    /// context. Task parameter DOCKERFILE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.size() > 0").message("dockerfile: must not be empty; leave it out for the Dockerfile in the context"))]
    #[x_kube(validation = Rule::new(RELATIVE_PATH).message("dockerfile: a path below the source's root or the context: not absolute and without '..'"))]
    pub dockerfile: Option<String>,

    /// Name of the image without registry and tag, for example `my-app`. Task parameter IMAGE_NAME.
    #[schemars(length(max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)*$')").message("imageName: lower-case letters, digits and single '.', '_' or '-' between them, parts separated by '/'; the tag goes to imageTag, the registry to registry"))]
    pub image_name: String,

    /// Tag of the image; `latest` if left out. Task parameter IMAGE_TAG.
    #[serde(default = "default_image_tag")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9._-]*$')").message("imageTag: letters, digits, '_', '.' and '-', not beginning with '.' or '-', at most 128 characters"))]
    pub image_tag: String,

    /// Build arguments for the Dockerfile's ARG. They are part of the image's history: not for secrets. Task parameters BUILD_ARG_*.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts_schema")]
    #[x_kube(validation = Rule::new("self.all(name, name != '' && !name.contains('='))").message("buildArgs: a name must not be empty and must not contain '='"))]
    pub build_args: BTreeMap<String, String>,

    /// Labels of the image. Task parameters LABEL_*.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts_schema")]
    #[x_kube(validation = Rule::new("self.all(name, name != '' && !name.contains('='))").message("labels: a name must not be empty and must not contain '='"))]
    pub labels: BTreeMap<String, String>,

    /// Stage of the Dockerfile to build. Default: the last one. Task parameter TARGET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*$')").message("target: the name of a stage of the Dockerfile: letters, digits, '.', '_' and '-'"))]
    pub target: Option<String>,

    /// Whether to push the image to `registry`; false if left out. Task parameter PUSH.
    #[serde(default)]
    pub push: bool,

    /// Registry and, if any, the path above the image's name, for example `docker.io/my-team`. Required with `push`. Task
    /// parameter REGISTRY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    #[x_kube(validation = Rule::new("!self.contains('://')").message("registry: host and path alone, without http:// or https://"))]
    #[x_kube(validation = Rule::new("self.contains('://') || self.matches('^([^/]*[.:][^/]*|localhost)(/|$)')").message("registry: it must begin with a host that has a '.' or a port, or is localhost; for Docker Hub write docker.io/my-team"))]
    #[x_kube(validation = Rule::new("self.contains('://') || self.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)*$')").message("registry: a host, with a port and a lower-case path if need be, such as docker.io/my-team or registry.example.com:5000"))]
    pub registry: Option<String>,

    /// Names of Secrets of type `kubernetes.io/dockerconfigjson` in this namespace, for pulling base images and pushing. They
    /// are merged; for one registry the later Secret wins. Only the build's own container sees them. In a Concourse task: DOCKER_CONFIG.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    #[x_kube(validation = Rule::new("self.all(name, name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'))").message("registrySecrets: names of Secrets: lower-case letters, digits, '-' and '.'"))]
    pub registry_secrets: Vec<String>,

    /// Where `image.tar` goes. Default: a claim of the build's own, `<name>-output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,

    /// How long the build may run once its pod has started, for example `30m` or `1h30m`. Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && self != '' && duration(self) >= duration('1s') && duration(self) <= duration('168h')").message("timeout: hours, minutes and seconds between 1s and 168h, for example 30m or 1h30m"))]
    pub timeout: Option<String>,

    /// How often the build is tried again when its pod was lost through no fault of its own: evicted, preempted, deleted, its
    /// node gone, the BuildKit daemon dead, a registry out of order. A failing Dockerfile is never tried again. Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub retries: Option<i32>,

    /// How the build is kept apart from its node. Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,

    /// How the build's pod is scheduled and sized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodSettings>,
}

/// How a build is kept apart from its node: `rootless` runs BuildKit as an ordinary user, `userns` as root of the pod's own user
/// namespace, `privileged` as root of the node; `auto` takes `userns` where all nodes report it, else `rootless`. Default: the
/// operator's configuration, which also says what is allowed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// `userns` where every node that could run the pod reports user namespaces, else `rootless`.
    #[default]
    Auto,
    /// BuildKit as an ordinary user (uid 1000). Passes the Pod Security standard *baseline*.
    Rootless,
    /// BuildKit as root of a user namespace of the pod's own (`hostUsers: false`). Kubernetes 1.33 and later.
    Userns,
    /// BuildKit as root of the node. Only where the administrator allows it.
    Privileged,
}

fn default_image_tag() -> String {
    "latest".to_owned()
}

/// Bounds keys and values, so that the API server can bound the cost of the rules.
fn texts_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 256,
        "additionalProperties": { "type": "string", "maxLength": 65_536 },
    })
}
