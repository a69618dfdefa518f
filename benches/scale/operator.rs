//! The operator as a process, with the chart's configuration and the rights of its service account, and what it costs.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::time::{Instant, sleep};

use crate::control_plane::{ControlPlane, free_port};

pub struct Operator {
    child: Child,
    port: u16,
}

/// What the operator has counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub writes: f64,
    pub reconciles: f64,
    pub errors: f64,
}

impl Counts {
    pub fn and(self, other: Self) -> Self {
        Self {
            writes: self.writes + other.writes,
            reconciles: self.reconciles + other.reconciles,
            errors: self.errors + other.errors,
        }
    }
}

impl Operator {
    /// Starts it under a name that it keeps when it is started again, as the container of a pod does.
    pub fn start(plane: &ControlPlane) -> anyhow::Result<Self> {
        let port = free_port()?;
        let binary = std::env::var("OCIBUILD_BINARY")
            .context("OCIBUILD_BINARY is not set; dev/bench sets it")?;
        let log = File::options().create(true).append(true).open(plane.path("operator.log"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", &binary])
            .args(["controller", "--config", &plane.path("operator.yaml"), "--identity", "scale"])
            .args([
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--lease-namespace",
                "ocibuild-system",
            ])
            .env("KUBECONFIG", plane.path("operator.kubeconfig"))
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{binary} cannot be started"))?;
        Ok(Self { child, port })
    }

    pub async fn wait_until_it_leads(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !self.metrics().is_ok_and(|metrics| metrics.contains("ocibuild_leader 1")) {
            ensure!(Instant::now() < deadline, "the operator does not lead after 40 s");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub fn counts(&self) -> anyhow::Result<Counts> {
        let metrics = self.metrics()?;
        Ok(Counts {
            writes: sum(&metrics, "ocibuild_api_writes_total", ""),
            reconciles: sum(&metrics, "ocibuild_reconciles_total", ""),
            errors: sum(&metrics, "ocibuild_reconcile_errors_total", ""),
        })
    }

    /// Resident memory now and at its peak, in MiB.
    pub fn memory(&self) -> anyhow::Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| -> anyhow::Result<f64> {
            let line = status
                .lines()
                .find(|line| line.starts_with(name))
                .context("the operator has ended")?;
            Ok(line.split_whitespace().nth(1).context("no number")?.parse::<f64>()? / 1024.0)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// Seconds of a processor that it has used.
    pub fn processor(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| {
            fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default()
        };
        Ok((ticks(11) + ticks(12)) / 100.0)
    }

    /// SIGKILL.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn metrics(&self) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sum of a metric's series whose labels contain this text.
pub fn sum(metrics: &str, name: &str, labels: &str) -> f64 {
    let is_it = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && line.contains(labels)
    };
    metrics
        .lines()
        .filter(is_it)
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .fold(0.0, |sum, value| sum + value)
}
