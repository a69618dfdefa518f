//! What a build may use and nobody may see.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::spec::{OBJECT_NAME, RELATIVE_PATH};

/// A build secret: from a key of a Secret, or from a file of the source.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secret) != has(self.file)").message("secrets: name exactly one of secret or file"))]
pub struct BuildSecret {
    /// Name by which a step asks for it: `RUN --mount=type=secret,id=…`.
    #[schemars(length(max = 128), extend("example" = "npm-token"))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_.][A-Za-z0-9._/-]*$')").message("secrets: an id has letters, digits, '.', '_', '/' and '-'"))]
    pub id: String,

    /// A key of a Secret of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretKey>,

    /// A file of the source: a path below its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("example" = "ci/npm-token"))]
    #[x_kube(validation = Rule::new("self.size() > 0").message("secrets: file must not be empty"))]
    #[x_kube(validation = Rule::new(RELATIVE_PATH).message("secrets: file is a path below the source's root: not absolute and without '..'"))]
    pub file: Option<String>,
}

/// An SSH key that steps can use by an agent.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SshKey {
    /// Name by which a step asks for the agent; several keys of one name share an agent. `default` if left out.
    #[serde(default = "default_ssh_id")]
    #[schemars(length(max = 128), extend("example" = "github"))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9._-]*$')").message("ssh: an id has letters, digits, '.', '_' and '-'"))]
    pub id: String,

    /// The Secret's key that holds the private key, without a passphrase.
    pub secret: SecretKey,
}

/// A key of a Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(max = 253), extend("example" = "npm"))]
    #[x_kube(validation = Rule::new(OBJECT_NAME).message("secret: the name of a Secret: lower-case letters, digits, '-' and '.'"))]
    pub name: String,

    /// Key in the Secret.
    #[schemars(length(max = 253), extend("example" = "token"))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')").message("secret: a key of a Secret has letters, digits, '-', '_' and '.'"))]
    pub key: String,
}

fn default_ssh_id() -> String {
    "default".to_owned()
}
