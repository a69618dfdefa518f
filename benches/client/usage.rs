//! Measures a process from its start to its end, and what it costs the daemon.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use crate::{
    build::{Build, Side, Sink},
    daemon::Daemon,
    rate::RateLimit,
};

/// How often the peak of a client is read; the kernel forgets it when the process ends.
const PEAK_INTERVAL: Duration = Duration::from_millis(5);
/// The unit of CPU time in `/proc` on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What one build took.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub wall_seconds: f64,
    pub cpu_seconds: f64,
    pub peak_mebibytes: f64,
    pub daemon_cpu_seconds: f64,
    pub daemon_peak_mebibytes: f64,
}

/// A measured build, and what its client printed.
pub struct Run {
    pub usage: Usage,
    pub stdout: String,
    pub stderr: String,
    /// Bytes of the export that the bench drained from a pipe.
    pub bytes_drained: u64,
}

/// Runs a build. Files for its output go into `directory`.
pub fn run(side: Side, build: &Build, daemon: &Daemon, directory: &Path) -> anyhow::Result<Run> {
    let logs = ["stdout", "stderr"].map(|name| directory.join(name));
    let mut command = side.command(build)?;
    let rate = match build.output.as_ref().map(|output| &output.sink) {
        Some(Sink::BytesPerSecond(rate)) if side == Side::Buildctl => Some(*rate),
        _ => None,
    };
    command.stdin(Stdio::null()).stderr(File::create(&logs[1])?);
    command.stdout(if rate.is_some() { Stdio::piped() } else { File::create(&logs[0])?.into() });
    // Earlier runs must not be written to the disk during this one.
    rustix::fs::sync();
    daemon.reset_peak()?;
    let daemon_cpu = daemon.cpu_seconds()?;
    let clients_cpu = process_cpu_seconds(std::process::id())?.children;
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {}", side.name()))?;
    let peak = watch_peak(child.id());
    let bytes_drained = drain(&mut child, rate)?;
    let status = child.wait()?;
    let wall_seconds = start.elapsed().as_secs_f64();
    let usage = Usage {
        wall_seconds,
        cpu_seconds: process_cpu_seconds(std::process::id())?.children - clients_cpu,
        peak_mebibytes: peak.join().unwrap_or_default(),
        daemon_cpu_seconds: daemon.cpu_seconds()? - daemon_cpu,
        daemon_peak_mebibytes: daemon.peak_mebibytes()?,
    };
    let stderr = fs::read_to_string(&logs[1])?;
    ensure!(status.success(), "{} failed: {stderr}", side.name());
    let stdout = if rate.is_some() { String::new() } else { fs::read_to_string(&logs[0])? };
    Ok(Run { usage, stdout, stderr, bytes_drained })
}

/// Reads a slow export from the child's standard output; returns its size.
fn drain(child: &mut Child, rate: Option<u32>) -> anyhow::Result<u64> {
    let (Some(rate), Some(stdout)) = (rate, child.stdout.take()) else { return Ok(0) };
    let mut stream = RateLimit::new(stdout, rate);
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(size),
            length => size += length as u64,
        }
    }
}

/// Reads the peak of a process until it ends.
fn watch_peak(process: u32) -> thread::JoinHandle<f64> {
    thread::spawn(move || {
        let mut peak = 0.0_f64;
        while let Some(now) = peak_mebibytes(process) {
            peak = peak.max(now);
            thread::sleep(PEAK_INTERVAL);
        }
        peak
    })
}

/// The greatest resident memory that a process had; `None` once it has ended.
pub fn peak_mebibytes(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

/// CPU time of a process in user and system mode.
pub struct CpuSeconds {
    pub own: f64,
    /// The sum of all children that it waited for. The kernel adds these up exactly and rounds the
    /// sum, so the mean of many short children is more precise than any one of them.
    pub children: f64,
}

pub fn process_cpu_seconds(process: u32) -> io::Result<CpuSeconds> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name of the program, in parentheses, may contain spaces.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let mut ticks = fields.skip(11).map(|field| field.parse::<f64>().unwrap_or_default());
    let mut next = || ticks.next().unwrap_or_default() / TICKS_PER_SECOND;
    Ok(CpuSeconds { own: next() + next(), children: next() + next() })
}
