//! The BuildKit daemon: waiting for the one in the pod, or starting one on this machine.

use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    net::UnixStream,
    process::{Child, Command},
};

use super::{
    result::BuildFailure,
    stop::{Stop, stopped},
};
use crate::api::FailureReason;

/// A startup probe asks once a second at best; asking this often is what makes a build start a second earlier.
const POLL: Duration = Duration::from_millis(20);
/// A daemon that does not listen by now will not, unless the instructions say otherwise.
const PATIENCE: u64 = 30;

/// Waits until the daemon at a unix socket listens. Other addresses are left to buildctl.
pub async fn wait(
    address: &str,
    seconds: Option<u64>,
    stop: &mut Stop,
) -> Result<(), BuildFailure> {
    let patience = seconds.unwrap_or(PATIENCE);
    let Some(socket) = address.strip_prefix("unix://") else { return Ok(()) };
    let listens = async {
        while UnixStream::connect(socket).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::select! {
        waited = tokio::time::timeout(Duration::from_secs(patience), listens) => waited.map_err(|_| {
            let message = format!("the BuildKit daemon did not listen on {address} within {patience}s (deadlines.daemon)");
            BuildFailure::new(FailureReason::DaemonDied, message)
        }),
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
    /// The daemon at `BUILDKIT_HOST`, else one that is started from PATH and keeps everything below `folder`.
    ///
    /// The configuration is for a daemon that is started; one that runs has its own.
    pub fn find_or_start(folder: &Path, config: Option<String>) -> anyhow::Result<Self> {
        if let Ok(address) = std::env::var("BUILDKIT_HOST")
            && !address.is_empty()
        {
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

/// A folder for a local daemon: its state cannot lie on an overlay, and a socket's path is short.
pub fn local_folder() -> std::io::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("ocibuild-{}", std::process::id()));
    // Nobody else's, and not one that somebody else has made beforehand.
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}
