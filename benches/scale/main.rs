//! What 10,000 builds cost the operator, beside the same with 1,000, so that the growth shows: on a real etcd and API server, with
//! nodes that kwok plays. In the middle of each run the operator is killed and started again. Run by `dev/bench scale`.

mod control_plane;
#[path = "../figures/mod.rs"]
#[allow(dead_code, reason = "this bench has no median")]
mod figures;
mod operator;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use ocibuild::api::{OciBuild, Phase};
use serde_json::json;

use self::{
    control_plane::ControlPlane,
    figures::machine,
    operator::{Counts, Operator, sum},
};

const SIZES: [usize; 2] = [1000, 10_000];
const NAMESPACES: usize = 10;
/// Nothing happens for this long: something is wrong.
const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Debug)]
struct Measured {
    builds: usize,
    per_second: f64,
    writes: f64,
    /// The same as the API server counts them.
    writes_served: f64,
    reconciles: f64,
    errors: f64,
    peak: f64,
    /// Without any build, and with all of them ended.
    idle: [f64; 2],
    resume: f64,
    processor: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sizes: Vec<usize> = match std::env::var("OCIBUILD_SCALE") {
        Ok(text) => {
            text.split(',').map(str::parse).collect::<Result<_, _>>().context("OCIBUILD_SCALE")?
        }
        Err(_) => SIZES.to_vec(),
    };
    println!("machine: {}, shared with the control plane and the bench itself", machine()?);
    println!(
        "builds of 3 to 9 s on nodes that kwok plays, the operator killed in the middle; writes are without events and the lease"
    );
    print_head();
    let mut last = None;
    for builds in sizes {
        let measured = measure(builds).await?;
        print(&measured);
        last = Some(measured);
    }
    let last = last.context("OCIBUILD_SCALE names no number")?;
    println!(
        "scale {}: builds/s {:.1}, writes/build {:.2}, reconciles/build {:.2}, peak MiB {:.1}, resume s {:.2}",
        last.builds, last.per_second, last.writes, last.reconciles, last.peak, last.resume
    );
    Ok(())
}

async fn measure(builds: usize) -> anyhow::Result<Measured> {
    let plane = ControlPlane::start().await?;
    let result = run(&plane, builds).await;
    if result.is_err() {
        println!("what the operator and the others said is in {}", keep(&plane)?);
    }
    result
}

/// Copies the logs to where they stay.
fn keep(plane: &ControlPlane) -> anyhow::Result<String> {
    let kept = tempfile::Builder::new().prefix("ocibuild-scale-logs.").tempdir()?.keep();
    for entry in std::fs::read_dir(plane.folder())?
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "log"))
    {
        std::fs::copy(entry.path(), kept.join(entry.file_name()))?;
    }
    Ok(kept.display().to_string())
}

async fn run(plane: &ControlPlane, builds: usize) -> anyhow::Result<Measured> {
    let namespaces: Api<Namespace> = Api::all(plane.client.clone());
    for number in 0..NAMESPACES {
        let namespace = json!({ "metadata": { "name": format!("team-{number}") } });
        namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
    }
    let operator = Operator::start(plane)?;
    operator.wait_until_it_leads().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle_before = operator.memory()?.0;
    let served_before = served(&plane.get("/metrics").await?);

    let api: Api<OciBuild> = Api::all(plane.client.clone());
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    while !matches!(next(&mut events).await?, watcher::Event::InitDone) {}
    let start = Instant::now();
    let client = plane.client.clone();
    let creation = tokio::spawn(async move {
        stream::iter(0..builds)
            .map(|number| Ok(create(client.clone(), number)))
            .try_for_each_concurrent(16, |creation| creation)
            .await
    });
    let mut ended = HashSet::new();
    let mut seen = (Counts::default(), 0.0, 0.0);
    let mut running = Some(operator);
    let mut restarted: Option<(Instant, Option<f64>)> = None;
    while ended.len() < builds {
        let watcher::Event::Apply(build) = next(&mut events).await? else { continue };
        let status = build.status.clone().unwrap_or_default();
        if let Some((since, resume @ None)) = &mut restarted
            && status.phase.is_some()
        {
            *resume = Some(since.elapsed().as_secs_f64());
        }
        match status.phase {
            Some(Phase::Succeeded) => ended.insert((build.namespace(), build.name_any())),
            Some(Phase::Failed) => {
                bail!("the build {} failed: {:?}", build.name_any(), status.failure)
            }
            _ => continue,
        };
        if ended.len() >= builds / 2 && restarted.is_none() {
            let operator = running.take().context("the operator")?;
            seen = (operator.counts()?, operator.memory()?.1, operator.processor()?);
            operator.kill()?;
            // What it wrote last may still be on its way here.
            let until = tokio::time::Instant::now() + Duration::from_millis(500);
            while let Ok(event) = tokio::time::timeout_at(until, next(&mut events)).await {
                if let watcher::Event::Apply(build) = event?
                    && build.status.as_ref().and_then(|status| status.phase)
                        == Some(Phase::Succeeded)
                {
                    ended.insert((build.namespace(), build.name_any()));
                }
            }
            restarted = Some((Instant::now(), None));
            running = Some(Operator::start(plane)?);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    creation.await??;
    let operator = running.context("the operator")?;
    let counts = seen.0.and(operator.counts()?);
    let served = served(&plane.get("/metrics").await?) - served_before;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (idle_after, peak) = operator.memory()?;
    #[allow(clippy::cast_precision_loss, reason = "thousands")]
    let each = builds as f64;
    Ok(Measured {
        builds,
        per_second: each / seconds,
        writes: counts.writes / each,
        writes_served: served / each,
        reconciles: counts.reconciles / each,
        errors: counts.errors,
        peak: peak.max(seen.1),
        idle: [idle_before, idle_after],
        resume: restarted
            .and_then(|(_, resume)| resume)
            .context("the operator has not gone on after its restart")?,
        processor: (seen.2 + operator.processor()?) * 1000.0 / each,
    })
}

async fn create(client: kube::Client, number: usize) -> anyhow::Result<()> {
    let api: Api<OciBuild> = Api::namespaced(client, &format!("team-{}", number % NAMESPACES));
    let dockerfile = "FROM busybox:1.37\nARG APP_VERSION\nWORKDIR /app\nCOPY . .\nRUN make VERSION=$APP_VERSION\nUSER 1000\nCMD [\"/app/serve\"]\n";
    let build = json!({
        "apiVersion": "ocibuild.dev/v1alpha1",
        "kind": "OciBuild",
        "metadata": { "name": format!("app-{number}"), "labels": { "app.kubernetes.io/name": format!("app-{number}") } },
        "spec": {
            "source": { "files": { "Dockerfile": dockerfile } },
            "context": ".",
            "imageName": format!("app-{number}"),
            "imageTag": "v1.0.0",
            "buildArgs": { "APP_VERSION": "v1.0.0", "COMMIT": format!("{number:040x}") },
            "push": true,
            "registry": "registry.example.com/team",
            "output": { "none": {} },
        },
    });
    api.create(&PostParams::default(), &serde_json::from_value(build)?).await?;
    Ok(())
}

async fn next<K>(
    events: &mut (impl futures::Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin),
) -> anyhow::Result<watcher::Event<K>> {
    let next = tokio::time::timeout(PATIENCE, events.try_next()).await;
    next.with_context(|| format!("no build went further for {}s", PATIENCE.as_secs()))??
        .context("the watch ended")
}

/// Writes that only the operator makes, as the API server counts them: the status of builds, their pods and claims.
fn served(metrics: &str) -> f64 {
    let of = |labels: &str| -> f64 {
        let lines = metrics.lines().filter(|line| {
            line.starts_with("apiserver_request_total{") && line.contains("code=\"20")
        });
        let lines = lines.filter(|line| labels.split(' ').all(|label| line.contains(label)));
        lines.map(|line| sum(line, "apiserver_request_total", "")).sum()
    };
    of("resource=\"ocibuilds\" subresource=\"status\" verb=\"APPLY\"")
        + of("resource=\"ocibuilds\" subresource=\"status\" verb=\"PATCH\"")
        + of("resource=\"pods\" subresource=\"\" verb=\"POST\"")
        + of("resource=\"pods\" subresource=\"\" verb=\"DELETE\"")
        + of("resource=\"persistentvolumeclaims\" subresource=\"\" verb=\"POST\"")
}

fn print_head() {
    println!(
        "{:>7} {:>9} {:>13} {:>12} {:>17} {:>7} {:>9} {:>10} {:>15} {:>9} {:>13}",
        "builds",
        "builds/s",
        "writes/build",
        "as served",
        "reconciles/build",
        "errors",
        "peak MiB",
        "idle MiB",
        "idle after MiB",
        "resume s",
        "CPU ms/build"
    );
}

fn print(run: &Measured) {
    println!(
        "{:>7} {:>9.1} {:>13.2} {:>12.2} {:>17.2} {:>7} {:>9.1} {:>10.1} {:>15.1} {:>9.2} {:>13.2}",
        run.builds,
        run.per_second,
        run.writes,
        run.writes_served,
        run.reconciles,
        run.errors,
        run.peak,
        run.idle[0],
        run.idle[1],
        run.resume,
        run.processor
    );
}
