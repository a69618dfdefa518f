//! From what the API server let through to types that cannot be wrong: what CEL cannot say is checked here.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::Value;

use super::{
    InvalidReference, OperatorConfig,
    daemon_config::parse as parse_buildkit_config,
    duration::parse_duration,
    instructions::{Instructions, PhaseSeconds, SourceInstructions},
    operator_config::{ConfigDuration, Override, Waits},
    registries::registries,
    translate::{
        image_form, output, parameters, references, registry_secrets, relative, secrets,
        source_instructions, ssh,
    },
};
use crate::api::{
    ConfigMapKey, ConfigMapSource, Isolation, OciBuild, OciBuildSpec, PodSettings,
    TRANSFER_ANNOTATION,
};

/// Annotations of an object may hold 256 KiB in all; the rest is left for others.
const INSTRUCTIONS_LIMIT: usize = 200 * 1024;

/// Bytes of one argument, with room for the option before it (Linux: MAX_ARG_STRLEN is 128 KiB).
const ARGUMENT_LIMIT: usize = 120 * 1024;

/// Annotations by which older Kubernetes confines a pod, and the operator's own.
const RESERVED_ANNOTATIONS: [&str; 4] = [
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
    "ocibuild.dev/",
];

/// Labels of Kueue.
pub const KUEUE_PREFIX: &str = "kueue.x-k8s.io/";

/// A spec that cannot be built although the API server accepted it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSpec {
    /// A part of the image's name.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// No source, or more than one: only possible in a file that no API server has seen.
    #[error(
        "source: name exactly one of persistentVolumeClaim, git, http, configMap, files, image or upload"
    )]
    Source,
    /// A path that is absolute or leaves its root.
    #[error("{field}: {path:?} is absolute or has '..' in it")]
    Path {
        /// The field.
        field: &'static str,
        /// The path.
        path: String,
    },
    /// A text that is no duration.
    #[error("{field}: {text:?} is not a duration such as 30m or 1h30m")]
    Duration {
        /// The field.
        field: &'static str,
        /// Its text.
        text: String,
    },
    /// The administrator does not allow it.
    #[error(
        "isolation: {asked} is not allowed here; the operator's configuration allows {allowed}"
    )]
    IsolationNotAllowed {
        /// What the build asked for.
        asked: String,
        /// What is allowed.
        allowed: String,
    },
    /// An address that is none.
    #[error("addHosts: {address:?} of {host} is not an IPv4 or IPv6 address")]
    Address {
        /// The host.
        host: String,
        /// Its address.
        address: String,
    },
    /// The administrator does not allow it.
    #[error(
        "{field} is not allowed here; the operator's configuration (allowedOverrides) allows {allowed}"
    )]
    OverrideNotAllowed {
        /// The field.
        field: &'static str,
        /// What is allowed.
        allowed: String,
    },
    /// `buildkitConfig` is no TOML, or sets what it may not.
    #[error("buildkitConfig: {0}")]
    BuildkitConfig(String),
    /// The format cannot hold what is asked for: only possible in a file that no API server has seen.
    #[error("outputFormat: a docker tar holds one platform and no attestations; write oci")]
    Format,
    /// A secret that comes from nowhere, or from two places: only possible in a file that no API server has seen.
    #[error("secrets: {0}: name exactly one of secret or file")]
    Secret(String),
    /// An annotation of the pod that would undo its confinement.
    #[error(
        "pod.annotations: {0:?} is not for builds to set: it changes how the pod is confined, or is the operator's own"
    )]
    Annotation(String),
    /// A text that no program can be given.
    #[error("{0}: a NUL character is in it or beside it; no program can be given one")]
    Nul(String),
    /// An argument that is too long for a program.
    #[error(
        "{field}: {name:?} with its value is {size} bytes; at most {ARGUMENT_LIMIT} can be given to a program"
    )]
    LongArgument {
        /// The field.
        field: &'static str,
        /// The name in it.
        name: String,
        /// Bytes of name and value.
        size: usize,
    },
    /// Too much for the pod's annotation.
    #[error(
        "source.files, buildArgs, labels and the other fields are {0} bytes together; at most {INSTRUCTIONS_LIMIT} fit. Put large files into a ConfigMap, a claim or a repository"
    )]
    TooLarge(usize),
    /// An object without name or namespace: it never came from an API server.
    #[error("metadata.{0} is missing")]
    Metadata(&'static str),
}

/// Number of an attempt within a generation, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(i32);

impl Attempt {
    /// The first attempt of a generation.
    pub const FIRST: Self = Self(1);

    /// An attempt read from a status; nothing below 1 is one.
    pub fn from_number(number: i32) -> Option<Self> {
        (number >= 1).then_some(Self(number))
    }

    /// The attempt after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The number.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A build whose every part was checked.
#[derive(Clone, Debug)]
pub struct Validated {
    /// Namespace of the build.
    pub namespace: String,
    /// Name of the build.
    pub name: String,
    /// UID of the build.
    pub uid: String,
    /// Generation of the spec.
    pub generation: i64,
    /// What the runner is told.
    pub instructions: Instructions,
    /// How long the runner may take.
    pub timeout: Duration,
    /// How long each part may take.
    pub waits: Waits,
    /// How long the build goes on without being renewed.
    pub lease: Option<Duration>,
    /// Attempts after the first.
    pub retries: i32,
    /// The isolation that was asked for, `auto` included.
    pub isolation: Isolation,
    /// Claim of the source.
    pub source_claim: Option<String>,
    /// ConfigMap of the source.
    pub source_config_map: Option<ConfigMapSource>,
    /// ConfigMaps with the authorities of registries, in the order of their mounts.
    pub registry_authorities: Vec<ConfigMapKey>,
    /// What the spec adds to buildkitd.toml.
    pub buildkit_config: toml::Table,
    /// Another image of BuildKit than the operator's.
    pub buildkit_image: Option<String>,
    /// Whether the daemon writes its debug log.
    pub debug: bool,
    /// Where the tar goes.
    pub output: OutputPlan,
    /// How the pod is scheduled and sized.
    pub pod: PodSettings,
    /// Priority class of the pod.
    pub priority_class: Option<String>,
    /// Labels of the build by which Kueue takes its pod into a queue (https://kueue.sigs.k8s.io/docs/tasks/run/plain_pods/).
    pub kueue_labels: BTreeMap<String, String>,
}

/// Where the tar goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputPlan {
    /// A claim that exists.
    Existing {
        /// Its name.
        claim_name: String,
    },
    /// A claim of the build's own.
    Own {
        /// Its name.
        claim_name: String,
        /// Its size.
        storage: String,
        /// Its storage class.
        storage_class_name: Option<String>,
    },
    /// A volume of the pod, where a client fetches it.
    Download,
    /// None: the image is only pushed.
    Nowhere,
}

impl OutputPlan {
    /// The claim that takes the tar.
    pub fn claim_name(&self) -> Option<&str> {
        match self {
            Self::Existing { claim_name } | Self::Own { claim_name, .. } => Some(claim_name),
            Self::Download | Self::Nowhere => None,
        }
    }
}

/// Checks a build and fills in what it leaves to the operator's configuration.
pub fn validate(build: &OciBuild, config: &OperatorConfig) -> Result<Validated, InvalidSpec> {
    let name = build.metadata.name.clone().ok_or(InvalidSpec::Metadata("name"))?;
    let namespace = build.metadata.namespace.clone().ok_or(InvalidSpec::Metadata("namespace"))?;
    let spec = &build.spec;
    relative("context", &spec.context)?;
    if let Some(dockerfile) = &spec.dockerfile {
        relative("dockerfile", dockerfile)?;
    }
    let buildkit_config =
        spec.buildkit_config.as_deref().map(parse_buildkit_config).transpose()?.unwrap_or_default();
    allowed_overrides(spec, &buildkit_config, config)?;
    let timeout =
        duration("timeout", spec.timeout.as_deref())?.unwrap_or(config.defaults.timeout.0);
    let waits = waits(spec, config)?;
    let isolation = isolation(spec, config)?;
    let (output, output_path) = output(&name, build, config)?;
    let (registries, registry_authorities) = registries(spec, config);
    let instructions = Instructions {
        build: format!("{namespace}/{name}"),
        source: source_instructions(&spec.source)?,
        context: spec.context.clone(),
        dockerfile: spec.dockerfile.clone(),
        references: references(spec)?,
        parameters: parameters(spec, config)?,
        image: image_form(spec)?,
        secrets: secrets(spec)?,
        ssh: ssh(spec),
        push: spec.push,
        registry_secrets: registry_secrets(spec),
        registries,
        output: output_path,
        transfer_token: build
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(TRANSFER_ANNOTATION).cloned()),
        timeout_seconds: timeout.as_secs(),
        deadlines: phase_seconds(&waits),
    };
    let pod = spec.pod.clone().unwrap_or_default();
    confined(&pod)?;
    check_texts(&instructions)?;
    Ok(Validated {
        namespace,
        name,
        uid: build.metadata.uid.clone().unwrap_or_default(),
        generation: build.metadata.generation.unwrap_or_default(),
        instructions,
        timeout,
        waits,
        lease: duration("lease", spec.lease.as_deref())?,
        retries: spec.retries.unwrap_or(config.defaults.retries),
        isolation,
        source_claim: spec
            .source
            .persistent_volume_claim
            .as_ref()
            .map(|claim| claim.claim_name.clone()),
        source_config_map: spec.source.config_map.clone(),
        registry_authorities,
        buildkit_config,
        buildkit_image: spec.buildkit_image.clone(),
        debug: spec.debug,
        output,
        priority_class: pod
            .priority_class_name
            .clone()
            .or_else(|| config.defaults.priority_class_name.clone()),
        pod,
        kueue_labels: build
            .metadata
            .labels
            .iter()
            .flatten()
            .filter(|(name, _)| name.starts_with(KUEUE_PREFIX))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    })
}

fn confined(pod: &PodSettings) -> Result<(), InvalidSpec> {
    let is_reserved =
        |name: &&String| RESERVED_ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix));
    pod.annotations
        .keys()
        .find(is_reserved)
        .map_or(Ok(()), |name| Err(InvalidSpec::Annotation(name.clone())))
}

/// Checks what becomes arguments and environment variables of a step's processes, or labels of the
/// image: the kernel takes neither a NUL character nor more than 128 KiB in one.
fn check_texts(instructions: &Instructions) -> Result<(), InvalidSpec> {
    let text = serde_json::to_string(instructions).unwrap_or_default();
    if text.len() > INSTRUCTIONS_LIMIT {
        return Err(InvalidSpec::TooLarge(text.len()));
    }
    let (parameters, image) = (&instructions.parameters, &instructions.image);
    for (field, texts) in [
        ("buildArgs", &parameters.build_args),
        ("labels", &parameters.labels),
        ("annotations", &image.annotations),
    ] {
        if let Some((name, value)) =
            texts.iter().find(|(name, value)| name.len() + value.len() > ARGUMENT_LIMIT)
        {
            return Err(InvalidSpec::LongArgument {
                field,
                name: name.clone(),
                size: name.len() + value.len(),
            });
        }
    }
    if !text.contains("\\u0000") {
        return Ok(());
    }
    // What is in files, and not in arguments, may be anything.
    let files = Instructions { source: SourceInstructions::Upload {}, ..instructions.clone() };
    match nul(&serde_json::to_value(files).unwrap_or_default()) {
        Some(field) => Err(InvalidSpec::Nul(field)),
        None => Ok(()),
    }
}

/// Where a NUL character is, if there is one.
fn nul(value: &Value) -> Option<String> {
    let below = |name: &str, value: &Value| {
        if name.contains('\0') {
            return Some(String::new());
        }
        nul(value)
            .map(|rest| if rest.is_empty() { name.to_owned() } else { format!("{name}.{rest}") })
    };
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(values) => values.iter().find_map(nul),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| below(name, value)),
        _ => None,
    }
}

fn duration(field: &'static str, text: Option<&str>) -> Result<Option<Duration>, InvalidSpec> {
    let parse = |text: &str| {
        parse_duration(text).ok_or_else(|| InvalidSpec::Duration { field, text: text.to_owned() })
    };
    text.map(parse).transpose()
}

/// What the spec says of its deadlines wins over the operator's configuration.
fn waits(spec: &OciBuildSpec, config: &OperatorConfig) -> Result<Waits, InvalidSpec> {
    let own = spec.deadlines.clone().unwrap_or_default();
    let parsed = |field, text: &Option<String>| {
        duration(field, text.as_deref()).map(|wait| wait.map(ConfigDuration))
    };
    let of_operator = config.waits;
    Ok(Waits {
        queue: parsed("deadlines.queue", &own.queue)?.or(of_operator.queue),
        claim: parsed("deadlines.claim", &own.claim)?.unwrap_or(of_operator.claim),
        schedule: parsed("deadlines.schedule", &own.schedule)?.unwrap_or(of_operator.schedule),
        start: parsed("deadlines.start", &own.start)?.unwrap_or(of_operator.start),
        daemon: parsed("deadlines.daemon", &own.daemon)?.unwrap_or(of_operator.daemon),
        source: parsed("deadlines.source", &own.source)?.or(of_operator.source),
        build: parsed("deadlines.build", &own.build)?.or(of_operator.build),
        export: parsed("deadlines.export", &own.export)?.or(of_operator.export),
        push: parsed("deadlines.push", &own.push)?.or(of_operator.push),
    })
}

fn phase_seconds(waits: &Waits) -> PhaseSeconds {
    let seconds = |wait: ConfigDuration| wait.0.as_secs();
    PhaseSeconds {
        daemon: Some(seconds(waits.daemon)),
        source: waits.source.map(seconds),
        build: waits.build.map(seconds),
        export: waits.export.map(seconds),
        push: waits.push.map(seconds),
    }
}

fn isolation(spec: &OciBuildSpec, config: &OperatorConfig) -> Result<Isolation, InvalidSpec> {
    let isolation = spec.isolation.unwrap_or(config.defaults.isolation);
    if isolation == Isolation::Auto || config.allowed_isolations.contains(&isolation) {
        return Ok(isolation);
    }
    let text = |isolation: &Isolation| format!("{isolation:?}").to_lowercase();
    Err(InvalidSpec::IsolationNotAllowed {
        asked: text(&isolation),
        allowed: config.allowed_isolations.iter().map(text).collect::<Vec<_>>().join(", "),
    })
}

fn allowed_overrides(
    spec: &OciBuildSpec,
    buildkit_config: &toml::Table,
    config: &OperatorConfig,
) -> Result<(), InvalidSpec> {
    let sets_resources = spec.pod.as_ref().is_some_and(|pod| pod.resources.is_some());
    // It is laid over the operator's file: another way to say the same.
    let sets_registries = buildkit_config.contains_key("registry");
    for (is_set, field, needed) in [
        (!spec.registry_mirrors.is_empty(), "registryMirrors", Override::Registries),
        (!spec.registries.is_empty(), "registries", Override::Registries),
        (spec.buildkit_config.is_some(), "buildkitConfig", Override::BuildkitConfig),
        (sets_registries, "registry in buildkitConfig", Override::Registries),
        (spec.proxy.is_some(), "proxy", Override::Proxy),
        (sets_resources, "pod.resources", Override::Resources),
        (spec.buildkit_image.is_some(), "buildkitImage", Override::BuildkitImage),
    ] {
        if is_set && !config.allowed_overrides.contains(&needed) {
            let names: Vec<_> =
                config.allowed_overrides.iter().map(|allowed| allowed.as_str()).collect();
            let allowed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(InvalidSpec::OverrideNotAllowed { field, allowed });
        }
    }
    Ok(())
}
