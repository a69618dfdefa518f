//! `ocibuild run -f`: the very same manifest on this machine, without a cluster.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use kube::core::cel::validate_cel;

use super::{
    daemon::{LocalDaemon, local_folder},
    exit_code, now,
    progress::SharedTracker,
    report,
    run::{Run, Surroundings},
    stop::Stop,
};
use crate::{
    api::{Isolation, OciBuild, read_strictly},
    plan::{
        OperatorConfig, daemon_config,
        instructions::{
            Instructions, OutputInstructions, SecretInstructions, SecretOrigin, SourceInstructions,
        },
        operator_config::Override,
        validate,
    },
};

/// Builds a manifest here.
pub async fn run(file: &Path, source: Option<PathBuf>, output: &Path) -> anyhow::Result<ExitCode> {
    let build = read(file)?;
    let mut plan = validate(&build, &everything_allowed())?;
    plan.instructions = instructions(plan.instructions, source, output)?;
    let folder = local_folder().context("cannot create a temporary folder")?;
    let built = build_in(folder.path(), &plan.instructions, daemon_config(&plan)).await;
    // State of a daemon is not worth keeping; what cannot be removed lies in the temporary folder.
    let _ = folder.close();
    built
}

async fn build_in(
    folder: &Path,
    instructions: &Instructions,
    config: Option<String>,
) -> anyhow::Result<ExitCode> {
    let daemon = LocalDaemon::find_or_start(folder, config)?;
    let work = folder.join("work");
    fs::create_dir_all(&work)?;
    let surroundings =
        Surroundings { address: daemon.address.clone(), work, uses_own_logins: true };
    let stop = Stop::new(instructions)?;
    let result =
        Run::new(instructions, &surroundings, SharedTracker::default(), stop).build(now()).await;
    daemon.stop().await;
    print!(
        "{}",
        report::report(&result, instructions.output.as_ref().map(|output| output.root.as_path()))
    );
    Ok(exit_code(&result))
}

/// The first OciBuild of a manifest, checked by the rules that the API server would apply.
fn read(file: &Path) -> anyhow::Result<OciBuild> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text)
        .with_context(|| format!("{} is not YAML", file.display()))?;
    let Some(document) = documents.into_iter().find(|document| document["kind"] == "OciBuild")
    else {
        bail!("{} holds no OciBuild", file.display())
    };
    let read = read_strictly::<OciBuild>(document);
    let (mut build, mut unknown) =
        read.with_context(|| format!("the OciBuild of {} is not valid", file.display()))?;
    // The type itself says these two.
    unknown.retain(|field| field != "apiVersion" && field != "kind");
    ensure!(
        unknown.is_empty(),
        "the OciBuild of {} has unknown fields: {}",
        file.display(),
        unknown.join(", ")
    );
    build.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    validate_cel(&build).map_err(|errors| {
        anyhow::anyhow!("the OciBuild of {} is not valid: {errors}", file.display())
    })?;
    Ok(build)
}

/// Nobody but the user decides on this machine.
fn everything_allowed() -> OperatorConfig {
    OperatorConfig {
        allowed_isolations: vec![Isolation::Rootless, Isolation::Userns, Isolation::Privileged],
        allowed_overrides: Override::ALL.to_vec(),
        ..OperatorConfig::default()
    }
}

fn instructions(
    mut instructions: Instructions,
    source: Option<PathBuf>,
    output: &Path,
) -> anyhow::Result<Instructions> {
    let needs_folder = matches!(
        instructions.source,
        SourceInstructions::Directory { .. }
            | SourceInstructions::ConfigMap { .. }
            | SourceInstructions::Upload {}
    );
    if let Some(path) = source {
        instructions.source = SourceInstructions::Directory { root: path, path: String::new() };
    } else if needs_folder {
        bail!(
            "the source of this build is not on this machine; name a folder of this machine that stands for it: --source DIR"
        );
    }
    let is_in_cluster = |secret: &SecretInstructions| matches!(secret.from, SecretOrigin::Key(_));
    if !instructions.ssh.is_empty() || instructions.secrets.iter().any(is_in_cluster) {
        bail!(
            "the Secrets of this build are in a cluster; on this machine only files of the source can be secrets"
        );
    }
    if instructions.registries.values().any(|registry| registry.ca.is_some()) {
        bail!("the ConfigMaps of this build's registries are in a cluster");
    }
    if instructions.output.is_some() {
        fs::create_dir_all(output)
            .with_context(|| format!("cannot make the output folder {}", output.display()))?;
        instructions.output = Some(OutputInstructions {
            root: output.to_owned(),
            path: String::new(),
            download_seconds: None,
        });
    }
    Ok(instructions)
}
