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
    /// Print the CustomResourceDefinition as YAML.
    Crd,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(CommandLine::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            // For people, and without a backtrace: it would hide the one line that they need.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Controller(arguments) => {
            write_logs();
            ocibuild::controller::run(arguments).await
        }
        Command::Run(arguments) => ocibuild::runner::run(arguments).await,
        Command::Crd => {
            print!("{}", ocibuild::api::crd_yaml());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Logs as JSON lines; `RUST_LOG` chooses what.
fn write_logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).init();
}
