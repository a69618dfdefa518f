//! How registries and the rest of the world are reached.
#![allow(clippy::struct_field_names)] // Fields of `Proxy` are called as the environment variables are.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::spec::OBJECT_NAME;

/// How one registry or mirror is reached.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RegistryConnection {
    /// Speak plain http, not https.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub http: bool,

    /// Accept any certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,

    /// The certificate of the authority that the registry's certificate is checked against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<ConfigMapKey>,
}

/// A key of a ConfigMap.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKey {
    /// Name of a ConfigMap of this namespace.
    #[schemars(length(max = 253), extend("example" = "my-ca"))]
    #[x_kube(validation = Rule::new(OBJECT_NAME).message("ca.name: the name of a ConfigMap: lower-case letters, digits, '-' and '.'"))]
    pub name: String,

    /// Key in the ConfigMap; its value is one or more certificates in PEM. `ca.crt` if left out.
    #[serde(default = "default_key")]
    #[schemars(length(max = 253), extend("example" = "root-ca.pem"))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')").message("ca.key: a key of a ConfigMap has letters, digits, '-', '_' and '.'"))]
    pub key: String,
}

/// Proxies, as the environment variables of the same names are read.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.httpProxy) ? self.httpProxy : '', has(self.httpsProxy) ? self.httpsProxy : ''].all(address, address == '' || address.matches('^https?://[^@/\\\\s]+/?$'))").message("proxy: an http or https address such as http://proxy.example.com:3128, without user name or password: everyone who can read the OciBuild would see them"))]
pub struct Proxy {
    /// Proxy for http: HTTP_PROXY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), extend("example" = "http://proxy.example.com:3128"))]
    pub http_proxy: Option<String>,

    /// Proxy for https: HTTPS_PROXY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), extend("example" = "http://proxy.example.com:3128"))]
    pub https_proxy: Option<String>,

    /// Hosts, domains and networks that are reached without a proxy, separated by commas: NO_PROXY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), extend("example" = ".svc,.cluster.local,10.0.0.0/8"))]
    pub no_proxy: Option<String>,
}

fn default_key() -> String {
    "ca.crt".to_owned()
}
