//! Runs one build: source, context and Dockerfile, solve, tar.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{
    daemon,
    deadlines::RunPhase,
    inputs,
    locate::locate,
    output::{Staging, storage_reason, write_result},
    progress::SharedTracker,
    pushed,
    registry_auth::{self, RegistryLogins, whose_credentials},
    result::{AdditionalImage, BuildFailure, BuildResult, BuiltImage, Milliseconds, Outcome},
    retry_after,
    solver::Solver,
    source,
    stop::{Stop, StopReason},
    target::{BuiltTarget, TargetRun},
    transfer::Transfer,
};
use crate::{api::FailureReason, plan::instructions::Instructions};

/// Bytes of a failure's message.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Where the runner finds and leaves things: in the pod, or on this machine.
pub struct Surroundings {
    /// Address of the daemon.
    pub address: String,
    /// Folder for the source and temporary files.
    pub work: PathBuf,
    /// Whether registries get the credentials of the user who runs this, not those of mounted
    /// Secrets.
    pub uses_own_logins: bool,
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
                Outcome::Failed(self.redacted(failure).without_secrets())
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

    /// Redacts credentials that a registry echoes and BuildKit quotes.
    fn redacted(&self, failure: BuildFailure) -> BuildFailure {
        let message =
            self.tracker.with(|tracker| tracker.redact(&failure.message, MAX_MESSAGE_BYTES));
        BuildFailure { message, ..failure }
    }

    /// Replaces the failure of an interrupted build with the stop reason.
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
        let (docker_config, confidential) = if self.surroundings.uses_own_logins {
            registry_auth::of_user()
        } else {
            registry_auth::merge_secrets(&self.instructions.registry_secrets)?
        };
        self.tracker.with(|tracker| tracker.keep_back(confidential));
        inputs::check_authorities(&self.instructions.registries)?;
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
        let begin = Instant::now();
        let seconds = self.instructions.deadlines.daemon;
        let connection =
            daemon::connect(&self.surroundings.address, seconds, &mut self.stop).await?;
        let registries = self.instructions.registries.clone();
        let logins = Arc::new(RegistryLogins::new(docker_config, registries, self.tracker.clone()));
        for pushed in self.instructions.references.iter().filter(|_| self.instructions.push) {
            logins.use_image(&pushed.to_string()).map_err(|error| {
                BuildFailure::new(FailureReason::SecretInvalid, error.to_string())
            })?;
        }
        let solver = Solver::new(connection, logins, self.tracker.clone())?;
        self.timings.daemon = Some(milliseconds(begin));

        let begin = Instant::now();
        self.stop.enter(RunPhase::Source);
        let transfer = self.transfer.as_ref();
        let root = source::prepare(
            self.instructions,
            &solver,
            &self.surroundings.work,
            transfer,
            &mut self.stop,
        )
        .await?;
        let located =
            locate(&root, &self.instructions.context, self.instructions.dockerfile.as_deref())?;
        // Images as arguments may be gigabytes.
        let (instructions, work) = (self.instructions.clone(), self.surroundings.work.clone());
        let (inputs, stage) =
            self.stop.unless_asked(move || inputs::read(&instructions, &root, &work)).await?;
        self.timings.source = Some(milliseconds(begin));
        let secrets = inputs
            .secrets
            .values()
            .filter_map(|secret| std::str::from_utf8(secret.as_bytes()).ok().map(str::to_owned));
        self.tracker.with(|tracker| tracker.keep_back(secrets));

        let run = TargetRun {
            instructions: self.instructions,
            located: &located,
            inputs: &inputs,
            solver: &solver,
            staging: staging.as_ref(),
        };
        let mut additional = Vec::new();
        for target in &self.instructions.parameters.additional_targets {
            let built = run.build(Some(target), false, &mut self.stop).await?;
            additional.extend(built.map(|built| additional_image(target, built)));
        }
        let built = run.build(stage.as_deref(), true, &mut self.stop).await?.ok_or_else(|| {
            BuildFailure::new(
                FailureReason::Internal,
                "the exporter response has no image digest".to_owned(),
            )
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
