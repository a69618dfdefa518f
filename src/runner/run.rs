//! One build from its instructions to its result, wherever it runs: source → context and Dockerfile → buildctl → tar.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use super::{
    buildctl::{Buildctl, SharedTracker},
    confidential, daemon,
    deadlines::RunPhase,
    given,
    locate::locate,
    output::{Staging, storage_reason, write_result},
    pushed,
    registry_auth::{whose_credentials, write_docker_config},
    result::{AdditionalImage, BuildFailure, BuildResult, BuiltImage, Milliseconds, Outcome},
    retry_after, source,
    stop::{Stop, StopReason},
    target::{BuiltTarget, TargetRun},
    transfer::Transfer,
};
use crate::{api::FailureReason, plan::instructions::Instructions};

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
    transfer: Option<Transfer>,
    stop: Stop,
    timings: Milliseconds,
}

impl<'a> Run<'a> {
    /// A run that has not begun.
    pub fn new(
        instructions: &'a Instructions,
        surroundings: &'a Surroundings,
        tracker: SharedTracker,
        stop: Stop,
    ) -> Self {
        Self {
            instructions,
            surroundings,
            tracker,
            transfer: None,
            stop,
            timings: Milliseconds::default(),
        }
    }

    /// The same with a client that sends the source or fetches the files.
    #[must_use]
    pub fn with_transfer(self, transfer: Option<Transfer>) -> Self {
        Self { transfer, ..self }
    }

    /// Builds. Whatever happens becomes a result.
    pub async fn build(mut self, started_at: i64) -> BuildResult {
        let outcome = self.attempt().await;
        self.stop.end();
        let outcome = match outcome {
            Ok(image) => Outcome::Succeeded(image),
            Err(failure) => {
                let failure =
                    retry_after::of(self.as_stopped(failure), &self.instructions.registries).await;
                let failure = whose_credentials(failure, &self.instructions.registry_secrets);
                Outcome::Failed(failure.without_secrets())
            }
        };
        let spans = self.tracker.with(|tracker| tracker.spans());
        let progress = self.tracker.with(|tracker| tracker.progress());
        let timings = Milliseconds {
            build: spans.build,
            export: spans.export,
            push: spans.push,
            ..self.timings
        };
        let warnings = self.tracker.with(|tracker| tracker.warnings().to_vec());
        let result = BuildResult {
            outcome,
            started_at: Some(started_at),
            timings,
            progress: Some(progress),
            warnings,
        };
        self.leave_beside(&result);
        result
    }

    /// Whatever buildctl said when it was stopped, it was stopped.
    fn as_stopped(&self, failure: BuildFailure) -> BuildFailure {
        let Some(reason) = self.stop.reason() else { return failure };
        let is_of_step = !matches!(reason, StopReason::Overdue(phase) if phase != RunPhase::Build);
        let step = self
            .tracker
            .with(|tracker| {
                tracker.interrupted().map(str::to_owned).or_else(|| tracker.progress().current)
            })
            .filter(|_| is_of_step);
        let place = step.as_ref().map(|step| format!(" in step {step}")).unwrap_or_default();
        let (reason, message) = match reason {
            StopReason::Cancelled => {
                (FailureReason::Cancelled, format!("the build was told to stop{place}"))
            }
            StopReason::Timeout => (
                FailureReason::Timeout,
                format!(
                    "the build took longer than its timeout of {}s{place}",
                    self.instructions.timeout_seconds
                ),
            ),
            StopReason::Overdue(phase) => {
                let waited_for = self.tracker.with(|tracker| {
                    tracker.waited_for().map(|what| format!("; it waited for {what}"))
                });
                let limit = self.stop.limit(phase).unwrap_or_default();
                let words = format!(
                    "{} took longer than {limit}s (deadlines.{})",
                    phase.words(),
                    phase.field()
                );
                (FailureReason::Timeout, words + waited_for.as_deref().unwrap_or_default())
            }
        };
        BuildFailure { step, ..BuildFailure::new(reason, message) }
    }

    async fn attempt(&mut self) -> Result<BuiltImage, BuildFailure> {
        let docker_config = match &self.surroundings.credentials {
            Some(folder) => {
                let confidential =
                    write_docker_config(&self.instructions.registry_secrets, folder)?;
                self.tracker.with(|tracker| tracker.keep_back(confidential));
                folder.clone()
            }
            None => docker_config_of_user(),
        };
        given::check_authorities(&self.instructions.registries)?;
        let staging = match &self.instructions.output {
            Some(output) => {
                let stages = &self.instructions.parameters.additional_targets;
                Some(Staging::create(
                    output,
                    &self.instructions.build,
                    &self.instructions.image,
                    stages,
                )?)
            }
            None => None,
        };
        let buildctl = Buildctl {
            address: self.surroundings.address.clone(),
            docker_config,
            scratch: self.surroundings.work.clone(),
            tracker: self.tracker.clone(),
        };
        let begin = Instant::now();
        daemon::wait(
            &self.surroundings.address,
            self.instructions.deadlines.daemon,
            &mut self.stop,
        )
        .await?;
        self.timings.daemon = Some(milliseconds(begin));

        let begin = Instant::now();
        self.stop.enter(RunPhase::Source);
        let transfer = self.transfer.as_ref();
        let root = source::prepare(
            self.instructions,
            &buildctl,
            &self.surroundings.work,
            transfer,
            &mut self.stop,
        )
        .await?;
        let located =
            locate(&root, &self.instructions.context, self.instructions.dockerfile.as_deref())?;
        // Images as arguments may be gigabytes.
        let (instructions, work) = (self.instructions.clone(), self.surroundings.work.clone());
        let (given, stage) =
            self.stop.unless_asked(move || given::read(&instructions, &root, &work)).await?;
        self.timings.source = Some(milliseconds(begin));
        let secrets = given.secrets.iter().filter_map(|(_, file)| confidential::of_file(file));
        self.tracker.with(|tracker| tracker.keep_back(secrets));

        let run = TargetRun {
            instructions: self.instructions,
            located: &located,
            given: &given,
            buildctl: &buildctl,
            staging: staging.as_ref(),
            work: &self.surroundings.work,
        };
        let mut additional = Vec::new();
        for target in &self.instructions.parameters.additional_targets {
            let built = run.build(Some(target), false, &mut self.stop).await?;
            additional.extend(built.map(|built| additional_image(target, built)));
        }
        let built = run.build(stage.as_deref(), true, &mut self.stop).await?.ok_or_else(|| {
            BuildFailure::new(FailureReason::Internal, "BuildKit's answer has no image".to_owned())
        })?;
        if let Some(reference) =
            self.instructions.references.first().filter(|_| self.instructions.push)
        {
            pushed::check(reference, &self.instructions.registries).await?;
        }
        if let Some(staging) = staging {
            // It waits for others that write to the folder.
            let published = self.stop.unless_asked(move || {
                staging.publish().map_err(|error| {
                    let message =
                        format!("the files of the image cannot be put in their place: {error}");
                    BuildFailure::new(storage_reason(&error), message)
                })
            });
            published.await?;
        }
        Ok(BuiltImage {
            digest: built.digest,
            config_digest: built.config_digest,
            size: built.size,
            media_type: built.media_type,
            platforms: built.platforms,
            pushed: self.instructions.push,
            tar: built.tar,
            additional,
        })
    }

    /// The image is there without it: a failure is a warning.
    fn leave_beside(&self, result: &BuildResult) {
        let (Outcome::Succeeded(image), Some(output)) =
            (&result.outcome, &self.instructions.output)
        else {
            return;
        };
        let folder = image
            .tar
            .as_ref()
            .and_then(|tar| output.root.join(&tar.path).parent().map(Path::to_owned));
        if let Some(Err(error)) = folder.map(|folder| write_result(&folder, result)) {
            let _ = writeln!(
                io::stdout(),
                "WARNING: result.json could not be written beside image.tar: {error}"
            );
        }
    }
}

fn additional_image(target: &str, built: BuiltTarget) -> AdditionalImage {
    AdditionalImage {
        target: target.to_owned(),
        digest: built.digest,
        config_digest: built.config_digest,
        tar: built.tar,
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn docker_config_of_user() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker");
    std::env::var_os("DOCKER_CONFIG").map_or_else(home, PathBuf::from)
}
