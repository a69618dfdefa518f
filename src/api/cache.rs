//! Where the results of steps are kept for later builds.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the results of steps are kept for later builds. Without it a build's cache ends with its pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// A repository of a registry, read and written with the credentials of `registrySecrets`.
    pub registry: RegistryCache,
}

/// A cache in a registry.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RegistryCache {
    /// Registry, repository and, if any, tag of the cache (`latest` if left out); not those of an image. A cache that is not there
    /// is no failure: the steps are built.
    #[schemars(length(max = 512), extend("example" = "registry.example.com/cache/my-app"))]
    #[x_kube(validation = Rule::new("self.matches('^([^/]*[.:][^/]*|localhost)/') && self.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$')").message("cache.registry.reference: a host that has a '.' or a port, a lower-case path, and a tag if need be, such as registry.example.com/cache/my-app"))]
    pub reference: String,

    /// What the build writes to the cache: `max`, the results of all steps, or `min`, those of the image's own layers. Default:
    /// nothing, the cache is only read. A cache that cannot be written is no failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("example" = "max"))]
    pub export: Option<CacheExport>,
}

/// What a build writes to its cache (BuildKit, `--export-cache mode=`).
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CacheExport {
    /// The layers of the image.
    Min,
    /// The results of all steps, those of other stages among them.
    Max,
}

impl CacheExport {
    /// The text in `mode=`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
        }
    }
}
