//! The BuildKit daemon that both clients use.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use crate::usage::{peak_mebibytes, process_cpu_seconds};

const START_TIMEOUT: Duration = Duration::from_mins(1);

/// A daemon with a root and a socket of its own. Dropping it ends it.
pub struct Daemon {
    child: Child,
    address: String,
}

impl Daemon {
    /// Starts a daemon whose files are in `directory`.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        let address = format!("unix://{}", directory.join("socket").display());
        let config = directory.join("buildkitd.toml");
        fs::write(&config, "")?;
        let log = directory.join("buildkitd.log");
        let child = Command::new("buildkitd")
            .args(["--containerd-worker=false", "--oci-worker-net=host", "--oci-worker-gc=false"])
            .args(["--oci-worker-snapshotter=overlayfs", "--addr", &address])
            .arg("--root")
            .arg(directory.join("state"))
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("buildkitd is not on PATH; dev/bench puts it there")?;
        let mut daemon = Self { child, address };
        daemon.wait_until_ready(&log)?;
        Ok(daemon)
    }

    fn wait_until_ready(&mut self, log: &Path) -> anyhow::Result<()> {
        let start = Instant::now();
        let workers = || {
            let mut command = Command::new("buildctl");
            command.args(["--addr", &self.address, "debug", "workers"]).output()
        };
        while !workers()?.status.success() {
            let has_ended = self.child.try_wait()?.is_some();
            ensure!(
                !has_ended && start.elapsed() < START_TIMEOUT,
                "buildkitd, which must run as root, does not answer:\n{}",
                fs::read_to_string(log)?
            );
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// CPU time so far, with that of the steps' processes that ended.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let cpu = process_cpu_seconds(self.child.id())?;
        Ok(cpu.own + cpu.children)
    }

    /// Makes the kernel forget the peak of the daemon's memory.
    pub fn reset_peak(&self) -> anyhow::Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }

    pub fn peak_mebibytes(&self) -> anyhow::Result<f64> {
        peak_mebibytes(self.child.id()).context("buildkitd has no VmHWM; it has probably ended")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM lets the daemon unmount what it mounted.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
