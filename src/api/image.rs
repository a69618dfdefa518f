//! In which form the image is made.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Format of `image.tar`: `docker`, or `oci`, where the same image lies unpacked as an OCI layout in the folder `image` beside it.
/// Default: `docker`; `oci` with several platforms or attestations. Task parameter OUTPUT_OCI.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// What `docker load` reads, and every reader of OCI archives too.
    #[default]
    Docker,
    /// An OCI archive, and the same unpacked.
    Oci,
}

impl OutputFormat {
    /// The text in specs and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Oci => "oci",
        }
    }
}

/// Compression of the layers that are built; layers of base images stay as they are. Default: `gzip`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Read by everything.
    Gzip,
    /// Quicker and smaller than gzip; containerd 1.5, Docker 23 and later read it.
    Zstd,
    /// gzip that can be pulled lazily (stargz-snapshotter).
    Estargz,
    /// None: the quickest, for images that stay in the cluster.
    Uncompressed,
}

impl Compression {
    /// The text in specs, which is also BuildKit's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Estargz => "estargz",
            Self::Uncompressed => "uncompressed",
        }
    }
}

/// Statements about the image that are stored with it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.provenance) || has(self.sbom)").message("attestations: name provenance, sbom or both"))]
pub struct Attestations {
    /// How the image was built (SLSA provenance).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,

    /// What the image holds (SBOM in the format SPDX). Write `sbom: {}` for BuildKit's own scanner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<Sbom>,
}

/// How much the provenance says: `min`, or `max`, which has build arguments and the Dockerfile too.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// Without build arguments and the Dockerfile.
    Min,
    /// All of it: build arguments can be read by whoever can pull the image.
    Max,
}

impl Provenance {
    /// The text in specs, which is also BuildKit's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
        }
    }
}

/// How the SBOM is made.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Sbom {
    /// Image of the scanner (BuildKit's scanning protocol). Default: the one that BuildKit names, `docker/buildkit-syft-scanner:stable-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), extend("example" = "registry.example.com/scanner:v1"))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._:/@-]*$')").message("attestations.sbom.generator: the reference of an image"))]
    pub generator: Option<String>,
}
