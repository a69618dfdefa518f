//! What the runner is told to do: the contract between the plan and the build container. It travels in an annotation of the
//! pod and holds nothing secret.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::ImageReference;

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
    /// Name that the image gets, and that it is pushed to.
    pub reference: ImageReference,
    /// Build arguments.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub build_args: BTreeMap<String, String>,
    /// Labels of the image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Stage to build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether to push.
    pub push: bool,
    /// Registry credentials, in the order in which they are merged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registry_secrets: Vec<MountedSecret>,
    /// Where the tar goes; none if the image is only pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputInstructions>,
    /// Seconds after which the runner gives up.
    pub timeout_seconds: u64,
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
}
