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
    /// Print the CustomResourceDefinition as YAML.
    Crd,
}

fn main() -> anyhow::Result<ExitCode> {
    match CommandLine::parse().command {
        Command::Crd => print!("{}", ocibuild::api::crd_yaml()),
    }
    Ok(ExitCode::SUCCESS)
}
