//! The processes of build steps, as the machine sees them.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A `sleep` that no other test starts.
pub struct Sleeper(String);

impl Sleeper {
    pub fn new() -> Self {
        Self(fastrand::u32(1_000_000_000..2_000_000_000).to_string())
    }

    /// Returns the shell command that prints `asleep now` and sleeps.
    pub fn command(&self) -> String {
        format!("echo asleep now; sleep {}", self.0)
    }

    /// The same, but the `sleep` replaces the shell as the step's first process.
    pub fn command_without_shell(&self) -> String {
        format!("echo asleep now; exec sleep {}", self.0)
    }

    /// Returns the process of the step.
    pub fn process(&self) -> Option<Pid> {
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, fs::read(entry.path().join("cmdline")).ok()?))
        });
        let expected = format!("sleep\0{}\0", self.0).into_bytes();
        processes
            .filter(|(_, command)| *command == expected)
            .find_map(|(pid, _)| Pid::from_raw(pid))
    }

    /// Waits until the process is there, or until it is gone. Returns how long that took.
    pub fn wait(&self, is_running: bool) -> Duration {
        let start = Instant::now();
        while self.process().is_some() != is_running {
            assert!(start.elapsed() < Duration::from_secs(30), "running must become {is_running}");
            std::thread::sleep(POLL_INTERVAL);
        }
        start.elapsed()
    }
}

impl Drop for Sleeper {
    /// A step outlives a daemon that is killed.
    fn drop(&mut self) {
        if let Some(process) = self.process() {
            let _ = kill_process(process, Signal::KILL);
        }
    }
}
