//! In the build pod: drives the BuildKit daemon by its socket and reports how the build ended.
//!
//! ```text
//! instructions ─► source ─► locate, inputs ─► target (a stage each) ─► output ─► result ─► message
//!                   │ (unpack)                 │ request ─► solver ─► BuildKit
//!                                              │ events ─► progress ─► log, progress_server, diagnose
//! ```

mod confidential;
mod daemon;
mod deadlines;
pub mod diagnose;
mod docker_config;
mod folder_tar;
mod image_args;
mod image_source;
pub mod image_tar;
mod inputs;
mod local;
mod locate;
mod message;
pub mod oci_layout;
pub mod output;
pub mod parameters;
pub mod progress;
mod progress_server;
mod pushed;
mod registry_auth;
mod report;
mod request;
pub mod result;
mod retry_after;
mod run;
mod solver;
mod source;
mod stop;
mod tar_names;
mod target;
pub mod transfer;
pub mod unpack;

#[doc(hidden)]
pub use self::target::ExportedImage;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;

use self::{
    progress::SharedTracker,
    result::{BuildFailure, BuildResult, Outcome},
    run::{Run, Surroundings},
    stop::Stop,
    transfer::Transfer,
};
use crate::{
    api::FailureReason,
    plan::{
        instructions::{Instructions, SourceInstructions},
        layout,
    },
};

/// `ocibuild run`: builds one image, in the pod or on this machine.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// In the pod: the file with the instructions, which the operator wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "file", hide = true)]
    instructions: Option<PathBuf>,

    /// On this machine: the manifest of an OciBuild to build, with the BuildKit at BUILDKIT_HOST or one from PATH.
    #[arg(short, long, value_name = "MANIFEST")]
    file: Option<PathBuf>,

    /// Folder that stands for the source; needed for sources that only a cluster has.
    #[arg(long, value_name = "DIR", requires = "file")]
    source: Option<PathBuf>,

    /// Folder that takes image.tar.
    #[arg(long, value_name = "DIR", requires = "file", default_value = ".")]
    output: PathBuf,

    /// Where the result goes in the pod.
    #[arg(long, value_name = "FILE", default_value = "/dev/termination-log", hide = true)]
    message: PathBuf,
}

/// Builds; the exit code is 0 only if the image is there.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match (arguments.file, arguments.instructions) {
        (Some(file), _) => local::run(&file, arguments.source, &arguments.output).await,
        (None, Some(instructions)) => in_pod(&instructions, &arguments.message).await,
        (None, None) => {
            anyhow::bail!("name the manifest of an OciBuild: ocibuild run -f build.yaml")
        }
    }
}

async fn in_pod(file: &Path, message: &Path) -> anyhow::Result<ExitCode> {
    let started_at = now();
    let text = fs::read_to_string(file)
        .with_context(|| format!("cannot read the instructions {}", file.display()))?;
    // A client says by itself how the build ended.
    let mut has_client = false;
    let (result, output) = match serde_json::from_str::<Instructions>(&text) {
        Ok(instructions) => {
            let surroundings = Surroundings {
                address: layout::DAEMON_ADDRESS.to_owned(),
                work: PathBuf::from(layout::WORK_DIRECTORY),
                uses_own_logins: false,
            };
            let mut stop = Stop::new(&instructions)?;
            let tracker = SharedTracker::default();
            tokio::spawn(progress_server::serve(tracker.clone()));
            let transfer = transfer(&instructions, &surroundings.work).await?;
            let run = Run::new(&instructions, &surroundings, tracker, stop.clone())
                .with_transfer(transfer.clone());
            let mut result = run.build(started_at).await;
            let patience = instructions.output.as_ref().and_then(|output| output.download_seconds);
            has_client = patience.is_some();
            if let (Some(transfer), Some(patience), Outcome::Succeeded(_)) =
                (transfer, patience, &result.outcome)
                && let Err(failure) =
                    transfer.offer(&result, Duration::from_secs(patience), &mut stop).await
            {
                result.outcome = Outcome::Failed(failure);
            }
            (result, instructions.output.map(|output| output.root))
        }
        Err(error) => {
            let words = format!(
                "the runner does not understand its instructions: {error}; are operator and runner of one version?"
            );
            (BuildResult::failed(BuildFailure::new(FailureReason::Internal, words)), None)
        }
    };
    // Before anything is printed: a log that nobody reads any more must not cost the result.
    fs::write(message, message::fit(&result))
        .with_context(|| format!("cannot write the result to {}", message.display()))?;
    if !has_client {
        let _ = write!(io::stdout(), "{}", report::report(&result, output.as_deref()));
    }
    Ok(exit_code(&result))
}

/// For builds that have a client.
async fn transfer(instructions: &Instructions, work: &Path) -> anyhow::Result<Option<Transfer>> {
    let download = instructions.output.as_ref().filter(|output| output.download_seconds.is_some());
    let source =
        (instructions.source == SourceInstructions::Upload {}).then(|| work.join(layout::SOURCE));
    if download.is_none() && source.is_none() {
        return Ok(None);
    }
    let output = download.map_or_else(|| work.join("output"), |output| output.root.clone());
    let transfer =
        Transfer::serve(source.as_deref(), &output, instructions.transfer_token.clone()).await;
    Ok(Some(
        transfer.with_context(|| {
            format!("cannot listen on port {} of the pod", layout::TRANSFER_PORT)
        })?,
    ))
}

fn exit_code(result: &BuildResult) -> ExitCode {
    if matches!(result.outcome, Outcome::Succeeded(_)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
