//! The BuildKit daemon: waiting for the one in the pod, or starting one on this machine.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::Context;
use tokio::process::{Child, Command};

use super::{
    result::BuildFailure,
    stop::{Stop, stopped},
};
use crate::{
    api::FailureReason,
    buildkit::{Address, Connection},
};

/// Interval of connection attempts. Polling faster than a startup probe starts the build up to 1 s
/// earlier.
const CONNECT_RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// A daemon that does not listen by now will not, unless the instructions say otherwise.
const DEFAULT_CONNECT_SECONDS: u64 = 30;

/// Connects to the daemon as soon as it listens.
pub async fn connect(
    address: &str,
    seconds: Option<u64>,
    stop: &mut Stop,
) -> Result<Connection, BuildFailure> {
    let seconds = seconds.unwrap_or(DEFAULT_CONNECT_SECONDS);
    let failed = |error: String| BuildFailure::new(FailureReason::DaemonDied, error);
    let target = address.parse::<Address>().map_err(|error| failed(error.to_string()))?;
    let mut last_error = None;
    let connecting = async {
        loop {
            match Connection::open(&target, None).await {
                Ok(connection) => return connection,
                Err(error) => last_error = Some(error),
            }
            tokio::time::sleep(CONNECT_RETRY_INTERVAL).await;
        }
    };
    tokio::select! {
        connected = tokio::time::timeout(Duration::from_secs(seconds), connecting) => {
            connected.map_err(|_| {
                let error = last_error.map(|error| format!(": {error}")).unwrap_or_default();
                failed(format!(
                    "the BuildKit daemon did not listen on {address} within {seconds}s \
                     (deadlines.daemon){error}"
                ))
            })
        }
        () = stop.asked() => Err(stopped()),
    }
}

/// A daemon of this machine that ends with this value.
pub struct LocalDaemon {
    /// Its address.
    pub address: String,
    child: Option<Child>,
}

impl LocalDaemon {
    /// The daemon at `BUILDKIT_HOST`, else one that is started from PATH and keeps everything below
    /// `folder`.
    ///
    /// The configuration is for a daemon that is started; one that runs has its own.
    pub fn find_or_start(folder: &Path, config: Option<String>) -> anyhow::Result<Self> {
        if let Ok(address) = std::env::var("BUILDKIT_HOST")
            && !address.is_empty()
        {
            address.parse::<Address>().context("BUILDKIT_HOST")?;
            return Ok(Self { address, child: None });
        }
        let address = format!("unix://{}", folder.join("buildkitd.sock").display());
        let log = std::fs::File::create(folder.join("buildkitd.log"))?;
        let is_root = rustix::process::geteuid().is_root();
        let mut command = Command::new(if is_root { "buildkitd" } else { "rootlesskit" });
        if !is_root {
            command.arg("buildkitd");
        }
        if let Some(config) = config {
            let file = folder.join("buildkitd.toml");
            std::fs::write(&file, config)?;
            command.arg(format!("--config={}", file.display()));
        }
        let child = command
            .arg(format!("--addr={address}"))
            .arg(format!("--root={}", folder.join("state").display()))
            .arg("--containerd-worker=false")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("no BuildKit: set BUILDKIT_HOST to a daemon's address, or install buildkitd (and rootlesskit for users other than root) on PATH")?;
        Ok(Self { address, child: Some(child) })
    }

    /// Ends a daemon that was started here.
    pub async fn stop(mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(group) = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        }
        let _ = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
    }
}

/// Creates a folder for a local daemon: its state cannot lie on an overlay, and a socket's path is
/// short. Only its owner can enter it.
pub fn local_folder() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("ocibuild-").tempdir()
}
