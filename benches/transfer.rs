//! How fast and how small the Concourse adapter's transfers are: a source tree of 20,000 files up and an image of 300 MiB down, by
//! the adapter's own client code, beside `kubectl cp` in the same run. Run by `dev/bench transfer`.

mod figures;

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{conditions::is_pod_running, wait::await_condition},
};
use ocibuild::{
    api::OciBuildSpec,
    client::{
        archive::Selection, connect, packing::Packing, submission::Submission, transfer::Transfer,
    },
    runner::result::{BuildResult, Outcome},
};
use serde_json::{Value, json};

use self::figures::{machine, median};

const RUNS: usize = 5;
const FILES: usize = 20_000;
const IMAGE: u64 = 300 << 20;
const PATIENCE: Duration = Duration::from_mins(3);
/// The size of the source and of the image that the adapter's memory is measured with: the second is four times the first.
const SIZES: [u64; 2] = [IMAGE / 4, IMAGE];

// With as many threads as `ocibuild task` has.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let path = std::env::var("OCIBUILD_KUBECONFIG")
        .context("OCIBUILD_KUBECONFIG is not set; dev/bench sets it")?;
    let config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default())
            .await?;
    let client = connect::client(config)?;
    let name = format!("bench-transfer-{}", std::process::id());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let labels = json!({ "ocibuild.dev/test": "true" });
    namespaces
        .create(
            &PostParams::default(),
            &object(json!({ "metadata": { "name": name, "labels": labels } }))?,
        )
        .await?;
    let bench = Bench { client, namespace: name.clone(), folder: tempfile::tempdir()? };
    let measured = Box::pin(bench.measure()).await;
    namespaces.delete(&name, &DeleteParams::default()).await?;
    measured
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    Ok(serde_json::from_value(value)?)
}

struct Bench {
    client: Client,
    namespace: String,
    folder: tempfile::TempDir,
}

/// Seconds of the two ways, in turn.
#[derive(Default)]
struct Runs {
    ours: Vec<f64>,
    kubectl: Vec<f64>,
}

impl Runs {
    fn ratio(&self) -> f64 {
        median(self.kubectl.iter().zip(&self.ours).map(|(kubectl, ours)| kubectl / ours).collect())
    }

    fn report(&self, what: &str, bytes: u64) {
        let rate = |seconds: &[f64]| mebibytes(bytes) / median(seconds.to_vec());
        let (ours, kubectl) = (rate(&self.ours), rate(&self.kubectl));
        println!(
            "{what}: adapter {ours:.0} MiB/s, kubectl cp {kubectl:.0} MiB/s, medians of {}",
            self.ours.len()
        );
    }
}

impl Bench {
    async fn measure(&self) -> anyhow::Result<()> {
        println!("machine: {}", machine()?);
        let tree = self.folder.path().join("tree");
        let bytes = source_tree(&tree)?;
        let image = self.folder.path().join("image");
        fs::create_dir(&image)?;
        fs::write(image.join("Dockerfile"), "FROM scratch\nCOPY noise /\n")?;
        noise(&image.join("noise"), IMAGE)?;
        self.start_peer().await?;

        // Nothing is deleted in between: ext4 passes over each inode that was given free within the last minutes, and making twenty
        // thousand files after as many were deleted takes ten times as long. And no run pays for what the one before has left to
        // be written to the disk.
        let mut up = Runs::default();
        for number in 0..RUNS {
            rustix::fs::sync();
            let kubectl = timed(|| {
                self.kubectl(&["cp", path(&tree)?, &format!("peer:/data/tree-{number}")])
            })?;
            let ours = self.up(&tree, number).await?;
            println!("up, run {}: kubectl cp {kubectl:.2} s, adapter {ours:.2} s", number + 1);
            up.kubectl.push(kubectl);
            up.ours.push(ours);
        }
        let down = Box::pin(self.down(&image)).await?;
        let mut peaks = Vec::new();
        for size in SIZES {
            peaks.push(self.peak(size)?);
        }
        up.report("a source tree up", bytes);
        down.report("an image down", IMAGE);
        for (size, peak) in SIZES.iter().zip(&peaks) {
            println!(
                "memory of the adapter with {} MiB up and down: at most {peak:.1} MiB",
                size >> 20
            );
        }
        let peak = peaks.into_iter().fold(0.0, f64::max);
        println!(
            "transfer up ratio: {:.2}, down ratio: {:.2}, peak MiB: {peak:.1}",
            up.ratio(),
            down.ratio()
        );
        Ok(())
    }

    /// A pod for kubectl cp, with a file of an image's size.
    async fn start_peer(&self) -> anyhow::Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let command = format!("head -c {IMAGE} /dev/urandom > /data/image.tar && sleep 3600");
        let pod = json!({
            "metadata": { "name": "peer" },
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "peer", "image": "busybox:1.37", "command": ["sh", "-c", command],
                    "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                }],
                "volumes": [{ "name": "data", "emptyDir": {} }],
            },
        });
        pods.create(&PostParams::default(), &object(pod)?).await?;
        tokio::time::timeout(PATIENCE, await_condition(pods, "peer", is_pod_running())).await??;
        self.kubectl(&[
            "exec",
            "peer",
            "--",
            "sh",
            "-c",
            &format!("until [ $(stat -c %s /data/image.tar) = {IMAGE} ]; do sleep 0.2; done"),
        ])
    }

    fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let program = std::env::var("OCIBUILD_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let status = Command::new(program)
            .env("KUBECONFIG", std::env::var("OCIBUILD_KUBECONFIG")?)
            .args(["--namespace", &self.namespace])
            .args(arguments)
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "kubectl {arguments:?} failed");
        Ok(())
    }

    /// A build of an image that takes nothing of its source, up to the moment where its runner listens.
    async fn begin(&self, name: &str) -> anyhow::Result<(Submission, Transfer)> {
        let submission = Submission::new(&self.client, &self.namespace, name);
        let spec: OciBuildSpec = object(json!({
            "source": { "upload": {} }, "context": ".", "imageName": "bench", "output": { "download": { "timeout": "10m" } },
        }))?;
        submission.create(spec, std::collections::BTreeMap::new()).await?;
        let mut transfer =
            Transfer::new(submission.pods().clone(), format!("{name}-g1-a1"), submission.token());
        tokio::time::timeout(PATIENCE, transfer.reach()).await??;
        Ok((submission, transfer))
    }

    /// Packs and sends a folder; the seconds until the source is unpacked in the pod, as kubectl cp leaves it: the runner answers
    /// the end of an upload then. The build goes with the namespace.
    async fn up(&self, tree: &Path, number: usize) -> anyhow::Result<f64> {
        let (_, mut transfer) = self.begin(&format!("up-{number}")).await?;
        rustix::fs::sync();
        let begin = Instant::now();
        self.send(&mut transfer, tree).await?;
        let seconds = begin.elapsed().as_secs_f64();
        let BuildResult { outcome: Outcome::Succeeded(_), .. } = transfer.result().await? else {
            anyhow::bail!("what was sent could not be built")
        };
        Ok(seconds)
    }

    async fn send(&self, transfer: &mut Transfer, tree: &Path) -> anyhow::Result<()> {
        let selection = Selection { context: ".".to_owned(), ..Selection::default() };
        Ok(transfer.upload(&Packing::begin(tree, &selection)?).await?)
    }

    /// One image, fetched several times.
    async fn down(&self, image: &Path) -> anyhow::Result<Runs> {
        let (submission, mut transfer) = self.begin("down").await?;
        self.send(&mut transfer, image).await?;
        let BuildResult { outcome: Outcome::Succeeded(built), .. } = transfer.result().await?
        else {
            anyhow::bail!("the image was not built")
        };
        let tar = built.tar.context("the image has no tar")?;
        let (ours_to, peers_to) =
            (self.folder.path().join("ours.tar"), self.folder.path().join("kubectl.tar"));
        let mut runs = Runs::default();
        for number in 1..=RUNS {
            rustix::fs::sync();
            let kubectl = timed(|| {
                self.kubectl(&["cp", "peer:/data/image.tar", path(&peers_to)?, "--retries=0"])
            })?;
            rustix::fs::sync();
            let begin = Instant::now();
            transfer.download(&tar.path, &ours_to, tar.size.unsigned_abs(), &tar.sha256).await?;
            let ours = begin.elapsed().as_secs_f64();
            println!("down, run {number}: kubectl cp {kubectl:.2} s, adapter {ours:.2} s");
            // The image is a little larger than what kubectl copies: its tar has more in it.
            runs.kubectl.push(kubectl * mebibytes(tar.size.unsigned_abs()) / mebibytes(IMAGE));
            runs.ours.push(ours);
            fs::remove_file(&ours_to)?;
            fs::remove_file(&peers_to)?;
        }
        transfer.done().await;
        submission.delete().await?;
        Ok(runs)
    }

    /// Most memory of the whole adapter, as a process, in MiB.
    fn peak(&self, size: u64) -> anyhow::Result<f64> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("image"))?;
        fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY noise /\n")?;
        noise(&folder.path().join("noise"), size)?;
        let mut task = Command::new(env!("CARGO_BIN_EXE_ocibuild"))
            .arg("task")
            .current_dir(folder.path())
            .env_clear()
            .env("KUBECONFIG", fs::read_to_string(std::env::var("OCIBUILD_KUBECONFIG")?)?)
            .env("KUBE_NAMESPACE", &self.namespace)
            .stdout(Stdio::null())
            .spawn()?;
        let mut peak = 0.0_f64;
        loop {
            peak = peak.max(peak_of(task.id()).unwrap_or_default());
            if let Some(status) = task.try_wait()? {
                ensure!(status.success(), "the task failed");
                ensure!(
                    fs::metadata(folder.path().join("image/image.tar"))?.len() >= size,
                    "the image is not whole"
                );
                return Ok(peak);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The kernel's own account of the most memory that a process had.
fn peak_of(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?
        .trim()
        .strip_suffix(" kB")?
        .parse::<f64>()
        .ok()?;
    Some(kilobytes / 1024.0)
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is no text")
}

fn timed(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    run()?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Files that look like a program's: words that come again, sizes from 200 bytes to 16 KiB; their bytes in all.
fn source_tree(root: &Path) -> anyhow::Result<u64> {
    const WORDS: [&str; 24] = [
        "fn ", "let ", "self.", "return ", "if ", "else ", "for ", "while ", "struct ", "impl ",
        "match ", "Some(", "None", "Ok(", "value", "error", "request", "response", "context",
        "builder", " = ", ";\n", "{\n", "}\n",
    ];
    let mut random = fastrand::Rng::with_seed(1);
    let mut bytes = 0;
    for number in 0..FILES {
        let folder = root.join(format!("package-{}/module-{}", number / 500, number / 25 % 20));
        fs::create_dir_all(&folder)?;
        let size = if random.u8(..10) == 0 {
            random.usize(8_000..16_000)
        } else {
            random.usize(200..6_000)
        };
        let mut text = String::with_capacity(size + 16);
        while text.len() < size {
            match random.u8(..4) {
                0 => text.push_str(&random.u32(..).to_string()),
                _ => text.push_str(WORDS[random.usize(..WORDS.len())]),
            }
        }
        fs::write(folder.join(format!("file_{number}.rs")), &text)?;
        bytes += text.len() as u64;
    }
    fs::write(root.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n")?;
    Ok(bytes)
}

/// Bytes that no compression makes fewer.
fn noise(path: &Path, size: u64) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(2);
    let mut file = File::create(path)?;
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..size >> 20 {
        random.fill(&mut chunk);
        file.write_all(&chunk)?;
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0
}
