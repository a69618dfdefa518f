//! A build that both clients can run, and the commands that run it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};

use crate::client_process;

/// A build of the Dockerfile in a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Build {
    /// The address of the daemon.
    pub address: String,
    pub context: PathBuf,
    pub output: Option<Output>,
}

/// An export of the image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Output {
    pub kind: String,
    pub attributes: BTreeMap<String, String>,
    pub sink: Sink,
}

/// Where an export goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Sink {
    /// A file, at full speed.
    File(PathBuf),
    /// A reader that drops what it reads.
    BytesPerSecond(u32),
}

impl Output {
    /// A tar for `docker load`. Layers are not compressed, so that compression is not measured.
    pub fn docker(sink: Sink) -> Self {
        let attributes = [("name", "bench"), ("compression", "uncompressed")];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self { kind: "docker".to_owned(), attributes: attributes.into(), sink }
    }
}

/// The program that runs a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Buildctl,
    Client,
}

impl Side {
    pub const ALL: [Self; 2] = [Self::Buildctl, Self::Client];

    pub fn name(self) -> &'static str {
        match self {
            Self::Buildctl => "buildctl",
            Self::Client => "client",
        }
    }

    pub fn command(self, build: &Build) -> anyhow::Result<Command> {
        match self {
            Self::Buildctl => Ok(buildctl(build)),
            Self::Client => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args([client_process::ARGUMENT, &serde_json::to_string(build)?]);
                Ok(command)
            }
        }
    }
}

fn buildctl(build: &Build) -> Command {
    let mut command = Command::new("buildctl");
    let pair = |name: &str, path: &Path| format!("{name}={}", path.display());
    command.args(["--addr", &build.address, "build", "--progress", "plain"]);
    command.args(["--frontend", "dockerfile.v0"]);
    command.args(["--local", &pair("context", &build.context)]);
    command.args(["--local", &pair("dockerfile", &build.context)]);
    if let Some(output) = &build.output {
        let destination = match &output.sink {
            Sink::File(path) => pair("dest", path),
            // Its standard output is a pipe, which the bench drains.
            Sink::BytesPerSecond(_) => "dest=-".to_owned(),
        };
        let attributes = output.attributes.iter().map(|(key, value)| format!("{key}={value}"));
        let attributes: Vec<String> = attributes.collect();
        let output = format!("type={},{},{destination}", output.kind, attributes.join(","));
        command.args(["--output", &output]);
    }
    command
}
