//! One build from its instructions to its result, wherever it runs: source → context and Dockerfile → buildctl → tar.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use serde::Deserialize;

use super::{
    buildctl::{Buildctl, SharedTracker, build_arguments},
    daemon,
    diagnose::{Activity, Evidence, diagnose},
    locate::locate,
    output::{Contents, TarWriter, storage_reason, write_beside},
    registry_auth::write_docker_config,
    result::{BuildFailure, BuildResult, BuiltImage, Milliseconds, Outcome, WrittenTar},
    source,
    stop::{Reason, Stop},
};
use crate::{
    api::FailureReason,
    plan::{Digest, instructions::Instructions},
};

/// Where the runner finds and leaves things: in the pod, or on this machine.
pub struct Surroundings {
    /// Address of the daemon.
    pub address: String,
    /// Folder for the source and temporary files.
    pub work: PathBuf,
    /// Folder for the merged credentials; none to use those of the user who runs this.
    pub credentials: Option<PathBuf>,
}

/// What a build and the runner around it share.
pub struct Run<'a> {
    instructions: &'a Instructions,
    surroundings: &'a Surroundings,
    tracker: SharedTracker,
    stop: Stop,
    timings: Milliseconds,
}

/// The answer of `--metadata-file`.
#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "containerimage.digest")]
    digest: Digest,
    #[serde(rename = "containerimage.config.digest")]
    config_digest: Option<Digest>,
    #[serde(rename = "containerimage.descriptor")]
    descriptor: Option<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl<'a> Run<'a> {
    /// A run that has not begun.
    pub fn new(instructions: &'a Instructions, surroundings: &'a Surroundings, tracker: SharedTracker, stop: Stop) -> Self {
        Self { instructions, surroundings, tracker, stop, timings: Milliseconds::default() }
    }

    /// Builds. Whatever happens becomes a result.
    pub async fn build(mut self, started_at: i64) -> BuildResult {
        let outcome = match self.attempt().await {
            Ok(image) => Outcome::Succeeded(image),
            Err(failure) => Outcome::Failed(self.as_stopped(failure)),
        };
        let spans = self.tracker.with(|tracker| tracker.spans());
        let progress = self.tracker.with(|tracker| tracker.progress());
        let timings = Milliseconds { build: spans.build, export: spans.export, push: spans.push, ..self.timings };
        let warnings = self.tracker.with(|tracker| tracker.warnings().to_vec());
        let result = BuildResult { outcome, started_at: Some(started_at), timings, progress: Some(progress), warnings };
        self.leave_beside(&result);
        result
    }

    /// Whatever buildctl said when it was stopped, it was stopped.
    fn as_stopped(&self, failure: BuildFailure) -> BuildFailure {
        let Some(reason) = self.stop.reason() else { return failure };
        let step = self.tracker.with(|tracker| tracker.interrupted().map(str::to_owned).or_else(|| tracker.progress().current));
        let place = step.as_ref().map(|step| format!(" in step {step}")).unwrap_or_default();
        let (reason, message) = match reason {
            Reason::Cancelled => (FailureReason::Cancelled, format!("the build was told to stop{place}")),
            Reason::Timeout => (
                FailureReason::Timeout,
                format!("the build took longer than its timeout of {}s{place}", self.instructions.timeout_seconds),
            ),
        };
        BuildFailure { step, ..BuildFailure::new(reason, message) }
    }

    async fn attempt(&mut self) -> Result<BuiltImage, BuildFailure> {
        let docker_config = match &self.surroundings.credentials {
            Some(folder) => {
                write_docker_config(&self.instructions.registry_secrets, folder)?;
                folder.clone()
            }
            None => docker_config_of_user(),
        };
        let writer = match &self.instructions.output {
            Some(output) => Some(TarWriter::create(output, &self.instructions.build)?),
            None => None,
        };
        let buildctl = Buildctl {
            address: self.surroundings.address.clone(),
            docker_config,
            scratch: self.surroundings.work.clone(),
            tracker: self.tracker.clone(),
        };
        let begin = Instant::now();
        daemon::wait(&self.surroundings.address, &mut self.stop).await?;
        self.timings.daemon = Some(milliseconds(begin));

        let begin = Instant::now();
        let root = source::prepare(self.instructions, &buildctl, &self.surroundings.work, &mut self.stop).await?;
        let located = locate(&root, &self.instructions.context, self.instructions.dockerfile.as_deref())?;
        self.timings.source = Some(milliseconds(begin));
        if self.stop.reason().is_some() {
            return Err(BuildFailure::new(FailureReason::Cancelled, "the build was told to stop"));
        }

        let metadata_file = self.surroundings.work.join("metadata.json");
        let arguments = build_arguments(self.instructions, &located, &metadata_file);
        let ended = buildctl.run(&arguments, None, writer, &mut self.stop).await;
        let (status, writer) = ended
            .map_err(|error| BuildFailure::new(storage_reason(&error), format!("the image could not be written: {error}")))?;
        if !status.success() {
            return Err(self.failed_to_build());
        }
        let metadata = read_metadata(&metadata_file)?;
        let written = match writer {
            Some(writer) => {
                Some(tokio::task::spawn_blocking(|| writer.finish()).await.map_err(io::Error::other).flatten().map_err(
                    |error| BuildFailure::new(storage_reason(&error), format!("image.tar cannot be finished: {error}")),
                )?)
            }
            None => None,
        };
        Ok(built(metadata, self.instructions.push, written))
    }

    fn failed_to_build(&self) -> BuildFailure {
        self.tracker.with(|tracker| {
            let remarks: Vec<&str> = tracker.remarks().collect();
            diagnose(&Evidence { step: tracker.failed(), remarks: &remarks, activity: Activity::Build })
        })
    }

    /// The task's digest file and the result beside the tar. The image is there without them: a failure is a warning.
    fn leave_beside(&self, result: &BuildResult) {
        let (Outcome::Succeeded(image), Some(output)) = (&result.outcome, &self.instructions.output) else { return };
        let Some(tar) = &image.tar else { return };
        let folder = output.root.join(&tar.path);
        let digest = image.config_digest.as_ref().unwrap_or(&image.digest);
        if let Some(Err(error)) = folder.parent().map(|folder| write_beside(folder, digest, result)) {
            let _ = writeln!(io::stdout(), "WARNING: digest and result.json could not be written beside image.tar: {error}");
        }
    }
}

fn built(metadata: Metadata, pushed: bool, written: Option<(WrittenTar, Contents)>) -> BuiltImage {
    let descriptor = metadata.descriptor;
    let platform = descriptor.as_ref().and_then(|descriptor| descriptor.platform.as_ref()).map(|platform| {
        let variant = platform.variant.as_ref().filter(|variant| !variant.is_empty()).map(|variant| format!("/{variant}"));
        format!("{}/{}{}", platform.os, platform.architecture, variant.unwrap_or_default())
    });
    let (tar, contents) = written.map_or((None, Contents::default()), |(tar, contents)| (Some(tar), contents));
    BuiltImage {
        digest: metadata.digest,
        config_digest: metadata.config_digest,
        size: contents.size,
        media_type: descriptor.and_then(|descriptor| descriptor.media_type),
        platforms: platform.into_iter().collect(),
        pushed,
        tar,
    }
}

fn read_metadata(path: &Path) -> Result<Metadata, BuildFailure> {
    let read = || -> io::Result<Metadata> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    read().map_err(|error| {
        BuildFailure::new(FailureReason::Internal, format!("BuildKit's answer about the image cannot be read: {error}"))
    })
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn docker_config_of_user() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker");
    std::env::var_os("DOCKER_CONFIG").map_or_else(home, PathBuf::from)
}
