//! What became of each build.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use ocibuild::api::OciBuild;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use crate::{
    builds::{self, End, Expectations, Kind, SHARED_CLAIM},
    cluster::{Cluster, object, patiently, run},
    recorder::Recorder,
};

#[derive(Default)]
pub struct Judgement {
    /// Builds that ended otherwise than they should have, or whose image is not where they say.
    pub lost: usize,
    /// Builds that were built twice without a reason.
    pub duplicated: usize,
    /// Builds that have not ended.
    pub hung: usize,
    /// What is wrong, by build.
    pub complaints: BTreeMap<String, String>,
    /// Attempts of all builds.
    pub attempts: i32,
}

pub async fn judge(
    cluster: &Cluster,
    recorder: &Recorder,
    expectations: &Expectations,
    count: usize,
    hung: Vec<String>,
) -> anyhow::Result<Judgement> {
    let mut judgement = Judgement { hung: hung.len(), ..Judgement::default() };
    for name in hung {
        judgement.complaints.insert(name, "it has not ended".to_owned());
    }
    let built: BTreeMap<String, OciBuild> =
        cluster.builds().await?.into_iter().map(|build| (build.name_any(), build)).collect();
    let twice = recorder.twice();
    let sums = sums_on_claim(cluster).await?;
    for (number, name) in builds::names(count).into_iter().enumerate() {
        let kind = Kind::of(number);
        let Some(build) = built.get(&name) else {
            judgement.lost += 1;
            judgement.complaints.insert(name, "it is gone".to_owned());
            continue;
        };
        judgement.attempts +=
            build.status.as_ref().and_then(|status| status.attempt).unwrap_or_default();
        let of_build = |pod: &&String| pod.starts_with(&format!("{name}-g"));
        let complaint = twice
            .iter()
            .find(of_build)
            .map(|pod| format!("two pods had the name {pod}"))
            .or_else(|| unexplained(build));
        if let Some(complaint) = complaint {
            judgement.duplicated += 1;
            judgement.complaints.insert(name.clone(), complaint);
        }
        let Some(end) = End::of(build) else { continue };
        let complaint = match expectations.get(&kind) {
            Some(expected) if *expected != end => {
                Some(format!("it should have ended with {expected:?}, and has with {end:?}"))
            }
            _ => elsewhere(cluster, kind, build, &sums).await,
        };
        if let Some(complaint) = complaint {
            judgement.lost += 1;
            judgement.complaints.insert(name, complaint);
        }
    }
    Ok(judgement)
}

/// An attempt whose predecessor was not lost, as far as the status says.
fn unexplained(build: &OciBuild) -> Option<String> {
    let status = build.status.as_ref()?;
    let attempts = status.first_attempt?..status.attempt?;
    let is_explained = |attempt: &i32| {
        let words = format!("attempt {attempt} was lost: ");
        status.warnings.iter().any(|warning| warning.starts_with(&words))
    };
    attempts
        .into_iter()
        .find(|attempt| !is_explained(attempt))
        .map(|attempt| format!("nothing says why attempt {attempt} was not enough"))
}

/// An image that is not where the status says, or another.
async fn elsewhere(
    cluster: &Cluster,
    kind: Kind,
    build: &OciBuild,
    sums: &BTreeMap<String, String>,
) -> Option<String> {
    let status = build.status.clone().unwrap_or_default();
    let name = build.name_any();
    match kind {
        Kind::Copied => {
            let sum = status.tar.map(|tar| tar.sha256);
            (sum.as_ref() != sums.get(&name)).then(|| {
                format!("the tar has the sum {:?}, and the status says {sum:?}", sums.get(&name))
            })
        }
        Kind::Pushed => {
            let registry = std::env::var("OCIBUILD_DEV_REGISTRY").unwrap_or_default();
            let address =
                format!("http://{registry}/v2/{}/{name}/manifests/latest", cluster.namespace);
            let accept = "Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
            let answer =
                run("curl", &["--silent", "--head", "--fail", "--header", accept, &address]).await;
            let digest = status.image.and_then(|image| image.digest).unwrap_or_default();
            (!answer.as_ref().is_ok_and(|answer| answer.contains(&digest)))
                .then(|| format!("the registry does not have {digest}: {answer:?}"))
        }
        Kind::Claimed | Kind::Failing => None,
    }
}

/// SHA-256 of each build's tar on the claim that many share.
async fn sums_on_claim(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, String>> {
    let pod = json!({
        "metadata": { "name": "sums" },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "sums", "image": "busybox:1.37",
                "command": ["sh", "-c", "cd /claim && sha256sum */image.tar"],
                "volumeMounts": [{ "name": "claim", "mountPath": "/claim" }],
            }],
            "volumes": [{ "name": "claim", "persistentVolumeClaim": { "claimName": SHARED_CLAIM } }],
        },
    });
    cluster.create::<Pod>(object(pod)).await?;
    let pods: Api<Pod> = cluster.api();
    let deadline = Instant::now() + Duration::from_mins(2);
    loop {
        let pod = patiently("get the pod that sums", async || pods.get("sums").await).await?;
        match pod.status.and_then(|status| status.phase).as_deref() {
            Some("Succeeded") => break,
            phase => anyhow::ensure!(
                Instant::now() < deadline && phase != Some("Failed"),
                "the pod that sums is {phase:?}"
            ),
        }
        sleep(Duration::from_millis(300)).await;
    }
    let log = pods
        .logs("sums", &kube::api::LogParams::default())
        .await
        .context("the sums of the tars")?;
    let lines = log.lines().filter_map(|line| line.split_once("  "));
    Ok(lines
        .filter_map(|(sum, path)| {
            Some((path.strip_suffix("/image.tar")?.to_owned(), sum.to_owned()))
        })
        .collect())
}
