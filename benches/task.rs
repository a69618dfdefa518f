//! The whole Concourse task beside what the peer does on the worker itself: start a BuildKit daemon as root, build with
//! `cache/`, write the tar. The task keeps its cache in the cluster's registry. First and repeated builds in one run. Run by `dev/bench task`, on the node of `dev/cluster`.

mod figures;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use self::figures::{machine, median};

const RUNS: usize = 3;
const PATIENCE: Duration = Duration::from_mins(1);
/// The cluster's own, as its builds name it.
const REGISTRY: &str = "registry.registry.svc.cluster.local:5000";
/// A small program: its sources, and two seconds of work on them.
const FILES: usize = 500;
const DOCKERFILE: &str = "FROM busybox:1.37
WORKDIR /src
COPY . .
RUN begin=$(cut -d. -f1 /proc/uptime); while [ $(($(cut -d. -f1 /proc/uptime) - begin)) -lt 2 ]; do cat *.rs | sha256sum > /sum; done
CMD cat /sum
";

fn main() -> anyhow::Result<()> {
    let namespace = format!("bench-task-{}", std::process::id());
    kubectl(&["create", "namespace", &namespace])?;
    kubectl(&["label", "namespace", &namespace, "ocibuild.dev/test=true"])?;
    let measured = measure(&namespace);
    kubectl(&["delete", "namespace", &namespace, "--wait=false"])?;
    measured
}

/// Seconds of one build after the other by the two ways.
#[derive(Default)]
struct Runs {
    peer: Vec<f64>,
    ours: Vec<f64>,
}

impl Runs {
    fn add(&mut self, what: &str, peer: f64, ours: f64) {
        println!("{what}: on the node {peer:.2} s, task {ours:.2} s, ratio {:.2}", ours / peer);
        self.peer.push(peer);
        self.ours.push(ours);
    }

    fn ratio(&self) -> f64 {
        median(self.ours.iter().zip(&self.peer).map(|(ours, peer)| ours / peer).collect())
    }
}

fn measure(namespace: &str) -> anyhow::Result<()> {
    println!("machine: {}", machine()?);
    // The first is not counted: images and caches of the API server are warm afterwards.
    let (_, mut log) = task(&Folder::new(0)?, namespace)?;
    let (mut first, mut repeat) = (Runs::default(), Runs::default());
    for number in 1..=RUNS {
        let (peers, own) = (Folder::new(number)?, Folder::new(number)?);
        let peer = peer(peers.path())?;
        let ours = task(&own, namespace)?;
        first.add(&format!("first build {number}"), peer, ours.0);
        let peer = self::peer(peers.path())?;
        let ours = task(&own, namespace)?;
        ensure!(ours.1.contains("3 of 4 cached"), "the repeated build was built again: {}", ours.1);
        repeat.add(&format!("repeated build {number}"), peer, ours.0);
        log = ours.1;
    }
    println!("medians of {RUNS}:");
    for (name, runs) in [("first", &first), ("repeated", &repeat)] {
        println!(
            "  {name}: on the node {:.2} s, task {:.2} s",
            median(runs.peer.clone()),
            median(runs.ours.clone())
        );
    }
    println!("the task's own account of the last run:");
    log.lines()
        .filter(|line| line.starts_with("time") || line.starts_with("steps"))
        .for_each(|line| println!("  {line}"));
    println!("task first ratio: {:.2}, repeat ratio: {:.2}", first.ratio(), repeat.ratio());
    Ok(())
}

/// A task's folder with its input, its output and its cache.
struct Folder {
    folder: tempfile::TempDir,
    number: usize,
}

impl Folder {
    fn new(number: usize) -> anyhow::Result<Self> {
        let folder = Self { folder: tempfile::tempdir()?, number };
        for name in ["source", "image", "cache"] {
            fs::create_dir(folder.path().join(name))?;
        }
        fs::write(folder.path().join("source/Dockerfile"), DOCKERFILE)?;
        for file in 0..FILES {
            let text = format!("fn number_{file}() {{ println!(\"{number}\"); }}\n").repeat(40);
            fs::write(folder.path().join(format!("source/file_{file}.rs")), text)?;
        }
        Ok(folder)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The adapter, from its start to its end.
fn task(Folder { folder, number }: &Folder, namespace: &str) -> anyhow::Result<(f64, String)> {
    let folder = folder.path();
    let begin = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_ocibuild"))
        .arg("task")
        .current_dir(folder)
        .env_clear()
        .env("KUBECONFIG", fs::read_to_string(kubeconfig()?)?)
        .env("KUBE_NAMESPACE", namespace)
        .env("CONTEXT", "source")
        .env(
            "OCIBUILD_CACHE",
            format!(
                "{{registry: {{reference: {REGISTRY}/cache/{namespace}-{number}, export: max}}}}"
            ),
        )
        .output()?;
    let seconds = begin.elapsed().as_secs_f64();
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "the task failed: {log}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(folder.join("image/image.tar").is_file(), "the task left no image");
    Ok((seconds, log))
}

/// A daemon that is ended and forgotten.
struct Daemon {
    child: Child,
    root: tempfile::TempDir,
}

impl Daemon {
    fn address(&self) -> String {
        format!("unix://{}", self.root.path().join("socket").display())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Asked to end it unmounts what it mounted.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// What the peer does: a daemon of its own, the build, the tar; then its container is gone, and the daemon with it.
fn peer(folder: &Path) -> anyhow::Result<f64> {
    let root = tempfile::tempdir_in("/var/lib").context("the peer runs as root on the node")?;
    let registry = std::env::var("OCIBUILD_DEV_REGISTRY")
        .context("OCIBUILD_DEV_REGISTRY is not set; see dev/cluster env")?;
    let config = root.path().join("buildkitd.toml");
    fs::write(
        &config,
        format!(
            "[registry.\"docker.io\"]\n  mirrors = [\"{registry}\"]\n[registry.\"{registry}\"]\n  http = true\n"
        ),
    )?;
    let image = folder.join("image/image.tar");
    let cache = folder.join("cache");
    let begin = Instant::now();
    let child = Command::new("buildkitd")
        .args([
            "--containerd-worker=false",
            "--oci-worker-snapshotter",
            "overlayfs",
            "--oci-worker-net",
            "host",
        ])
        .args([
            "--root".as_ref(),
            root.path().join("state").as_os_str(),
            "--config".as_ref(),
            config.as_os_str(),
        ])
        .args(["--addr", &format!("unix://{}", root.path().join("socket").display())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("buildkitd is not on PATH")?;
    let daemon = Daemon { child, root };
    while !Command::new("buildctl")
        .args(["--addr", &daemon.address(), "debug", "workers"])
        .output()?
        .status
        .success()
    {
        ensure!(begin.elapsed() < PATIENCE, "the daemon on the node does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    let source = folder.join("source");
    let of = |name: &str, path: &PathBuf| format!("{name}={}", path.display());
    let mut build = Command::new("buildctl");
    build.args(["--addr", &daemon.address(), "build", "--frontend", "dockerfile.v0"]);
    build.args(["--local", &of("context", &source), "--local", &of("dockerfile", &source)]);
    build.args(["--output", &format!("type=docker,name=bench,{}", of("dest", &image))]);
    build.args(["--export-cache", &format!("type=local,mode=max,{}", of("dest", &cache))]);
    if cache.join("index.json").is_file() {
        build.args(["--import-cache", &format!("type=local,{}", of("src", &cache))]);
    }
    let output = build.output()?;
    ensure!(
        output.status.success(),
        "the build on the node failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(begin.elapsed().as_secs_f64())
}

fn kubeconfig() -> anyhow::Result<String> {
    std::env::var("OCIBUILD_KUBECONFIG")
        .context("OCIBUILD_KUBECONFIG is not set; dev/bench sets it")
}

fn kubectl(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("kubectl")
        .env("KUBECONFIG", kubeconfig()?)
        .args(arguments)
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "kubectl {arguments:?} failed");
    Ok(())
}
