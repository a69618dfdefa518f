//! How long each part of a build may take.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// CEL: a duration from one second to a week.
const DURATION: &str = "self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && self != '' && duration(self) >= duration('1s') && duration(self) <= duration('168h')";

/// How long each part of a build may take, for example `90s` or `30m`. When the time is over the build fails, and its message names
/// the part, what it waited for, and the field. `daemon` and what follows it lie within `timeout`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Deadlines {
    /// In the queue, until the build's turn comes and a quota has room for its pod. Default: the operator's configuration, and for ever if that says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "6h"))]
    #[x_kube(validation = Rule::new(DURATION).message("deadlines.queue: hours, minutes and seconds between 1s and 168h, for example 6h"))]
    pub queue: Option<String>,

    /// For a claim that does not exist yet. Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "5m"))]
    #[x_kube(validation = Rule::new(DURATION).message("deadlines.claim: hours, minutes and seconds between 1s and 168h, for example 5m"))]
    pub claim: Option<String>,

    /// For a node that takes the pod. Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "2h"))]
    #[x_kube(validation = Rule::new(DURATION).message("deadlines.schedule: hours, minutes and seconds between 1s and 168h, for example 2h"))]
    pub schedule: Option<String>,

    /// For volumes and images of the pod, once a node has taken it. Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "15m"))]
    #[x_kube(validation = Rule::new(DURATION).message("deadlines.start: hours, minutes and seconds between 1s and 168h, for example 15m"))]
    pub start: Option<String>,

    /// Until the BuildKit daemon listens. Default: the operator's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "1m"))]
    #[x_kube(validation = Rule::new(DURATION).message("deadlines.daemon: hours, minutes and seconds between 1s and 168h, for example 1m"))]
    pub daemon: Option<String>,

    /// Fetching, unpacking and checking the source. Default: the operator's configuration, and `timeout` if that says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "10m"))]
    #[x_kube(validation = Rule::new(DURATION).message("deadlines.source: hours, minutes and seconds between 1s and 168h, for example 10m"))]
    pub source: Option<String>,

    /// Pulling the base images and running the steps of the Dockerfile, those of all targets together. Default: the operator's
    /// configuration, and `timeout` if that says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "45m"))]
    #[x_kube(validation = Rule::new(DURATION).message("deadlines.build: hours, minutes and seconds between 1s and 168h, for example 45m"))]
    pub build: Option<String>,

    /// Making the layers and writing the files of the image, without the push. Default: the operator's configuration, and `timeout`
    /// if that says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "20m"))]
    #[x_kube(validation = Rule::new(DURATION).message("deadlines.export: hours, minutes and seconds between 1s and 168h, for example 20m"))]
    pub export: Option<String>,

    /// Pushing the image. Default: the operator's configuration, and `timeout` if that says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("example" = "20m"))]
    #[x_kube(validation = Rule::new(DURATION).message("deadlines.push: hours, minutes and seconds between 1s and 168h, for example 20m"))]
    pub push: Option<String>,
}
