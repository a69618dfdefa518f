//! The one binary; its subcommands are named for who runs them.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Drives OCI image builds as Kubernetes custom resources.
#[derive(Parser)]
#[command(name = "ocibuild", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The operator: reconciles every OciBuild into a pod and reports what became of it.
    Controller(ocibuild::controller::Arguments),
    /// Build one image: in the build's pod, or a manifest on this machine.
    Run(ocibuild::runner::Arguments),
    /// A Concourse task: builds in the cluster what its parameters say. Called as `build` too.
    Task,
    /// Print the CustomResourceDefinition as YAML.
    Crd,
}

fn main() -> ExitCode {
    let command = command();
    let ended = runtime(&command).map_err(Into::into).and_then(|runtime| {
        let ended = runtime.block_on(run(command));
        // Work that was left behind, the unpacking of an archive for example, ends with the process.
        runtime.shutdown_background();
        ended
    });
    ended.unwrap_or_else(|error| {
        // For people, and without a backtrace: it would hide the one line that they need.
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// A task moves bytes of few connections: handing each from thread to thread costs more than the rest of its work.
fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match command {
        Command::Task => tokio::runtime::Builder::new_current_thread(),
        Command::Controller(_) | Command::Run(_) | Command::Crd => {
            tokio::runtime::Builder::new_multi_thread()
        }
    };
    builder.enable_all().build()
}

/// A pipeline's `run: {path: build}` finds this binary by a link of that name.
fn command() -> Command {
    let name = std::env::args_os().next().map(std::path::PathBuf::from);
    if name.as_deref().and_then(std::path::Path::file_name).is_some_and(|name| name == "build") {
        return Command::Task;
    }
    CommandLine::parse().command
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Controller(arguments) => {
            let telemetry = ocibuild::telemetry::Telemetry::start()?;
            let ended = ocibuild::controller::run(arguments).await;
            telemetry.stop();
            ended
        }
        Command::Run(arguments) => ocibuild::runner::run(arguments).await,
        Command::Task => Box::pin(ocibuild::concourse::task::run()).await,
        Command::Crd => {
            print!("{}", ocibuild::api::crd_yaml());
            Ok(ExitCode::SUCCESS)
        }
    }
}
