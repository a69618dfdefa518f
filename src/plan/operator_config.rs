//! What the administrator sets for all builds: the operator's configuration file, written by the chart.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{LocalObjectReference, Toleration};
use serde::{Deserialize, Serialize};

use super::duration::parse_duration;
use crate::api::{Isolation, Proxy, Resources};

/// The operator's configuration file. Every field has a default, unknown fields are refused.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OperatorConfig {
    /// Namespaces whose builds are handled; empty means all.
    pub watch_namespaces: Vec<String>,
    /// Images of the build's pods.
    pub images: Images,
    /// What a build gets that does not say otherwise.
    pub defaults: Defaults,
    /// Registries and mirrors, as in buildkitd.toml, by host.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Authorities' certificates, in PEM, that build pods trust besides those of their images.
    pub ca_bundle: String,
    /// Proxies of build pods.
    pub proxy: Proxy,
    /// What a build may set otherwise than this configuration.
    pub allowed_overrides: Vec<Override>,
    /// What the pods of rootless builds ask of the node's security profiles.
    pub rootless_profiles: RootlessProfiles,
    /// Isolations that a build may ask for. `auto` picks among them.
    pub allowed_isolations: Vec<Isolation>,
    /// How long each part of a build may take.
    pub waits: Waits,
    /// How many builds run at the same time.
    pub queue: QueueLimits,
    /// Reconciles that run at the same time.
    pub concurrency: u16,
}

impl Default for OperatorConfig {
    fn default() -> Self {
        Self {
            watch_namespaces: Vec::new(),
            images: Images::default(),
            defaults: Defaults::default(),
            registries: BTreeMap::new(),
            ca_bundle: String::new(),
            proxy: Proxy::default(),
            allowed_overrides: vec![
                Override::Registries,
                Override::BuildkitConfig,
                Override::Proxy,
                Override::Resources,
            ],
            rootless_profiles: RootlessProfiles::default(),
            allowed_isolations: vec![Isolation::Rootless, Isolation::Userns],
            waits: Waits::default(),
            queue: QueueLimits::default(),
            concurrency: 16,
        }
    }
}

/// Most bytes of `caBundle`: it travels in an annotation of each pod, and all of them together may have 256 KiB.
const CA_BUNDLE_LIMIT: usize = 32 * 1024;

/// A configuration that can be read and is wrong all the same.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidConfig {
    /// Not PEM.
    #[error("caBundle holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// More than pods can carry.
    #[error(
        "caBundle has {0} bytes; at most {CA_BUNDLE_LIMIT} fit. Name your own authorities alone: those of the images are trusted anyway"
    )]
    LargeBundle(usize),
    /// A proxy address that is none, or holds a password.
    #[error(
        "proxy: {0} is an http or https address such as http://proxy.example.com:3128, without user name or password: pods show it"
    )]
    Proxy(&'static str),
}

impl OperatorConfig {
    /// Checks what the types cannot say.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        if self.ca_bundle.len() > CA_BUNDLE_LIMIT {
            return Err(InvalidConfig::LargeBundle(self.ca_bundle.len()));
        }
        if !self.ca_bundle.is_empty() && !self.ca_bundle.contains("-----BEGIN CERTIFICATE-----") {
            return Err(InvalidConfig::NoCertificate);
        }
        for (field, address) in
            [("httpProxy", &self.proxy.http_proxy), ("httpsProxy", &self.proxy.https_proxy)]
        {
            let is_address = |address: &String| {
                let host =
                    address.strip_prefix("http://").or_else(|| address.strip_prefix("https://"));
                host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
            };
            if !address.as_ref().is_none_or(is_address) {
                return Err(InvalidConfig::Proxy(field));
            }
        }
        Ok(())
    }
}

/// Images of the build's pods.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Images {
    /// The operator's own image, which also holds the runner.
    pub runner: String,
    /// BuildKit for isolation `rootless`.
    pub buildkit_rootless: String,
    /// BuildKit for isolation `userns` and `privileged`.
    pub buildkit: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
    /// Secrets, in the build's namespace, to pull these images with.
    pub pull_secrets: Vec<LocalObjectReference>,
}

/// The BuildKit release that this operator is tested with.
pub const BUILDKIT_VERSION: &str = "v0.34.2";

impl Default for Images {
    fn default() -> Self {
        Self {
            runner: format!("ghcr.io/ocibuild/ocibuild:{}", env!("CARGO_PKG_VERSION")),
            buildkit_rootless: format!("docker.io/moby/buildkit:{BUILDKIT_VERSION}-rootless"),
            buildkit: format!("docker.io/moby/buildkit:{BUILDKIT_VERSION}"),
            pull_policy: "IfNotPresent".to_owned(),
            pull_secrets: Vec::new(),
        }
    }
}

/// What a build gets that does not say otherwise.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Defaults {
    /// Isolation.
    pub isolation: Isolation,
    /// Timeout, as in the spec.
    pub timeout: ConfigDuration,
    /// Attempts after the first.
    pub retries: i32,
    /// Requests and limits of BuildKit's container.
    pub resources: Resources,
    /// Requests and limits of the runner's container.
    pub runner_resources: Resources,
    /// Size of a claim of the build's own.
    pub output_storage: String,
    /// Its storage class; none means the cluster's default.
    pub output_storage_class: Option<String>,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    pub tolerations: Vec<Toleration>,
    /// Priority class of the pods.
    pub priority_class_name: Option<String>,
}

impl Default for Defaults {
    fn default() -> Self {
        let quantities = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(name, quantity)| ((*name).to_owned(), (*quantity).to_owned()))
                .collect()
        };
        Self {
            isolation: Isolation::Auto,
            timeout: ConfigDuration(Duration::from_hours(1)),
            retries: 2,
            resources: Resources {
                requests: quantities(&[("cpu", "250m"), ("memory", "512Mi")]),
                limits: BTreeMap::new(),
            },
            runner_resources: Resources {
                requests: quantities(&[("cpu", "20m"), ("memory", "64Mi")]),
                limits: quantities(&[("memory", "512Mi")]),
            },
            output_storage: "10Gi".to_owned(),
            output_storage_class: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            priority_class_name: None,
        }
    }
}

/// One registry of buildkitd.toml.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Hosts that are asked first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// Speak http, not https.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub http: bool,
    /// Accept any certificate.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// A part of this configuration that a build may set for itself.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Override {
    /// `registryMirrors` and `registries`.
    Registries,
    /// `buildkitConfig`.
    BuildkitConfig,
    /// `proxy`.
    Proxy,
    /// `pod.resources`.
    Resources,
    /// `buildkitImage`.
    BuildkitImage,
}

impl Override {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Registries, Self::BuildkitConfig, Self::Proxy, Self::Resources, Self::BuildkitImage];

    /// The text in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registries => "registries",
            Self::BuildkitConfig => "buildkitConfig",
            Self::Proxy => "proxy",
            Self::Resources => "resources",
            Self::BuildkitImage => "buildkitImage",
        }
    }
}

/// What the pods of rootless builds ask of the node's security profiles.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum RootlessProfiles {
    /// Nothing: passes the Pod Security standard *baseline*; works where kubelet and runtime confine pods by no profile of
    /// their own.
    #[default]
    Unset,
    /// Unconfined seccomp and AppArmor: for nodes with `seccompDefault` or AppArmor, in namespaces that admit it.
    Unconfined,
}

/// How long each part of a build may take that does not say otherwise (`spec.deadlines`). When the time is over the build fails.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Waits {
    /// In the queue; for ever if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<ConfigDuration>,
    /// For a claim that the spec names and that does not exist yet.
    pub claim: ConfigDuration,
    /// For a node that takes the pod.
    pub schedule: ConfigDuration,
    /// For volumes and images, once a node has taken the pod.
    pub start: ConfigDuration,
    /// Until the BuildKit daemon listens.
    pub daemon: ConfigDuration,
    /// Fetching the source; as long as the timeout if there is none. So are those below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<ConfigDuration>,
    /// Base images and steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<ConfigDuration>,
    /// Layers and files of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<ConfigDuration>,
    /// The push.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<ConfigDuration>,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            queue: None,
            claim: ConfigDuration(Duration::from_mins(1)),
            schedule: ConfigDuration(Duration::from_mins(30)),
            start: ConfigDuration(Duration::from_mins(10)),
            daemon: ConfigDuration(Duration::from_secs(30)),
            source: None,
            build: None,
            export: None,
            push: None,
        }
    }
}

/// How many builds run at the same time; the others wait for their turn. Nothing named means no limit.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct QueueLimits {
    /// In all namespaces together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<usize>,
    /// In one namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running_per_namespace: Option<usize>,
}

/// A duration that a configuration file writes as `30m` or `1h30m`.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(try_from = "String", into = "String")]
pub struct ConfigDuration(pub Duration);

impl TryFrom<String> for ConfigDuration {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_duration(&text)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a duration such as 90s, 30m or 1h30m"))
    }
}

impl From<ConfigDuration> for String {
    fn from(duration: ConfigDuration) -> Self {
        format!("{}s", duration.0.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::OperatorConfig;

    #[test]
    fn an_empty_file_means_the_defaults_and_they_round_trip() {
        let empty: OperatorConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, OperatorConfig::default());
        assert_eq!(
            serde_json::from_value::<OperatorConfig>(serde_json::json!(empty)).unwrap(),
            empty
        );
    }

    #[test]
    fn what_the_types_cannot_say_is_checked() {
        let check = |json: &str| {
            serde_json::from_str::<OperatorConfig>(json)
                .unwrap()
                .check()
                .map_err(|error| error.to_string())
        };
        for good in [
            "{}",
            r#"{"caBundle":"-----BEGIN CERTIFICATE-----"}"#,
            r#"{"proxy":{"httpProxy":"http://proxy:3128"}}"#,
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let large = format!(r#"{{"caBundle":"{}"}}"#, "x".repeat(40_000));
        for (bad, words) in [
            (r#"{"caBundle":"/etc/ca.pem"}"#, "caBundle holds no certificate"),
            (large.as_str(), "caBundle has 40000 bytes"),
            (r#"{"proxy":{"httpsProxy":"http://me:secret@proxy"}}"#, "proxy: httpsProxy"),
            (r#"{"proxy":{"httpProxy":"proxy:3128"}}"#, "proxy: httpProxy"),
        ] {
            let error = check(bad).unwrap_err();
            assert!(error.starts_with(words) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_misspelt_field_is_refused_by_name() {
        let error = serde_json::from_str::<OperatorConfig>(r#"{"waits":{"clam":"5s"}}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("unknown field `clam`"), "{error}");
    }
}
