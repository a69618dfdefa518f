//! The development cluster: its objects by the API, its processes and pods' processes as the node has them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, Pod},
};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use ocibuild::api::{OciBuild, Phase};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};

/// An API server that is being restarted is asked again for this long.
const PATIENCE: Duration = Duration::from_mins(2);
pub const OPERATOR_NAMESPACE: &str = "ocibuild-system";
pub const REGISTRY: &str = "registry.registry.svc.cluster.local:5000";

pub struct Cluster {
    pub client: Client,
    pub namespace: String,
}

impl Cluster {
    /// A namespace of its own on the development cluster.
    pub async fn connect() -> anyhow::Result<Self> {
        let path = std::env::var("OCIBUILD_KUBECONFIG")
            .context("OCIBUILD_KUBECONFIG is not set; dev/chaos sets it")?;
        let config = Config::from_custom_kubeconfig(
            Kubeconfig::read_from(path)?,
            &KubeConfigOptions::default(),
        )
        .await?;
        let cluster = Self {
            client: Client::try_from(config)?,
            namespace: format!("chaos-{}", std::process::id()),
        };
        let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
        let namespace = json!({ "metadata": { "name": cluster.namespace, "labels": { "ocibuild.dev/test": "true" } } });
        namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
        Ok(cluster)
    }

    pub async fn delete_namespace(&self) -> anyhow::Result<()> {
        Api::<Namespace>::all(self.client.clone())
            .delete(&self.namespace, &DeleteParams::default())
            .await?;
        Ok(())
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes an object; one that is there already was made by a try whose answer was lost.
    pub async fn create<K>(&self, object: K) -> anyhow::Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let api = self.api::<K>();
        let what = format!("create {}", object.name_any());
        patiently(&what, async || match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            result => result.map(drop),
        })
        .await
    }

    pub async fn builds(&self) -> anyhow::Result<Vec<OciBuild>> {
        let api = self.api::<OciBuild>();
        Ok(patiently("list the builds", async || api.list(&ListParams::default()).await)
            .await?
            .items)
    }

    /// Names of the builds that have ended.
    pub async fn ended(&self) -> anyhow::Result<BTreeSet<String>> {
        let is_final = |build: &OciBuild| {
            build.status.as_ref().is_some_and(|status| {
                status.phase.is_some_and(Phase::is_final)
                    && status.observed_generation == build.metadata.generation
            })
        };
        Ok(self
            .builds()
            .await?
            .iter()
            .filter(|build| is_final(build))
            .map(ResourceExt::name_any)
            .collect())
    }

    /// Pods of builds whose containers run, in the order of their names.
    pub async fn running_builds(&self) -> anyhow::Result<Vec<Pod>> {
        self.running_pods(&self.namespace, "app.kubernetes.io/managed-by=ocibuild").await
    }

    pub async fn operators(&self) -> anyhow::Result<Vec<Pod>> {
        self.running_pods(OPERATOR_NAMESPACE, "app.kubernetes.io/name=ocibuild").await
    }

    async fn running_pods(&self, namespace: &str, label: &str) -> anyhow::Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut pods =
            patiently("list pods", async || api.list(&ListParams::default().labels(label)).await)
                .await?
                .items;
        pods.retain(|pod| {
            pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
        });
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    pub async fn delete_pod(&self, pod: &Pod, seconds: Option<u32>) -> anyhow::Result<()> {
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let parameters = DeleteParams { grace_period_seconds: seconds, ..DeleteParams::default() };
        patiently("delete a pod", async || match api.delete(&pod.name_any(), &parameters).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop),
        })
        .await
    }

    /// What one looks at when a build went wrong.
    pub async fn story(&self, build: &str) -> String {
        let label = format!("ocibuild.dev/build={build}");
        let asked: [&[&str]; 3] = [
            &["get", "ocib", build, "-o", "yaml"],
            &["describe", "pods", "-l", &label],
            &["get", "events", "--sort-by=.lastTimestamp"],
        ];
        let mut story = String::new();
        for arguments in asked {
            let told = run("kubectl", &[&["--namespace", &self.namespace], arguments].concat())
                .await
                .unwrap_or_else(|error| format!("{error:#}\n"));
            let is_events = arguments.contains(&"events");
            let lines = told.lines().filter(|line| {
                !is_events
                    || line.contains(&format!("/{build}-g"))
                    || line.contains(&format!("/{build} "))
            });
            story.extend(lines.flat_map(|line| [line, "\n"]));
        }
        story
    }
}

/// Asks again while the API server does not answer, or answers that it is not ready.
pub async fn patiently<T>(what: &str, ask: impl AsyncFn() -> kube::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match timeout(Duration::from_secs(15), ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(kube::Error::Api(status)))
                if (400..500).contains(&status.code)
                    && ![401, 403, 409, 429].contains(&status.code) =>
            {
                return Err(kube::Error::Api(status)).with_context(|| what.to_owned());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() > deadline {
            bail!("{what}: for {}s the API server has not done it: {error}", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(300)).await;
    }
}

/// Runs a command; its output, or its complaint.
pub async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| program.to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}\n{text}{words}",
        arguments.join(" "),
        output.status
    );
    Ok(text)
}

/// Processes of a pod with this name, as the node sees them.
pub fn processes(pod: &Pod, name: &str) -> Vec<i32> {
    let uid = pod.uid().unwrap_or_default();
    let is_it = |folder: &Path| {
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        read("comm").trim_end() == name && read("cgroup").contains(&format!("pod{uid}"))
    };
    let folders = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    folders
        .filter(|folder| is_it(folder))
        .filter_map(|folder: PathBuf| folder.file_name()?.to_str()?.parse().ok())
        .collect()
}

pub fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the manifests of this program are right")
}
