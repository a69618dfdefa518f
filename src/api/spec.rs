//! `OciBuild` and its `spec`.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Attestations, BuildSecret, Cache, Compression, Deadlines, OciBuildStatus, Output, OutputFormat,
    PodSettings, Proxy, RegistryConnection, Source, SshKey,
};

/// CEL: a path that stays below the root it is relative to. Empty means the root.
pub(super) const RELATIVE_PATH: &str =
    "!self.startsWith('/') && !self.split('/').exists(part, part == '..')";

/// CEL: the name of an object (RFC 1123 subdomain).
pub(super) const OBJECT_NAME: &str =
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')";

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
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Time", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Tar", type_ = "string", json_path = ".status.tar.location", priority = "1"),
    printcolumn(name = "Pod", type_ = "string", json_path = ".status.pod.name", priority = "1"),
    printcolumn(name = "Queue", type_ = "integer", json_path = ".status.queue.position", priority = "1")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
#[x_kube(validation = Rule::new("!self.push || has(self.registry)").message("registry: required with push: true, for example registry: docker.io/my-team"))]
#[x_kube(validation = Rule::new("!has(self.registry) || !self.imageName.startsWith(self.registry.split('/')[0] + '/')").message("imageName: without the registry, which stands in registry already"))]
#[x_kube(validation = Rule::new("!(has(self.output) && has(self.output.none)) || self.push").message("output.none: only with push: true, else the image would be lost"))]
#[x_kube(validation = Rule::new("!(has(self.outputFormat) && self.outputFormat == 'docker' && has(self.platforms) && self.platforms.size() > 1)").message("outputFormat: a docker tar holds one platform; write oci, or leave it out with several platforms"))]
#[x_kube(validation = Rule::new("!(has(self.outputFormat) && self.outputFormat == 'docker' && has(self.attestations))").message("outputFormat: a docker tar cannot hold attestations; write oci, or leave it out with attestations"))]
#[x_kube(validation = Rule::new("!(has(self.unpackRootfs) && self.unpackRootfs && has(self.platforms) && self.platforms.size() > 1)").message("unpackRootfs: only for one platform"))]
#[x_kube(validation = Rule::new("!(has(self.unpackRootfs) && self.unpackRootfs && has(self.output) && has(self.output.none))").message("unpackRootfs: only with an output; output.none leaves no place for rootfs"))]
#[x_kube(validation = Rule::new("!has(self.compressionLevel) || (has(self.compression) && self.compression == 'zstd') || ((!has(self.compression) || self.compression in ['gzip', 'estargz']) && self.compressionLevel <= 9)").message("compressionLevel: only with a compression that has levels: gzip and estargz from 0 to 9, zstd from 0 to 22"))]
pub struct OciBuildSpec {
    /// Where the files of the build come from. In a Concourse task these are its inputs.
    pub source: Source,

    /// Build context: a path below the source's root; `.` is the root itself. Task parameter CONTEXT.
    #[schemars(length(max = 1024), extend("example" = "source-code"))]
    #[x_kube(validation = Rule::new("self.size() > 0").message("context: must not be empty; '.' is the source's root"))]
    #[x_kube(validation = Rule::new(RELATIVE_PATH).message("context: a path below the source's root: not absolute and without '..'"))]
    pub context: String,

    /// Dockerfile: a path below the source's root if a file is there, else below the context. Default: `Dockerfile` in the
    /// context. Task parameter DOCKERFILE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("example" = "source-code/Dockerfile"))]
    #[x_kube(validation = Rule::new("self.size() > 0").message("dockerfile: must not be empty; leave it out for the Dockerfile in the context"))]
    #[x_kube(validation = Rule::new(RELATIVE_PATH).message("dockerfile: a path below the source's root or the context: not absolute and without '..'"))]
    pub dockerfile: Option<String>,

    /// Name of the image without registry and tag, for example `my-app`. Task parameter IMAGE_NAME.
    #[schemars(length(max = 255), extend("example" = "my-app"))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)*$')").message("imageName: lower-case letters, digits and single '.', '_' or '-' between them, parts separated by '/'; the tag goes to imageTag, the registry to registry"))]
    pub image_name: String,

    /// Tag of the image; `latest` if left out. Task parameter IMAGE_TAG.
    #[serde(default = "default_image_tag")]
    #[schemars(length(max = 128), extend("example" = "v1.0.0"))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9._-]*$')").message("imageTag: letters, digits, '_', '.' and '-', not beginning with '.' or '-', at most 128 characters"))]
    pub image_tag: String,

    /// Further tags that the image gets and is pushed under.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 128)), extend("example" = ["v1", "v1.2"]))]
    #[x_kube(validation = Rule::new("self.all(tag, tag.matches('^[A-Za-z0-9_][A-Za-z0-9._-]*$'))").message("extraTags: letters, digits, '_', '.' and '-', not beginning with '.' or '-'"))]
    pub extra_tags: Vec<String>,

    /// Build arguments for the Dockerfile's ARG. They are part of the image's history: not for secrets. Task parameters BUILD_ARG_*.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts_schema", extend("example" = {"APP_VERSION": "v1.0.0"}))]
    #[x_kube(validation = Rule::new("self.all(name, name != '' && !name.contains('='))").message("buildArgs: a name must not be empty and must not contain '='"))]
    pub build_args: BTreeMap<String, String>,

    /// File of the source with build arguments: `.yml` and `.yaml` hold a map of texts, any other file `name=value` lines. Its
    /// arguments win over `buildArgs`. Task parameter BUILD_ARGS_FILE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("example" = "ci/build-args.yml"))]
    #[x_kube(validation = Rule::new("self.size() > 0").message("buildArgsFile: must not be empty; leave it out if there is none"))]
    #[x_kube(validation = Rule::new(RELATIVE_PATH).message("buildArgsFile: a path below the source's root: not absolute and without '..'"))]
    pub build_args_file: Option<String>,

    /// Images of the source that FROM can use: the name of a build argument to the path of a docker tar, an OCI tar or the folder
    /// of an OCI layout. In the Dockerfile: `ARG base` and `FROM ${base}`. It wins over a build argument of the same name. Task
    /// parameters IMAGE_ARG_*.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "image_args_schema", extend("example" = {"base_image": "base-image/image.tar"}))]
    #[x_kube(validation = Rule::new("self.all(name, name.matches('^[A-Za-z_][A-Za-z0-9_]*$'))").message("imageArgs: a name is that of an ARG: letters, digits and '_', not beginning with a digit"))]
    #[x_kube(validation = Rule::new("self.all(name, self[name] != '' && !self[name].startsWith('/') && !self[name].split('/').exists(part, part == '..'))").message("imageArgs: a path below the source's root: not empty, not absolute and without '..'"))]
    pub image_args: BTreeMap<String, String>,

    /// Labels of the image. Task parameters LABEL_*.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts_schema", extend("example" = {"org.opencontainers.image.vendor": "My Team"}))]
    #[x_kube(validation = Rule::new("self.all(name, name != '' && !name.contains('='))").message("labels: a name must not be empty and must not contain '='"))]
    pub labels: BTreeMap<String, String>,

    /// File of the source with labels, `name=value` lines. Its labels win over `labels`. Task parameter LABELS_FILE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("example" = "ci/labels"))]
    #[x_kube(validation = Rule::new("self.size() > 0").message("labelsFile: must not be empty; leave it out if there is none"))]
    #[x_kube(validation = Rule::new(RELATIVE_PATH).message("labelsFile: a path below the source's root: not absolute and without '..'"))]
    pub labels_file: Option<String>,

    /// Annotations of the image's manifest, and of its index if it has one (OCI image specification, "Annotations"). Unlike
    /// labels they are not part of the image's configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts_schema", extend("example" = {"org.opencontainers.image.source": "https://github.com/my-team/my-app"}))]
    #[x_kube(validation = Rule::new("self.all(name, name.matches('^[a-z0-9]([a-z0-9._/-]*[a-z0-9])?$'))").message("annotations: a name has lower-case letters, digits, '.', '_', '/' and '-', for example org.opencontainers.image.source"))]
    #[x_kube(validation = Rule::new("self.all(name, !self[name].matches('[\\r\\n]'))").message("annotations: a value is one line"))]
    pub annotations: BTreeMap<String, String>,

    /// Stage of the Dockerfile to build. Default: the last one. Task parameter TARGET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), extend("example" = "release"))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*$')").message("target: the name of a stage of the Dockerfile: letters, digits, '.', '_' and '-'"))]
    pub target: Option<String>,

    /// File of the source whose content, without surrounding white space, is the stage to build. It wins over `target`. Task
    /// parameter TARGET_FILE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("example" = "ci/target"))]
    #[x_kube(validation = Rule::new("self.size() > 0").message("targetFile: must not be empty; leave it out if there is none"))]
    #[x_kube(validation = Rule::new(RELATIVE_PATH).message("targetFile: a path below the source's root: not absolute and without '..'"))]
    pub target_file: Option<String>,

    /// Stages that are built before the one of `target`, with all the same settings. Each gets the files of an output of its own
    /// in `targets/<stage>` beside `image.tar`; none of them is pushed. Task parameter ADDITIONAL_TARGETS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 128)), extend("example" = ["test", "debug"]))]
    #[x_kube(validation = Rule::new("self.all(target, target.matches('^[A-Za-z0-9][A-Za-z0-9._-]*$'))").message("additionalTargets: names of stages of the Dockerfile: letters, digits, '.', '_' and '-'"))]
    #[x_kube(validation = Rule::new("self.all(target, self.filter(other, other == target).size() == 1)").message("additionalTargets: each stage once"))]
    pub additional_targets: Vec<String>,

    /// Platforms to build for, for example `linux/arm64`. Several make an image index, whose tar is of format `oci`. Default: the
    /// platform of the node. Steps for another platform than the node's need its emulation there. Task parameter IMAGE_PLATFORM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)), extend("example" = ["linux/amd64", "linux/arm64"]))]
    #[x_kube(validation = Rule::new("self.all(platform, platform.matches('^[a-z0-9]+(/[a-z0-9]+){0,2}$'))").message("platforms: system and architecture, such as linux/amd64, linux/arm/v7 or arm64"))]
    #[x_kube(validation = Rule::new("self.all(platform, self.filter(other, other == platform).size() == 1)").message("platforms: each platform once"))]
    pub platforms: Vec<String>,

    /// Build secrets for `RUN --mount=type=secret,id=…`. They never become part of the image. Task parameters BUILDKIT_SECRET_* and
    /// BUILDKIT_SECRETTEXT_*.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("example" = [{"id": "npm-token", "secret": {"name": "npm", "key": "token"}}]))]
    #[x_kube(validation = Rule::new("self.all(item, self.filter(other, other.id == item.id).size() == 1)").message("secrets: each id once"))]
    pub secrets: Vec<BuildSecret>,

    /// SSH keys for `RUN --mount=type=ssh`. The keys stay with the runner; steps reach an agent. Task parameter BUILDKIT_SSH.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("example" = [{"id": "default", "secret": {"name": "deploy-key", "key": "ssh-privatekey"}}]))]
    pub ssh: Vec<SshKey>,

    /// Host names that steps of the build find at these addresses. Task parameter BUILDKIT_ADD_HOSTS.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "hosts_schema", extend("example" = {"git.internal": "10.0.0.7"}))]
    #[x_kube(validation = Rule::new("self.all(name, name.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$'))").message("addHosts: a host name has letters, digits, '.' and '-'"))]
    #[x_kube(validation = Rule::new("self.all(name, self[name].matches('^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])([.]|$)){4}$') && !self[name].endsWith('.') || self[name].matches('^([0-9A-Fa-f]{0,4}:){2,8}([0-9A-Fa-f]{0,4}|([0-9]{1,3}[.]){3}[0-9]{1,3})$') && !self[name].contains(':::'))").message("addHosts: the value is an IPv4 or IPv6 address"))]
    pub add_hosts: BTreeMap<String, String>,

    /// Where the results of steps are kept for later builds. In a Concourse task the folder `cache` has no use: this serves instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,

    /// Builds every step anew, although an earlier build's result could serve.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_cache: bool,

    /// Time that the image and the files of its new layers are given, in seconds since 1970, so that the same source gives the same
    /// digest: timestamps after it are set back to it. A build argument SOURCE_DATE_EPOCH means the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 253_402_300_799_i64), extend("example" = 1_700_000_000))]
    pub source_date_epoch: Option<i64>,

    /// Statements about the image that are stored with it; none if left out. An image with attestations is an index; its tar is of
    /// format `oci`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestations: Option<Attestations>,

    /// Compression of the layers that are built: `gzip` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("example" = "zstd"))]
    pub compression: Option<Compression>,

    /// Level of the compression: more is smaller and slower. gzip and estargz 0 to 9, zstd 0 to 22.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 22), extend("example" = 3))]
    pub compression_level: Option<i32>,

    /// Format of `image.tar`: `docker`, or `oci`, where the same image lies unpacked as an OCI layout in the folder `image` beside
    /// it. Default: `docker`; `oci` with several platforms or attestations. Task parameter OUTPUT_OCI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_format: Option<OutputFormat>,

    /// Leaves the image's files in the folder `rootfs` beside `image.tar`, and its environment and user in `metadata.json`. Task
    /// parameter UNPACK_ROOTFS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unpack_rootfs: bool,

    /// Whether to push the image to `registry`; false if left out. Task parameter PUSH.
    #[serde(default)]
    pub push: bool,

    /// Registry and, if any, the path above the image's name, for example `docker.io/my-team`. Required with `push`. Task
    /// parameter REGISTRY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), extend("example" = "docker.io/my-team"))]
    #[x_kube(validation = Rule::new("!self.contains('://')").message("registry: host and path alone, without http:// or https://"))]
    #[x_kube(validation = Rule::new("self.contains('://') || self.matches('^([^/]*[.:][^/]*|localhost)(/|$)')").message("registry: it must begin with a host that has a '.' or a port, or is localhost; for Docker Hub write docker.io/my-team"))]
    #[x_kube(validation = Rule::new("self.contains('://') || self.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)*$')").message("registry: a host, with a port and a lower-case path if need be, such as docker.io/my-team or registry.example.com:5000"))]
    pub registry: Option<String>,

    /// Names of Secrets of type `kubernetes.io/dockerconfigjson` in this namespace, for pulling base images and pushing. They
    /// are merged; for one registry the later Secret wins. Only the build's own container sees them. Task
    /// parameter DOCKER_CONFIG.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)), extend("example" = ["my-registry"]))]
    #[x_kube(validation = Rule::new("self.all(name, name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'))").message("registrySecrets: names of Secrets: lower-case letters, digits, '-' and '.'"))]
    pub registry_secrets: Vec<String>,

    /// Mirrors that are asked before a registry: the registry's host to those of its mirrors. Default: the operator's configuration.
    /// Task parameter REGISTRY_MIRRORS, there for docker.io alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "mirrors_schema", extend("example" = {"docker.io": ["mirror.example.com:5000"]}))]
    #[x_kube(validation = Rule::new("self.all(host, host.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$'))").message("registryMirrors: a registry is a host with a port if need be, such as docker.io"))]
    #[x_kube(validation = Rule::new("self.all(host, self[host].all(mirror, mirror.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[A-Za-z0-9._/-]+)?$')))").message("registryMirrors: a mirror is a host, with port and path if need be, without http:// or https://; how it is reached stands in registries"))]
    pub registry_mirrors: BTreeMap<String, Vec<String>>,

    /// How registries and mirrors are reached, by host: over plain http, with any certificate, or with an authority of your own.
    /// Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "example" = {"registry.example.com": {"ca": {"name": "my-ca", "key": "ca.crt"}}}))]
    #[x_kube(validation = Rule::new("self.all(host, host.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$'))").message("registries: a host with a port if need be, such as registry.example.com:5000"))]
    pub registries: BTreeMap<String, RegistryConnection>,

    /// Further settings of the BuildKit daemon, in the format of buildkitd.toml. They are merged with those of the operator and win
    /// over them. Task parameter BUILDKIT_EXTRA_CONFIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384), extend("example" = "[worker.oci]\n  max-parallelism = 4\n"))]
    pub buildkit_config: Option<String>,

    /// Image of the BuildKit daemon, where the administrator allows another than the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), extend("example" = "docker.io/moby/buildkit:v0.34.2-rootless"))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._:/@-]*$')").message("buildkitImage: the reference of an image"))]
    pub buildkit_image: Option<String>,

    /// Proxies for pulls, pushes, sources and steps. Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,

    /// Whether the BuildKit daemon writes its debug log, in the log of container `buildkitd`. Task parameter DEBUG.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub debug: bool,

    /// Where `image.tar` goes. Default: a claim of the build's own, `<name>-output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,

    /// How long the build may run once its pod has started, for example `30m` or `1h30m`. Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "30m"))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && self != '' && duration(self) >= duration('1s') && duration(self) <= duration('168h')").message("timeout: hours, minutes and seconds between 1s and 168h, for example 30m or 1h30m"))]
    pub timeout: Option<String>,

    /// How long each part of the build may take, from the queue to the push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadlines: Option<Deadlines>,

    /// How often the build is tried again when its pod was lost through no fault of its own: evicted, preempted, deleted, its
    /// node gone, the BuildKit daemon dead, a registry out of order. A failing Dockerfile is never tried again. Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10), extend("example" = 3))]
    pub retries: Option<i32>,

    /// Holds the build back: nothing is built while it is true, and what runs is stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,

    /// How long the OciBuild is kept after its build has ended, for example `24h`; then the operator deletes it, with the claim that
    /// was made for it. Default: for ever. Not for GitOps, which would make it anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "24h"))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && self != '' && duration(self) <= duration('8760h')").message("ttlAfterFinished: hours, minutes and seconds up to 8760h, for example 24h or 30m"))]
    pub ttl_after_finished: Option<String>,

    /// Cancels the build when whoever asked for it is gone: when the annotation `ocibuild.dev/renewed` has not changed for this
    /// long, for example `60s`. The Concourse task renews it. Default: the build goes on by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "60s"))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && self != '' && duration(self) >= duration('10s') && duration(self) <= duration('24h')").message("lease: hours, minutes and seconds between 10s and 24h, for example 60s"))]
    pub lease: Option<String>,

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

fn image_args_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": { "type": "string", "maxLength": 1024 },
    })
}

fn hosts_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 45 },
    })
}

fn mirrors_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "type": "array",
            "maxItems": 8,
            "items": { "type": "string", "maxLength": 255 },
        },
    })
}
