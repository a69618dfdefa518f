//! `ocibuild task`: a Concourse task that builds in the cluster what the OCI build task would build here. Called as `build` too.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, bail};
use k8s_openapi::ByteString;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{
    access,
    build::{SecretContent, TaskBuild},
    params::TaskParameters,
};
use crate::{
    api::{OciBuild, OciBuildSpec, OutputFormat, Phase},
    client::{
        archive::{Archive, pack},
        logs,
        submission::{Seen, Submission},
        transfer::{Transfer, TransferError, partial_name},
    },
    runner::{
        image_tar::ImageTar,
        oci_layout,
        output::{DIGEST, LAYOUT, METADATA, ROOTFS, TAR, TARGETS, remove},
        result::{BuildResult, BuiltImage, Outcome, WrittenTar},
    },
};

/// Concourse kills a task 10 s after it told it to stop.
const LAST_WORDS: Duration = Duration::from_secs(6);
/// How long a tar of the source or a log may lag behind the build's end.
const DRAIN: Duration = Duration::from_secs(3);
/// Folder of the main target's files; a task declares it as an output.
const OUTPUT: &str = "image";
/// Exit code of a process that SIGTERM ended.
const TERMINATED: u8 = 143;

/// Runs the task in the folder and with the environment of this process.
pub async fn run() -> anyhow::Result<ExitCode> {
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let begun: OnceLock<Begun> = OnceLock::new();
    let ended = tokio::select! {
        ended = build(&variables, &begun) => Some(ended),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    let Some(ended) = ended else { return Ok(stop(begun.get()).await) };
    let has_succeeded = ended?;
    if let Some(Begun { submission, .. }) = begun.get().filter(|_| has_succeeded) {
        // What is wanted is here. A failed build stays for a while, to be looked at.
        let _ = submission.delete().await;
    }
    Ok(if has_succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a task has begun and takes back when it is told to stop.
struct Begun {
    submission: Submission,
    outputs: Outputs,
}

async fn stop(begun: Option<&Begun>) -> ExitCode {
    if let Some(Begun { submission, outputs }) = begun {
        outputs.clear();
        let words = match tokio::time::timeout(LAST_WORDS, submission.delete()).await {
            Ok(Ok(())) => "it was deleted".to_owned(),
            Ok(Err(error)) => format!("it could not be deleted, and ends by itself when its lease is over: {error}"),
            Err(_) => "the API server did not answer in time; the build ends by itself when its lease is over".to_owned(),
        };
        say(&format!("told to stop: the build {} goes with the task; {words}", submission.name()));
    }
    ExitCode::from(TERMINATED)
}

/// Builds; whether everything is in its place.
async fn build(variables: &BTreeMap<String, String>, slot: &OnceLock<Begun>) -> anyhow::Result<bool> {
    let folder = std::env::current_dir().context("the task has no folder")?;
    let parameters = TaskParameters::read(variables)?.below(&folder)?;
    let name = format!("task-{:08x}", fastrand::u32(..));
    let task = TaskBuild::new(&parameters, &name, template(variables, &folder)?);
    let secret = secret_data(&task.secret, &folder)?;
    let (client, namespace) = access::connect(variables).await?;
    if folder.join("cache").is_dir() {
        say("cache: the cluster's own cache serves; the folder stays as it is");
    }
    let outputs = Outputs::find(&folder, &parameters.additional_targets);

    let source = tempfile::NamedTempFile::new().context("no room for the archive of the source")?;
    let (root, selection, to) = (folder.clone(), task.selection.clone(), source.reopen()?);
    let packing = tokio::task::spawn_blocking(move || pack(&root, &selection, to));
    let submission = Submission::create(&client, &namespace, &name, task.spec, secret)
        .await
        .map_err(in_words)
        .with_context(|| format!("the OciBuild {name} could not be made in namespace {namespace}"))?;
    let Begun { submission, outputs } = slot.get_or_init(|| Begun { submission, outputs });
    say(&format!("OciBuild {namespace}/{name}"));
    let archive = packing.await?.context("the source cannot be packed")?;
    say(&format!("source: {} files, {} bytes to send", archive.entries, archive.size));
    if archive.left_out > 0 {
        say(&format!("source: {} sockets, pipes and devices were left out", archive.left_out));
    }
    let session = Session { submission, source: source.path(), archive: &archive, outputs };
    tokio::select! {
        ended = session.run() => ended,
        () = submission.keep_lease() => bail!("the lease ended by itself"),
    }
}

/// What the API server says, without the rest of its answer.
fn in_words(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
        other => other.into(),
    }
}

fn template(variables: &BTreeMap<String, String>, folder: &Path) -> anyhow::Result<OciBuildSpec> {
    let mut spec = serde_json::json!({});
    if let Some(value) = variables.get("OCIBUILD_TEMPLATE").filter(|value| !value.is_empty()) {
        let text = if value.contains('\n') || value.contains(':') {
            value.clone()
        } else {
            fs::read_to_string(folder.join(value))
                .with_context(|| format!("OCIBUILD_TEMPLATE: {value} is neither YAML nor the path of a file"))?
        };
        spec = serde_saphyr::from_str(&text).context("OCIBUILD_TEMPLATE is not YAML")?;
        if let Some(inner) = spec.get("spec") {
            spec = inner.clone();
        }
    }
    let fields = spec.as_object_mut().context("OCIBUILD_TEMPLATE is not an OciBuild or its spec")?;
    for (field, value) in [("source", serde_json::json!({})), ("context", ".".into()), ("imageName", "image".into())] {
        fields.entry(field).or_insert(value);
    }
    serde_json::from_value(spec).context("OCIBUILD_TEMPLATE is not the spec of an OciBuild")
}

fn secret_data(content: &BTreeMap<String, SecretContent>, folder: &Path) -> anyhow::Result<BTreeMap<String, ByteString>> {
    let read = |(key, content): (&String, &SecretContent)| {
        let bytes = match content {
            SecretContent::Text(text) => text.reveal().as_bytes().to_vec(),
            SecretContent::File(path) => {
                fs::read(folder.join(path)).with_context(|| format!("{path}, which the parameters name, cannot be read"))?
            }
        };
        Ok((key.clone(), ByteString(bytes)))
    };
    content.iter().map(read).collect()
}

/// The folders that the task declares as outputs: they are there before it runs.
struct Outputs {
    main: Option<PathBuf>,
    targets: BTreeMap<String, PathBuf>,
}

impl Outputs {
    fn find(folder: &Path, targets: &[String]) -> Self {
        let declared = |name: &str| Some(folder.join(name)).filter(|path| path.is_dir());
        Self {
            main: declared(OUTPUT),
            targets: targets.iter().filter_map(|target| Some((target.clone(), declared(target)?))).collect(),
        }
    }
}

impl Outputs {
    /// Takes away what a task has written: Concourse keeps the outputs of a task that failed, and half an image is none.
    fn clear(&self) {
        for folder in self.main.iter().chain(self.targets.values()) {
            for name in [TAR, DIGEST, METADATA] {
                let _ = fs::remove_file(folder.join(name));
            }
            let _ = fs::remove_file(partial_name(&folder.join(TAR)));
            for name in [LAYOUT, ROOTFS] {
                let _ = remove(&folder.join(name));
                let _ = remove(&partial_name(&folder.join(name)));
            }
        }
    }
}

/// A build on its way.
struct Session<'a> {
    submission: &'a Submission,
    source: &'a Path,
    archive: &'a Archive,
    outputs: &'a Outputs,
}

impl Session<'_> {
    async fn run(&self) -> anyhow::Result<bool> {
        let mut seen = self.submission.watch();
        let mut served: Option<(String, Result<BuildResult, TransferError>)> = None;
        loop {
            let last = served.as_ref().map(|(pod, _)| pod.as_str());
            let build = self.next(&mut seen, last).await?;
            if let Some(phase) = final_phase(&build) {
                return self.end(&build, phase, served.map(|(_, result)| result));
            }
            let pod = running_pod(&build).unwrap_or_default();
            let result = self.attempt(&pod, &mut seen).await?;
            if result.is_err() {
                self.outputs.clear();
            }
            served = Some((pod, result));
        }
    }

    /// Serves the pod of one attempt and prints its log, until it has ended or its files are here.
    async fn attempt(&self, pod: &str, seen: &mut watch::Receiver<Seen>) -> anyhow::Result<Result<BuildResult, TransferError>> {
        let transfer = Transfer::new(self.submission.pods().clone(), pod.to_owned());
        let mut log = Box::pin(logs::follow(self.submission.pods(), pod));
        let mut serving = Box::pin(self.serve(&transfer));
        let mut has_log = true;
        let result = loop {
            tokio::select! {
                result = &mut serving => break result,
                () = &mut log, if has_log => has_log = false,
                ended = self.ended(seen, pod) => {
                    ended?;
                    // A build that failed has no files to fetch; of one that succeeded the last answer may be on its way.
                    break tokio::time::timeout(DRAIN, &mut serving).await.unwrap_or(Err(TransferError::Ended));
                }
            }
        };
        if has_log {
            let _ = tokio::time::timeout(DRAIN, log).await;
        }
        Ok(result)
    }

    /// Waits for the build's end or for another pod than the one that was served last.
    async fn next(&self, seen: &mut watch::Receiver<Seen>, last: Option<&str>) -> anyhow::Result<OciBuild> {
        self.wait(seen, |build| final_phase(build).is_some() || running_pod(build).is_some_and(|pod| Some(pod.as_str()) != last))
            .await
    }

    /// Waits for the end of the build, or of the attempt of a pod.
    async fn ended(&self, seen: &mut watch::Receiver<Seen>, pod: &str) -> anyhow::Result<()> {
        let other = |build: &OciBuild| running_pod(build).is_some_and(|running| running != pod);
        self.wait(seen, |build| final_phase(build).is_some() || other(build)).await.map(drop)
    }

    async fn wait(&self, seen: &mut watch::Receiver<Seen>, wanted: impl Fn(&OciBuild) -> bool) -> anyhow::Result<OciBuild> {
        let name = self.submission.name();
        let found = seen.wait_for(|seen| match seen {
            Seen::Nothing => false,
            Seen::Build(build) => wanted(build),
            Seen::Deleted => true,
        });
        match found.await.as_deref() {
            Ok(Seen::Build(build)) => Ok(build.as_ref().clone()),
            Ok(_) => bail!("the OciBuild {name} was deleted by somebody else: nothing was built"),
            Err(_) => bail!("the OciBuild {name} cannot be watched any more"),
        }
    }

    /// Sends the source to a pod, waits for its result, and fetches the files.
    async fn serve(&self, transfer: &Transfer) -> Result<BuildResult, TransferError> {
        transfer.upload(self.source, self.archive).await?;
        let result = transfer.result().await?;
        if let Outcome::Succeeded(image) = &result.outcome {
            if let Some(folder) = &self.outputs.main {
                fetch(transfer, Path::new(""), folder, image.tar.as_ref(), image.config_digest.as_ref(), &image.digest).await?;
            }
            for additional in &image.additional {
                if let Some(folder) = self.outputs.targets.get(&additional.target) {
                    let below = Path::new(TARGETS).join(&additional.target);
                    let config = additional.config_digest.as_ref();
                    fetch(transfer, &below, folder, additional.tar.as_ref(), config, &additional.digest).await?;
                }
            }
        }
        transfer.done().await;
        Ok(result)
    }

    fn end(&self, build: &OciBuild, phase: Phase, served: Option<Result<BuildResult, TransferError>>) -> anyhow::Result<bool> {
        let status = build.status.clone().unwrap_or_default();
        if phase == Phase::Succeeded {
            let Some(Ok(BuildResult { outcome: Outcome::Succeeded(image), .. })) = served else {
                bail!(
                    "the image was built, but its files did not come: {}",
                    served.and_then(Result::err).map_or_else(String::new, |error| error.to_string())
                )
            };
            say(&summary(&image, build));
            return Ok(true);
        }
        let failure = status.failure;
        let words = failure.as_ref().map_or_else(
            || "the build ended without a reason".to_owned(),
            |failure| {
                let step = failure.step.as_ref().map(|step| format!("\nstep    {step}")).unwrap_or_default();
                format!("failed  {}: {}{step}\nhint    {}", failure.reason, failure.message, failure.hint)
            },
        );
        say(&format!("{words}\nbuild   {} (kept for a while: kubectl describe ocibuild {0})", self.submission.name()));
        Ok(false)
    }
}

/// Brings the files of one target. The tar comes last: what has a tar is whole.
async fn fetch(
    transfer: &Transfer,
    below: &Path,
    folder: &Path,
    tar: Option<&WrittenTar>,
    config_digest: Option<&crate::plan::Digest>,
    digest: &crate::plan::Digest,
) -> Result<(), TransferError> {
    let Some(tar) = tar else { return Ok(()) };
    let remote = |name: &str| below.join(name).to_string_lossy().into_owned();
    let here = |error| TransferError::File { path: folder.to_owned(), error };
    transfer.download(&remote(TAR), &folder.join(TAR), &tar.sha256).await?;
    if tar.format == OutputFormat::Oci {
        let (file, layout) = (folder.join(TAR), folder.join(LAYOUT));
        let unpacking =
            tokio::task::spawn_blocking(move || oci_layout::unpack(&mut ImageTar::open(fs::File::open(file)?)?, &layout));
        unpacking.await.map_err(std::io::Error::other).flatten().map_err(here)?;
    }
    // Only a build that was asked for it has them.
    if let Ok(metadata) = transfer.document(&remote(METADATA)).await {
        transfer.folder(&remote(ROOTFS), &folder.join(ROOTFS)).await?;
        fs::write(folder.join(METADATA), metadata).map_err(here)?;
    }
    let of_task = config_digest.filter(|_| tar.format == OutputFormat::Docker).unwrap_or(digest);
    fs::write(folder.join(DIGEST), of_task.as_str()).map_err(here)
}

fn final_phase(build: &OciBuild) -> Option<Phase> {
    let status = build.status.as_ref()?;
    let is_current = status.observed_generation == build.metadata.generation;
    status.phase.filter(|phase| is_current && phase.is_final())
}

fn running_pod(build: &OciBuild) -> Option<String> {
    let status = build.status.as_ref()?;
    let pod = status.pod.as_ref().filter(|_| status.phase == Some(Phase::Running))?;
    Some(pod.name.clone())
}

fn summary(image: &BuiltImage, build: &OciBuild) -> String {
    let status = build.status.clone().unwrap_or_default();
    let pushed = if image.pushed { ", pushed" } else { "" };
    let reference = status.image.map(|image| image.reference).unwrap_or_default();
    let progress = status.progress.unwrap_or_default();
    format!(
        "image   {reference}{pushed}\ndigest  {}\nsteps   {} of {} cached\ntime    {}",
        image.digest,
        progress.cached,
        progress.total,
        status.duration.unwrap_or_default()
    )
}

/// A plain line: a task's terminal is wide, and nobody sees its cursor.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
