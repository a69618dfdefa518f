//! From `create` to the end of a tiny build: an OciBuild beside a hand-written pod that does the same, in turn, on the same
//! node, from and to the same claim. The pod is the usual one: BuildKit as a native sidecar with a startup probe, buildctl as
//! the main container. Run by `dev/bench latency`.

mod figures;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt, watcher},
};
use ocibuild::api::{OciBuild, Phase};
use serde_json::{Value, json};

use self::figures::{machine, median};

const RUNS: usize = 10;
const PATIENCE: Duration = Duration::from_mins(2);
const DOCKERFILE: &str =
    "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"true\"]\n";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::var("OCIBUILD_KUBECONFIG")
        .context("OCIBUILD_KUBECONFIG is not set; dev/bench sets it")?;
    let config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default())
            .await?;
    let client = Client::try_from(config)?;
    let name = format!("bench-latency-{}", std::process::id());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let labels = json!({ "ocibuild.dev/test": "true" });
    namespaces
        .create(
            &PostParams::default(),
            &object(json!({ "metadata": { "name": name, "labels": labels } }))?,
        )
        .await?;
    let measured = measure(&client, &name).await;
    namespaces.delete(&name, &DeleteParams::default()).await?;
    report(&measured?)
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    Ok(serde_json::from_value(value)?)
}

/// One run of each, in seconds.
struct Pair {
    raw: f64,
    ours: f64,
    /// What happened when, in seconds since `create`.
    moments: BTreeMap<&'static str, f64>,
    /// The runner's own account.
    timings: BTreeMap<&'static str, String>,
}

async fn measure(client: &Client, namespace: &str) -> anyhow::Result<Vec<Pair>> {
    fill_claim(client, namespace).await?;
    // The first of each is not counted: images, claims and caches of the API server are warm afterwards.
    run_raw(client, namespace, 0).await?;
    run_ours(client, namespace, 0).await?;
    let mut pairs = Vec::new();
    for number in 1..=RUNS {
        let raw = run_raw(client, namespace, number).await?;
        let (ours, moments, timings) = run_ours(client, namespace, number).await?;
        println!(
            "run {number:>2}: raw pod {raw:.2} s, OciBuild {ours:.2} s, ratio {:.2}",
            ours / raw
        );
        pairs.push(Pair { raw, ours, moments, timings });
    }
    Ok(pairs)
}

/// The context lies on a claim, and both kinds of build write to it.
async fn fill_claim(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = json!({
        "metadata": { "name": "bench" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    });
    claims.create(&PostParams::default(), &object(claim)?).await?;
    let script = format!(
        "mkdir -p /claim/context && cp /bin/busybox /claim/context/ && printf '%s' '{DOCKERFILE}' > /claim/context/Dockerfile && chmod -R 777 /claim"
    );
    let pod = json!({
        "metadata": { "name": "fill" },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "build", "image": "busybox:1.37", "command": ["sh", "-c", script],
                "volumeMounts": [{ "name": "claim", "mountPath": "/claim" }],
            }],
            "volumes": [{ "name": "claim", "persistentVolumeClaim": { "claimName": "bench" } }],
        },
    });
    run_pod(client, namespace, object(pod)?).await?;
    Ok(())
}

async fn run_raw(client: &Client, namespace: &str, number: usize) -> anyhow::Result<f64> {
    let image = "docker.io/moby/buildkit:v0.34.2-rootless";
    let socket = "unix:///run/buildkit/buildkitd.sock";
    let security = json!({ "runAsUser": 1000, "runAsGroup": 1000 });
    let pod = json!({
        "metadata": { "name": format!("raw-{number}") },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 10,
            "automountServiceAccountToken": false,
            "initContainers": [{
                "name": "buildkitd", "image": image, "restartPolicy": "Always", "securityContext": security,
                "args": ["--addr", socket, "--oci-worker-no-process-sandbox"],
                "startupProbe": { "exec": { "command": ["buildctl", "--addr", socket, "debug", "workers"] }, "periodSeconds": 1 },
                "volumeMounts": [
                    { "name": "socket", "mountPath": "/run/buildkit" },
                    { "name": "state", "mountPath": "/home/user/.local/share/buildkit" },
                ],
            }],
            "containers": [{
                "name": "build", "image": image, "securityContext": security,
                "command": [
                    "buildctl", "--addr", socket, "build", "--frontend", "dockerfile.v0", "--local", "context=/claim/context",
                    "--local", "dockerfile=/claim/context", "--output", "type=docker,name=bench:raw,dest=/claim/raw.tar",
                ],
                "volumeMounts": [{ "name": "socket", "mountPath": "/run/buildkit" }, { "name": "claim", "mountPath": "/claim" }],
            }],
            "volumes": [
                { "name": "socket", "emptyDir": {} },
                { "name": "state", "emptyDir": {} },
                { "name": "claim", "persistentVolumeClaim": { "claimName": "bench" } },
            ],
        },
    });
    run_pod(client, namespace, object(pod)?).await
}

/// Seconds from `create` until a watcher sees the container `build` end; then the pod is deleted and gone.
async fn run_pod(client: &Client, namespace: &str, pod: Pod) -> anyhow::Result<f64> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let name = pod.name_any();
    let mut events =
        watcher(pods.clone(), watcher::Config::default().fields(&format!("metadata.name={name}")))
            .boxed();
    wait_for_init(&mut events).await?;
    let start = Instant::now();
    pods.create(&PostParams::default(), &pod).await?;
    let mut objects = events.touched_objects().boxed();
    let seconds = loop {
        let pod = next(&mut objects, &name).await?;
        if let Some(exit_code) = build_container_end(&pod) {
            ensure!(exit_code == 0, "the pod {name} failed with exit code {exit_code}");
            break start.elapsed().as_secs_f64();
        }
    };
    pods.delete(&name, &DeleteParams::default()).await?;
    while pods.get_opt(&name).await?.is_some() {
        next(&mut objects, &name).await?;
    }
    Ok(seconds)
}

fn build_container_end(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref()?.container_statuses.as_deref()?;
    let build = statuses.iter().find(|container| container.name == "build")?;
    Some(build.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn build_container_runs(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default();
    statuses.iter().any(|container| {
        container.name == "build"
            && container.state.as_ref().is_some_and(|state| state.running.is_some())
    })
}

async fn run_ours(
    client: &Client,
    namespace: &str,
    number: usize,
) -> anyhow::Result<(f64, BTreeMap<&'static str, f64>, BTreeMap<&'static str, String>)> {
    let builds: Api<OciBuild> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let name = format!("ours-{number}");
    let build: OciBuild = object(json!({
        "apiVersion": "ocibuild.dev/v1alpha1",
        "kind": "OciBuild",
        "metadata": { "name": name },
        "spec": {
            "source": { "persistentVolumeClaim": { "claimName": "bench" } },
            "context": "context",
            "imageName": "bench",
            "imageTag": "ours",
            "isolation": "rootless",
            "output": { "persistentVolumeClaim": { "claimName": "bench", "path": "ours" } },
        },
    }))?;
    let mut build_events = watcher(
        builds.clone(),
        watcher::Config::default().fields(&format!("metadata.name={name}")),
    )
    .boxed();
    let mut pod_events = watcher(
        pods.clone(),
        watcher::Config::default().labels(&format!("ocibuild.dev/build={name}")),
    )
    .boxed();
    wait_for_init(&mut build_events).await?;
    wait_for_init(&mut pod_events).await?;
    let (mut build_events, mut pod_events) =
        (build_events.touched_objects().boxed(), pod_events.touched_objects().boxed());
    let start = Instant::now();
    builds.create(&PostParams::default(), &build).await?;
    let mut moments = BTreeMap::new();
    let status = loop {
        tokio::select! {
            build = next(&mut build_events, &name) => {
                let status = build?.status.unwrap_or_default();
                match status.phase {
                    Some(Phase::Succeeded) => break status,
                    Some(Phase::Failed) => bail!("the build {name} failed: {:?}", status.failure),
                    _ => {}
                }
            }
            pod = next(&mut pod_events, &name) => {
                let (pod, now) = (pod?, start.elapsed().as_secs_f64());
                moments.entry("1 pod seen").or_insert(now);
                if build_container_runs(&pod) {
                    moments.entry("2 containers run").or_insert(now);
                }
                if build_container_end(&pod).is_some() {
                    moments.entry("3 build ended").or_insert(now);
                }
            }
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    moments.entry("3 build ended").or_insert(seconds);
    moments.insert("4 status says so", seconds);
    let told = status.timings.unwrap_or_default();
    let timings = [
        ("pod start", told.pod_start),
        ("socket", told.daemon),
        ("source", told.source),
        ("solve", told.build),
        ("export", told.export),
    ];
    builds.delete(&name, &DeleteParams::default()).await?;
    while !pods
        .list_metadata(
            &kube::api::ListParams::default().labels(&format!("ocibuild.dev/build={name}")),
        )
        .await?
        .items
        .is_empty()
    {
        next(&mut pod_events, &name).await?;
    }
    Ok((
        seconds,
        moments,
        timings.into_iter().filter_map(|(name, text)| text.map(|text| (name, text))).collect(),
    ))
}

async fn wait_for_init<K>(
    events: &mut (impl futures::Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin),
) -> anyhow::Result<()> {
    while let Some(event) = events.try_next().await? {
        if matches!(event, watcher::Event::InitDone) {
            return Ok(());
        }
    }
    bail!("the watch ended")
}

async fn next<K>(
    objects: &mut (impl futures::Stream<Item = watcher::Result<K>> + Unpin),
    name: &str,
) -> anyhow::Result<K> {
    let next = tokio::time::timeout(PATIENCE, objects.try_next()).await;
    next.with_context(|| format!("nothing happened to {name} for {}s", PATIENCE.as_secs()))??
        .context("the watch ended")
}

fn report(pairs: &[Pair]) -> anyhow::Result<()> {
    println!("machine: {}", machine()?);
    let of = |value: fn(&Pair) -> f64| median(pairs.iter().map(value).collect());
    println!(
        "medians of {}: raw pod {:.2} s, OciBuild {:.2} s",
        pairs.len(),
        of(|pair| pair.raw),
        of(|pair| pair.ours)
    );
    println!("where the time goes, medians in seconds since create:");
    for moment in ["1 pod seen", "2 containers run", "3 build ended", "4 status says so"] {
        println!(
            "  {moment:<18} {:.2}",
            median(pairs.iter().filter_map(|pair| pair.moments.get(moment).copied()).collect())
        );
    }
    if let Some(last) = pairs.last() {
        let told: Vec<String> =
            last.timings.iter().map(|(name, text)| format!("{name} {text}")).collect();
        println!("the runner's own account of the last run: {}", told.join(", "));
    }
    println!(
        "latency ratio: {:.2}",
        median(pairs.iter().map(|pair| pair.ours / pair.raw).collect())
    );
    Ok(())
}
