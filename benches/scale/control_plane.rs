//! A control plane of the bench's own: etcd, API server, controller manager, scheduler, and kwok, which plays the nodes. No kubelet,
//! no container: what is measured is the operator.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use ocibuild::{
    api::Progress,
    plan::Digest,
    runner::result::{BuildResult, BuiltImage, Milliseconds, Outcome},
};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

const TOKEN: &str = "scale";
const NODES: usize = 50;
/// How long a program of the control plane may take to start.
const PATIENCE: Duration = Duration::from_mins(2);

pub struct ControlPlane {
    folder: tempfile::TempDir,
    processes: Vec<(&'static str, Child)>,
    pub client: Client,
}

impl ControlPlane {
    /// Starts everything and installs the chart, without an operator.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("ocibuild-scale.").tempdir()?;
        let mut processes = Vec::new();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (etcd, port) = (format!("unix://{}", path("etcd.sock")), free_port()?);
        let arguments = [
            ["--data-dir", &path("etcd")],
            ["--listen-client-urls", &etcd],
            ["--listen-peer-urls", &format!("unix://{}", path("peer.sock"))],
            ["--advertise-client-urls", "http://localhost:2379"],
            ["--log-level", "error"],
            ["--quota-backend-bytes", "8589934592"],
        ];
        processes.push(spawn(
            folder.path(),
            "etcd",
            &[&["--unsafe-no-fsync"], arguments.concat().as_slice()].concat(),
        )?);
        // The folder is for this program and root alone; a token is enough.
        fs::write(path("tokens"), format!("{TOKEN},admin,admin,system:masters\n"))?;
        let key = rcgen::KeyPair::generate()?;
        fs::write(path("accounts.key"), key.serialize_pem())?;
        fs::write(path("accounts.pub"), key.public_key_pem())?;
        let api_server = [
            ["--etcd-servers", &etcd],
            ["--bind-address", "127.0.0.1"],
            ["--advertise-address", "127.0.0.1"],
            ["--secure-port", &port.to_string()],
            ["--cert-dir", &path("certificates")],
            ["--token-auth-file", &path("tokens")],
            ["--service-account-issuer", "https://kubernetes.default.svc"],
            ["--service-account-key-file", &path("accounts.pub")],
            ["--service-account-signing-key-file", &path("accounts.key")],
            ["--service-cluster-ip-range", "10.233.0.0/24"],
            ["--authorization-mode", "RBAC"],
            // Nobody would take the taint of new nodes away.
            ["--disable-admission-plugins", "TaintNodesByCondition"],
        ];
        processes.push(spawn(
            folder.path(),
            "kube-apiserver",
            &[&["--allow-privileged=true"], api_server.concat().as_slice()].concat(),
        )?);
        let kubeconfig = kubeconfig(port, None);
        fs::write(path("kubeconfig"), kubeconfig.to_string())?;
        let config = Config::from_custom_kubeconfig(
            serde_json::from_value::<Kubeconfig>(kubeconfig)?,
            &KubeConfigOptions::default(),
        )
        .await?;
        let mut plane = Self { client: Client::try_from(config)?, processes, folder };
        plane.wait_until_ready().await?;
        plane.install_chart(port)?;
        let kubeconfig = plane.path("kubeconfig");
        plane.processes.push(spawn(
            plane.folder.path(),
            "kube-controller-manager",
            &[
                "--kubeconfig",
                &kubeconfig,
                "--leader-elect=false",
                "--secure-port=0",
                "--use-service-account-credentials=false",
                "--service-account-private-key-file",
                &plane.path("accounts.key"),
                "--controllers=garbage-collector-controller,serviceaccount-controller,namespace-controller,pod-garbage-collector-controller",
            ],
        )?);
        plane.processes.push(spawn(
            plane.folder.path(),
            "kube-scheduler",
            &["--kubeconfig", &kubeconfig, "--leader-elect=false", "--secure-port=0"],
        )?);
        plane.start_nodes(&kubeconfig)?;
        Ok(plane)
    }

    /// A file of this control plane.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = timeout(Duration::from_secs(2), self.get("/readyz")).await;
            if answer.is_ok_and(|answer| answer.is_ok()) {
                return Ok(());
            }
            for (name, process) in &mut self.processes {
                if let Some(status) = process.try_wait()? {
                    bail!("{name} has ended: {status}\n{}", log_end(self.folder.path(), name));
                }
            }
            ensure!(
                Instant::now() < deadline,
                "the API server is not ready\n{}",
                log_end(self.folder.path(), "kube-apiserver")
            );
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// What the API server says at a path.
    pub async fn get(&self, path: &str) -> anyhow::Result<String> {
        Ok(self.client.request_text(axum::http::Request::get(path).body(Vec::new())?).await?)
    }

    /// The chart's definition, rights and configuration; the operator itself is a process of the bench.
    fn install_chart(&self, port: u16) -> anyhow::Result<()> {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/ocibuild");
        let manifests = self.run(
            "helm",
            &[
                "template",
                "ocibuild",
                chart,
                "--namespace",
                "ocibuild-system",
                "--set",
                "replicas=0",
            ],
            "",
        )?;
        self.run("kubectl", &["create", "namespace", "ocibuild-system"], "")?;
        self.run(
            "kubectl",
            &["apply", "--server-side", "--namespace", "ocibuild-system", "-f", "-"],
            &manifests,
        )?;
        self.run(
            "kubectl",
            &["wait", "--for=condition=Established", "crd/ocibuilds.ocibuild.dev"],
            "",
        )?;
        let what = "jsonpath={.data.config\\.yaml}";
        let config = self.run(
            "kubectl",
            &["--namespace", "ocibuild-system", "get", "configmap", "ocibuild", "-o", what],
            "",
        )?;
        fs::write(self.path("operator.yaml"), config)?;
        let operator = kubeconfig(port, Some("system:serviceaccount:ocibuild-system:ocibuild"));
        fs::write(self.path("operator.kubeconfig"), operator.to_string())?;
        Ok(())
    }

    fn start_nodes(&mut self, kubeconfig: &str) -> anyhow::Result<()> {
        let result = BuildResult {
            outcome: Outcome::Succeeded(BuiltImage {
                digest: Digest::from_sha256([7; 32]),
                config_digest: Some(Digest::from_sha256([8; 32])),
                size: Some(2_123_456),
                media_type: Some("application/vnd.oci.image.manifest.v1+json".to_owned()),
                platforms: vec!["linux/amd64".to_owned()],
                pushed: true,
                tar: None,
                additional: Vec::new(),
            }),
            started_at: None,
            timings: Milliseconds {
                build: Some(1500),
                export: Some(100),
                push: Some(200),
                ..Milliseconds::default()
            },
            progress: Some(Progress {
                total: 4,
                done: 4,
                cached: 1,
                current: None,
                summary: "4/4".to_owned(),
            }),
            warnings: Vec::new(),
        };
        let message = serde_json::to_string(&result)?.replace('\'', "''");
        fs::write(self.path("kwok.yaml"), include_str!("kwok.yaml").replace("MESSAGE", &message))?;
        let arguments = [
            "--kubeconfig",
            kubeconfig,
            "--config",
            &self.path("kwok.yaml"),
            "--manage-all-nodes=true",
            "--cidr=127.0.0.1/32",
        ];
        let kwok = spawn(self.folder.path(), "kwok", &arguments)?;
        self.processes.push(kwok);
        let nodes: Vec<_> = (0..NODES)
            .map(|number| {
                let name = format!("node-{number}");
                json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "annotations": { "kwok.x-k8s.io/node": "fake" } } })
            })
            .collect();
        self.run(
            "kubectl",
            &["create", "-f", "-"],
            &json!({ "apiVersion": "v1", "kind": "List", "items": nodes }).to_string(),
        )?;
        self.run(
            "kubectl",
            &["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"],
            "",
        )?;
        Ok(())
    }

    fn run(&self, program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let file = self.folder.path().join("input");
        fs::write(&file, input)?;
        let output = Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", self.path("kubeconfig"))
            .stdin(File::open(&file)?)
            .output()
            .with_context(|| format!("{program} is not on PATH; dev/bench builds it"))?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {}: {words}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for (_, process) in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn kubeconfig(port: u16, acting_as: Option<&str>) -> serde_json::Value {
    let mut user = json!({ "token": TOKEN });
    if let Some(account) = acting_as {
        user["as"] = json!(account);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "scale", "cluster": { "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true } }],
        "users": [{ "name": "scale", "user": user }],
        "contexts": [{ "name": "scale", "context": { "cluster": "scale", "user": "scale", "namespace": "ocibuild-system" } }],
        "current-context": "scale",
    })
}

pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn spawn(
    folder: &Path,
    name: &'static str,
    arguments: &[&str],
) -> anyhow::Result<(&'static str, Child)> {
    let log = File::create(folder.join(format!("{name}.log")))?;
    // It ends with the bench, also where that is killed.
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", name])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{name} is not on PATH; dev/bench builds it"))?;
    Ok((name, child))
}

fn log_end(folder: &Path, name: &str) -> String {
    let log = fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
