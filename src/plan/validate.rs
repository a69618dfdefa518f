//! From what the API server let through to types that cannot be wrong: what CEL cannot say is checked here.

use std::{fmt, path::PathBuf, time::Duration};

use super::{
    ImageReference, InvalidReference, OperatorConfig,
    duration::parse_duration,
    instructions::{Instructions, MountedSecret, OutputInstructions, SourceInstructions},
    layout,
};
use crate::api::{ConfigMapSource, Isolation, OciBuild, PodSettings, Source};

/// Annotations of an object may hold 256 KiB in all; the rest is left for others.
const INSTRUCTIONS_LIMIT: usize = 200 * 1024;

/// A spec that cannot be built although the API server accepted it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSpec {
    /// A part of the image's name.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// No source, or more than one: only possible in a file that no API server has seen.
    #[error("source: name exactly one of persistentVolumeClaim, git, http, configMap or files")]
    Source,
    /// A path that is absolute or leaves its root.
    #[error("{field}: {path:?} is absolute or has '..' in it")]
    Path {
        /// The field.
        field: &'static str,
        /// The path.
        path: String,
    },
    /// A timeout that is no duration.
    #[error("timeout: {0:?} is not a duration such as 30m or 1h30m")]
    Timeout(String),
    /// The administrator does not allow it.
    #[error("isolation: {asked} is not allowed here; the operator's configuration allows {allowed}")]
    IsolationNotAllowed {
        /// What the build asked for.
        asked: String,
        /// What is allowed.
        allowed: String,
    },
    /// Too much for the pod's annotation.
    #[error(
        "source.files, buildArgs and labels are {0} bytes together; at most {INSTRUCTIONS_LIMIT} fit. Put large files into a ConfigMap, a claim or a repository"
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
    /// Attempts after the first.
    pub retries: i32,
    /// The isolation that was asked for, `auto` included.
    pub isolation: Isolation,
    /// Claim of the source.
    pub source_claim: Option<SourceClaimPlan>,
    /// ConfigMap of the source.
    pub source_config_map: Option<ConfigMapSource>,
    /// Where the tar goes.
    pub output: OutputPlan,
    /// How the pod is scheduled and sized.
    pub pod: PodSettings,
}

/// The claim that holds the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceClaimPlan {
    /// Name of the claim.
    pub claim_name: String,
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
    /// None: the image is only pushed.
    Nowhere,
}

impl OutputPlan {
    /// The claim that takes the tar.
    pub fn claim_name(&self) -> Option<&str> {
        match self {
            Self::Existing { claim_name } | Self::Own { claim_name, .. } => Some(claim_name),
            Self::Nowhere => None,
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
    let timeout = match &spec.timeout {
        Some(text) => parse_duration(text).ok_or_else(|| InvalidSpec::Timeout(text.clone()))?,
        None => config.defaults.timeout.0,
    };
    let isolation = spec.isolation.unwrap_or(config.defaults.isolation);
    if isolation != Isolation::Auto && !config.allowed_isolations.contains(&isolation) {
        let text = |isolation: &Isolation| format!("{isolation:?}").to_lowercase();
        return Err(InvalidSpec::IsolationNotAllowed {
            asked: text(&isolation),
            allowed: config.allowed_isolations.iter().map(text).collect::<Vec<_>>().join(", "),
        });
    }
    let (output, output_path) = output(&name, build, config)?;
    let instructions = Instructions {
        build: format!("{namespace}/{name}"),
        source: source_instructions(&spec.source)?,
        context: spec.context.clone(),
        dockerfile: spec.dockerfile.clone(),
        reference: ImageReference::new(spec.registry.as_deref(), &spec.image_name, &spec.image_tag)?,
        build_args: spec.build_args.clone(),
        labels: spec.labels.clone(),
        target: spec.target.clone(),
        push: spec.push,
        registry_secrets: spec
            .registry_secrets
            .iter()
            .enumerate()
            .map(|(number, name)| MountedSecret {
                name: name.clone(),
                path: PathBuf::from(format!("{}/{number}", layout::REGISTRY_SECRETS_DIRECTORY)),
            })
            .collect(),
        output: output_path,
        timeout_seconds: timeout.as_secs(),
    };
    let size = serde_json::to_string(&instructions).map_or(0, |text| text.len());
    if size > INSTRUCTIONS_LIMIT {
        return Err(InvalidSpec::TooLarge(size));
    }
    Ok(Validated {
        namespace,
        name,
        uid: build.metadata.uid.clone().unwrap_or_default(),
        generation: build.metadata.generation.unwrap_or_default(),
        instructions,
        timeout,
        retries: spec.retries.unwrap_or(config.defaults.retries),
        isolation,
        source_claim: spec
            .source
            .persistent_volume_claim
            .as_ref()
            .map(|claim| SourceClaimPlan { claim_name: claim.claim_name.clone() }),
        source_config_map: spec.source.config_map.clone(),
        output,
        pod: spec.pod.clone().unwrap_or_default(),
    })
}

fn source_instructions(source: &Source) -> Result<SourceInstructions, InvalidSpec> {
    let mut sources = Vec::new();
    if let Some(claim) = &source.persistent_volume_claim {
        let path = claim.path.as_deref().unwrap_or_default();
        relative("source.persistentVolumeClaim.path", path)?;
        sources.push(SourceInstructions::Directory { root: PathBuf::from(layout::SOURCE_DIRECTORY), path: path.to_owned() });
    }
    if let Some(config_map) = &source.config_map {
        for item in &config_map.items {
            relative("source.configMap.items.path", &item.path)?;
        }
        sources.push(SourceInstructions::ConfigMap {
            name: config_map.name.clone(),
            path: PathBuf::from(layout::SOURCE_DIRECTORY),
            expected: config_map.items.iter().map(|item| item.path.clone()).collect(),
        });
    }
    if let Some(files) = &source.files {
        for path in files.keys() {
            relative("source.files", path)?;
        }
        sources.push(SourceInstructions::Files { files: files.clone() });
    }
    if let Some(git) = &source.git {
        sources.push(SourceInstructions::Git { url: git.url.clone(), revision: git.revision.clone() });
    }
    if let Some(http) = &source.http {
        sources.push(SourceInstructions::Http { url: http.url.clone(), sha256: http.sha256.clone() });
    }
    let mut sources = sources.into_iter();
    match (sources.next(), sources.next()) {
        (Some(source), None) => Ok(source),
        _ => Err(InvalidSpec::Source),
    }
}

fn output(
    name: &str,
    build: &OciBuild,
    config: &OperatorConfig,
) -> Result<(OutputPlan, Option<OutputInstructions>), InvalidSpec> {
    let output = build.spec.output.clone().unwrap_or_default();
    if output.none.is_some() {
        return Ok((OutputPlan::Nowhere, None));
    }
    let root = PathBuf::from(layout::OUTPUT_DIRECTORY);
    if let Some(claim) = output.persistent_volume_claim {
        let path = claim.path.unwrap_or_else(|| name.to_owned());
        relative("output.persistentVolumeClaim.path", &path)?;
        return Ok((OutputPlan::Existing { claim_name: claim.claim_name }, Some(OutputInstructions { root, path })));
    }
    let template = output.claim_template.unwrap_or_default();
    let plan = OutputPlan::Own {
        claim_name: format!("{name}-output"),
        storage: template.storage.unwrap_or_else(|| config.defaults.output_storage.clone()),
        storage_class_name: template.storage_class_name.or_else(|| config.defaults.output_storage_class.clone()),
    };
    Ok((plan, Some(OutputInstructions { root, path: String::new() })))
}

fn relative(field: &'static str, path: &str) -> Result<(), InvalidSpec> {
    if path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(InvalidSpec::Path { field, path: path.to_owned() });
    }
    Ok(())
}
