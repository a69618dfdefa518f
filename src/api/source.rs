//! Where the files of a build come from.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::spec::{OBJECT_NAME, RELATIVE_PATH};

/// Where the files of a build come from: exactly one of the fields.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.persistentVolumeClaim), has(self.git), has(self.http), has(self.configMap), has(self.files), has(self.image), has(self.upload)].filter(set, set).size() == 1"
).message("source: name exactly one of persistentVolumeClaim, git, http, configMap, files, image or upload"))]
pub struct Source {
    /// A PersistentVolumeClaim of the same namespace. It is mounted read-only; `context` and `dockerfile` are paths inside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<SourceClaim>,

    /// A Git repository. BuildKit fetches the one revision that is asked for, with its submodules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,

    /// A tar archive (plain, gzip or zstd) fetched by http or https and checked against its SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,

    /// A ConfigMap of the same namespace: each key becomes a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,

    /// An OCI image, whose files are the source, or an OCI artifact (as of `flux push artifact` or `oras push`), pulled with
    /// `registrySecrets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,

    /// Files that a client sends into the build's pod, as the Concourse task does. Write `upload: {}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("example" = {}))]
    pub upload: Option<UploadSource>,

    /// Files written in the manifest itself: path to content. For small builds and for trying things out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "files_schema", extend("example" = {"Dockerfile": "FROM scratch\nCOPY greeting /\n", "greeting": "hello\n"}))]
    #[x_kube(validation = Rule::new("self.size() > 0").message("source.files: name at least one file"))]
    #[x_kube(validation = Rule::new(
        "self.all(path, path != '' && !path.startsWith('/') && !path.endsWith('/') && !path.split('/').exists(part, part == '..'))"
    ).message("source.files: paths are relative to the source's root: no leading or trailing '/' and no '..'"))]
    pub files: Option<BTreeMap<String, String>>,
}

/// A claim that holds the source.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SourceClaim {
    /// Name of the PersistentVolumeClaim.
    #[schemars(length(max = 253), extend("example" = "source"))]
    #[x_kube(validation = Rule::new(OBJECT_NAME).message("source.persistentVolumeClaim.claimName: the name of a claim: lower-case letters, digits, '-' and '.'"))]
    pub claim_name: String,

    /// Folder of the volume that is the source's root. Default: the volume's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("example" = "checkouts/main"))]
    #[x_kube(validation = Rule::new(RELATIVE_PATH).message("source.persistentVolumeClaim.path: a relative path without '..'"))]
    pub path: Option<String>,
}

/// A revision of a Git repository.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// Address of the repository: `https://…` or `http://…`, without user name or password.
    #[schemars(length(max = 2048), extend("example" = "https://github.com/my-team/my-app.git"))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/]+/.+')").message("source.git.url: an http or https address such as https://github.com/my-team/my-app.git"))]
    #[x_kube(validation = Rule::new("!self.matches('^https?://[^/]*@')").message("source.git.url: no user name, password or token in the address: everyone who can read the OciBuild would see it"))]
    #[x_kube(validation = Rule::new("!self.matches('[\\\\s#]')").message("source.git.url: no white space and no '#': name the branch, tag or commit in source.git.revision"))]
    pub url: String,

    /// Branch, tag or full commit to build. Default: the repository's default branch. A commit makes the build repeatable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), extend("example" = "v1.2.0"))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._/+-]*$') && !self.contains('..')").message("source.git.revision: a branch, a tag or a commit, such as main, v1.2.0 or refs/heads/main"))]
    pub revision: Option<String>,
}

/// A tar archive on an http server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HttpSource {
    /// Address of the archive: `.tar`, `.tar.gz` or `.tar.zst`, recognised by its content.
    #[schemars(length(max = 2048), extend("example" = "https://example.com/my-app-1.2.0.tar.gz"))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/]+/.+')").message("source.http.url: an http or https address of a tar archive"))]
    #[x_kube(validation = Rule::new("!self.matches('^https?://[^/]*@')").message("source.http.url: no user name or password in the address: everyone who can read the OciBuild would see it"))]
    #[x_kube(validation = Rule::new("!self.matches('\\\\s')").message("source.http.url: no white space"))]
    pub url: String,

    /// SHA-256 of the archive, 64 hexadecimal digits. An archive with another checksum is not built.
    #[schemars(length(max = 64), extend("example" = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-f]{64}$')").message("source.http.sha256: 64 lower-case hexadecimal digits, as sha256sum prints them"))]
    pub sha256: String,
}

/// An image or artifact in a registry.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// Its reference, by tag or, to make the build repeatable, by digest.
    #[schemars(length(max = 512), extend("example" = "registry.example.com/my-team/sources:v1"))]
    #[x_kube(validation = Rule::new("self.matches('^([A-Za-z0-9.-]+(:[0-9]{1,5})?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$')").message("source.image.reference: registry, repository and tag or digest, such as registry.example.com/my-team/sources:v1"))]
    pub reference: String,
}

/// An empty object: a client sends the files.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
pub struct UploadSource {}

/// A ConfigMap whose keys are the files.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapSource {
    /// Name of the ConfigMap.
    #[schemars(length(max = 253), extend("example" = "my-app-files"))]
    #[x_kube(validation = Rule::new(OBJECT_NAME).message("source.configMap.name: the name of a ConfigMap: lower-case letters, digits, '-' and '.'"))]
    pub name: String,

    /// Which keys become which files, where a file lies in a folder. Default: each key is a file of its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub items: Vec<ConfigMapItem>,
}

/// One key of a ConfigMap and the file that it becomes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapItem {
    /// Key in the ConfigMap.
    #[schemars(length(min = 1, max = 253), extend("example" = "main.py"))]
    pub key: String,

    /// Path of the file below the source's root.
    #[schemars(length(max = 1024), extend("example" = "app/main.py"))]
    #[x_kube(validation = Rule::new(RELATIVE_PATH).message("source.configMap.items: path is relative to the source's root, without '..'"))]
    #[x_kube(validation = Rule::new("self.size() > 0").message("source.configMap.items: path must not be empty"))]
    pub path: String,
}

/// Bounds keys and values, so that the API server can bound the cost of the rules and an object stays below its limits.
fn files_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 128,
        "additionalProperties": { "type": "string", "maxLength": 131_072 },
    })
}
