//! What the runner is told to do: the contract between the plan and the build container. It travels in an annotation of the
//! pod and holds nothing secret.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::ImageReference;
use crate::api::{Attestations, Cache, Compression, OutputFormat, Proxy};

/// Everything that the runner needs to know about one attempt of one build.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Instructions {
    /// Which build this is, for messages: `namespace/name`.
    pub build: String,
    /// Where the files come from.
    pub source: SourceInstructions,
    /// Path of the context below the source's root.
    pub context: String,
    /// The Dockerfile as the user wrote it; which of the two readings holds is decided where the files are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// Names that the image gets, and that it is pushed to: the one of `imageTag`, then those of the further tags.
    pub references: Vec<ImageReference>,
    /// What the Dockerfile is given.
    #[serde(default)]
    pub parameters: BuildParameters,
    /// In which form the image is made.
    #[serde(default)]
    pub image: ImageForm,
    /// Build secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretInstructions>,
    /// SSH keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<SshInstructions>,
    /// Whether to push.
    pub push: bool,
    /// Registry credentials, in the order in which they are merged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registry_secrets: Vec<MountedSecret>,
    /// How registries are reached by the runner itself; the daemon has its own configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registries: BTreeMap<String, RegistryInstructions>,
    /// Where the tar goes; none if the image is only pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputInstructions>,
    /// SHA-256, in hexadecimal digits, of the token that a client must have; none if it needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer_token: Option<String>,
    /// Seconds after which the runner gives up.
    pub timeout_seconds: u64,
    /// Seconds that each part of the run may take.
    #[serde(default)]
    pub deadlines: PhaseSeconds,
}

/// Seconds that each part of a run may take; none is as long as the whole.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct PhaseSeconds {
    /// Until the daemon listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<u64>,
    /// The source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<u64>,
    /// Base images and steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<u64>,
    /// Layers and files of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<u64>,
    /// The push.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<u64>,
}

/// What the Dockerfile is given.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct BuildParameters {
    /// Build arguments.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub build_args: BTreeMap<String, String>,
    /// File of the source with build arguments, which win.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_args_file: Option<String>,
    /// Labels of the image.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// File of the source with labels, which win.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels_file: Option<String>,
    /// Build arguments that become images: name to path below the source's root.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub image_args: BTreeMap<String, String>,
    /// Stage to build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// File of the source that names the stage to build, which wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_file: Option<String>,
    /// Stages that are built before it, each with an output of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_targets: Vec<String>,
    /// Platforms to build for; empty is that of the node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// Host name to address.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add_hosts: BTreeMap<String, String>,
    /// Proxies of the steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Builds every step anew.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_cache: bool,
    /// Cache of the results of steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Seconds since 1970 that timestamps are set back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_date_epoch: Option<i64>,
}

/// In which form the image is made.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageForm {
    /// Format of the tar.
    pub format: OutputFormat,
    /// Whether the image's files are left beside the tar.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unpack_rootfs: bool,
    /// Annotations of the manifest and the index.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Compression of new layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Its level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_level: Option<i32>,
    /// Statements about the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestations: Option<Attestations>,
}

/// A build secret and where its content is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretInstructions {
    /// Name by which a step asks for it.
    pub id: String,
    /// Where its content is.
    pub from: SecretOrigin,
}

/// Where the content of a build secret is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum SecretOrigin {
    /// In a mounted key of a Secret.
    Key(MountedKey),
    /// In a file below the source's root.
    File(String),
}

/// An SSH key and where it is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SshInstructions {
    /// Name by which a step asks for the agent.
    pub id: String,
    /// The private key.
    pub key: MountedKey,
}

/// A key of a Secret, mounted into the build container.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MountedKey {
    /// Name of the Secret, for messages.
    pub secret: String,
    /// The key, for messages.
    pub key: String,
    /// The file that it is mounted at; missing if the Secret or its key does not exist.
    pub path: PathBuf,
}

/// How the runner itself reaches a registry.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RegistryInstructions {
    /// Hosts that are asked first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// Speak http.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub http: bool,
    /// Accept any certificate.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// The authority's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<MountedAuthority>,
}

/// An authority's certificate of a ConfigMap, mounted into both containers.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MountedAuthority {
    /// Name of the ConfigMap, for messages.
    pub config_map: String,
    /// The key, for messages.
    pub key: String,
    /// The file that it is mounted at; missing if the ConfigMap or its key does not exist.
    pub path: PathBuf,
}

/// Where the files come from, as the runner sees it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SourceInstructions {
    /// A folder that is there: a mounted claim, or a folder of this machine.
    Directory {
        /// Root of the volume, or the folder of this machine. No path may leave it.
        root: PathBuf,
        /// Folder below it that is the source's root; empty is the root itself.
        path: String,
    },
    /// A mounted ConfigMap; empty if it does not exist. It is copied, for its files are links.
    ConfigMap {
        /// Name of the ConfigMap, for messages.
        name: String,
        /// Where it is mounted.
        path: PathBuf,
        /// Files that must be there, by `items`; empty if each key is a file.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        expected: Vec<String>,
    },
    /// Files to be written.
    Files {
        /// Path to content.
        files: BTreeMap<String, String>,
    },
    /// A Git repository that BuildKit fetches.
    Git {
        /// Its address.
        url: String,
        /// Branch, tag or commit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revision: Option<String>,
    },
    /// An image, or an artifact, in a registry.
    Image {
        /// Its reference.
        reference: String,
    },
    /// An archive that a client sends.
    Upload {},
    /// A tar archive that BuildKit fetches and the runner unpacks.
    Http {
        /// Its address.
        url: String,
        /// Its SHA-256 in hexadecimal digits.
        sha256: String,
    },
}

/// A Secret mounted into the build container.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MountedSecret {
    /// Name of the Secret, for messages.
    pub name: String,
    /// Folder that it is mounted at; empty if the Secret does not exist.
    pub path: PathBuf,
}

/// Where the tar goes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OutputInstructions {
    /// Root of the output volume.
    pub root: PathBuf,
    /// Folder below it that takes the files; empty is the root itself.
    pub path: String,
    /// Seconds that the files are kept for a client; none if they are on a volume that stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_seconds: Option<u64>,
}
