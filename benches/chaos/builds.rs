//! The builds: of a few kinds, each with one right end, which is found by building it while nobody disturbs.

use std::collections::BTreeMap;

use anyhow::ensure;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use ocibuild::api::{FailureReason, OciBuild};
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use crate::cluster::{Cluster, REGISTRY, object};

pub const SHARED_CLAIM: &str = "images";

/// What a build does, and where its image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A file, onto a claim that many share.
    Copied,
    /// A step that takes a while, pushed.
    Pushed,
    /// Two steps, onto a claim of its own.
    Claimed,
    /// A step that takes a while and fails.
    Failing,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Copied, Self::Pushed, Self::Claimed, Self::Failing];

    /// The kind of a build by its number: claims of their own are slow to make, so they are few.
    pub fn of(number: usize) -> Self {
        match number % 8 {
            0 | 2 | 5 => Self::Pushed,
            1 | 4 | 7 => Self::Copied,
            3 => Self::Failing,
            _ => Self::Claimed,
        }
    }

    fn dockerfile(self) -> &'static str {
        match self {
            Self::Copied => "FROM scratch\nCOPY Dockerfile /copied\n",
            Self::Pushed => "FROM busybox:1.37\nRUN sleep 2 && echo pushed > /made\n",
            Self::Claimed => {
                "FROM busybox:1.37\nRUN sleep 1 && echo one > /one\nRUN sleep 1 && echo two > /two\n"
            }
            Self::Failing => "FROM busybox:1.37\nRUN sleep 2 && exit 7\n",
        }
    }
}

/// How builds of each kind end.
pub type Expectations = BTreeMap<Kind, End>;

/// How a build ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With this digest.
    Succeeded(String),
    /// With this reason.
    Failed(FailureReason),
}

impl End {
    /// How a build has ended, if it has.
    pub fn of(build: &OciBuild) -> Option<Self> {
        let status = build.status.as_ref()?;
        status.completion_time.as_ref()?;
        let digest = status.image.as_ref().and_then(|image| image.digest.clone());
        Some(match &status.failure {
            Some(failure) => Self::Failed(failure.reason),
            None => Self::Succeeded(digest.unwrap_or_default()),
        })
    }
}

pub fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("b{number:03}")).collect()
}

pub fn build(kind: Kind, name: &str, cluster: &Cluster) -> OciBuild {
    let mut spec = json!({
        "source": { "files": { "Dockerfile": kind.dockerfile() } },
        "context": ".",
        "imageName": name,
        "sourceDateEpoch": 1_700_000_000,
        "retries": 10,
    });
    match kind {
        Kind::Copied => {
            spec["output"] = json!({ "persistentVolumeClaim": { "claimName": SHARED_CLAIM } });
        }
        Kind::Pushed | Kind::Failing => {
            spec["push"] = json!(true);
            spec["registry"] = json!(format!("{REGISTRY}/{}", cluster.namespace));
            spec["output"] = json!({ "none": {} });
        }
        Kind::Claimed => spec["output"] = json!({ "claimTemplate": { "storage": "100Mi" } }),
    }
    object(
        json!({ "apiVersion": "ocibuild.dev/v1alpha1", "kind": "OciBuild", "metadata": { "name": name }, "spec": spec }),
    )
}

/// Builds one of each kind while nobody disturbs.
pub async fn undisturbed(cluster: &Cluster) -> anyhow::Result<Expectations> {
    let claim = json!({
        "metadata": { "name": SHARED_CLAIM },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    });
    cluster.create::<PersistentVolumeClaim>(object(claim)).await?;
    let name = |kind: Kind| format!("undisturbed-{kind:?}").to_lowercase();
    for kind in Kind::ALL {
        cluster.create(build(kind, &name(kind), cluster)).await?;
    }
    let deadline = Instant::now() + Duration::from_mins(3);
    let mut ends = BTreeMap::new();
    while ends.len() < Kind::ALL.len() {
        let builds = cluster.builds().await?;
        let end_of =
            |kind| builds.iter().find(|build| build.name_any() == name(kind)).and_then(End::of);
        ends = Kind::ALL.into_iter().filter_map(|kind| Some((kind, end_of(kind)?))).collect();
        ensure!(Instant::now() < deadline, "they have not ended after three minutes: {ends:?}");
        sleep(Duration::from_millis(300)).await;
    }
    for (kind, end) in &ends {
        let is_right = match end {
            End::Succeeded(digest) => *kind != Kind::Failing && digest.starts_with("sha256:"),
            End::Failed(reason) => *kind == Kind::Failing && *reason == FailureReason::StepFailed,
        };
        ensure!(is_right, "{kind:?} ends with {end:?}: {}", cluster.story(&name(*kind)).await);
    }
    Ok(ends)
}
