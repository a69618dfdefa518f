//! The cases: what is built, how often, and the check that both sides did the same work.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

use crate::{
    build::{Build, Output, Side, Sink},
    client_process::Report,
    daemon::Daemon,
    figures::Case,
    inputs,
    usage::{self, Run, Usage},
};

const TINY_RUNS: usize = 30;
const RUNS: usize = 10;
/// The rate of the sink sets the time, so that more runs would say no more.
const SLOW_RUNS: usize = 2;
const MEBIBYTE: usize = 1 << 20;
const MEGABYTE: usize = 1_000_000;

/// Runs the cases against one daemon.
pub struct Bench {
    pub daemon: Daemon,
    /// Where the contexts and the exports go.
    pub directory: PathBuf,
}

impl Bench {
    pub fn tiny_cached(&self) -> anyhow::Result<Case> {
        let context = self.directory.join("tiny");
        inputs::tiny(&context, "cached")?;
        let build = self.build(&context, Some(self.tar()));
        let case = Case::new("tiny cached", Some(1.0));
        alternate(case, TINY_RUNS, |_, side| self.export(side, &build))
    }

    pub fn tiny_changed(&self) -> anyhow::Result<Case> {
        let context = self.directory.join("tiny");
        let build = self.build(&context, Some(self.tar()));
        let case = Case::new("tiny changed", Some(1.0));
        alternate(case, TINY_RUNS, |round, side| {
            inputs::tiny(&context, &format!("{round} by {}", side.name()))?;
            self.export(side, &build)
        })
    }

    /// 1 GiB in 1,024 files.
    pub fn upload(&self) -> anyhow::Result<Case> {
        self.send(Case::new("upload", Some(1.0)), 1024, MEBIBYTE)
    }

    /// 20,000 small files.
    pub fn files(&self) -> anyhow::Result<Case> {
        self.send(Case::new("files", Some(1.1)), 20_000, 1024)
    }

    /// Sends files that all changed their modification time since the build before. Their content
    /// is the same, so the COPY is cached, and hardly more than the upload is measured.
    fn send(&self, case: Case, count: usize, bytes: usize) -> anyhow::Result<Case> {
        let context = self.directory.join(case.name);
        inputs::files(&context, count, bytes)?;
        let build = self.build(&context, None);
        let mut builds = 0;
        let case = alternate(case, RUNS, |_, side| {
            builds += 1;
            inputs::touch_files(&context, builds)?;
            let done = usage::run(side, &build, &self.daemon, &self.directory)?;
            check_sent(side, &done, count, bytes)?;
            Ok(done.usage)
        })?;
        fs::remove_dir_all(&context)?;
        Ok(case)
    }

    /// A tar of 600 MB at full speed.
    pub fn export_fast(&self) -> anyhow::Result<Case> {
        let context = self.directory.join("export");
        inputs::noise(&context, 600 * MEGABYTE)?;
        let build = self.build(&context, Some(self.tar()));
        alternate(Case::new("export", Some(1.0)), RUNS, |_, side| self.export(side, &build))
    }

    /// A tar into a sink that takes so many megabytes per second.
    pub fn export_slowly(
        &self,
        name: &'static str,
        megabytes: usize,
        rate: u32,
    ) -> anyhow::Result<Case> {
        let context = self.directory.join(format!("slow-{rate}"));
        inputs::noise(&context, megabytes * MEGABYTE)?;
        let mut case = Case::new(name, None);
        // Makes the layer, so that the first run does not.
        self.export(Side::Client, &self.build(&context, Some(self.tar())))?;
        let sink = Sink::BytesPerSecond(rate * 1_000_000);
        let build = self.build(&context, Some(Output::docker(sink)));
        for _ in 0..SLOW_RUNS {
            for side in Side::ALL {
                let done = usage::run(side, &build, &self.daemon, &self.directory)?;
                let bytes = match side {
                    Side::Buildctl => done.bytes_drained,
                    Side::Client => report(&done)?.bytes_exported,
                };
                ensure!(
                    bytes >= (megabytes * MEGABYTE) as u64,
                    "{} exported {bytes} bytes of {megabytes} MB",
                    side.name()
                );
                case.add(side, done.usage);
            }
        }
        Ok(case)
    }

    fn build(&self, context: &Path, output: Option<Output>) -> Build {
        Build { address: self.daemon.address().to_owned(), context: context.to_owned(), output }
    }

    fn tar(&self) -> Output {
        Output::docker(Sink::File(self.directory.join("image.tar")))
    }

    /// Runs a build that writes a tar. The client must have hashed the same tar as it wrote.
    fn export(&self, side: Side, build: &Build) -> anyhow::Result<Usage> {
        let done = usage::run(side, build, &self.daemon, &self.directory)?;
        let tar = self.directory.join("image.tar");
        let size = fs::metadata(&tar)?.len();
        fs::remove_file(&tar)?;
        if side == Side::Client {
            let report = report(&done)?;
            ensure!(report.bytes_exported == size && report.sha256.len() == 64, "{report:?}");
            ensure!(report.events > 0, "the client received no events");
        }
        Ok(done.usage)
    }
}

/// Runs both sides in turn and adds what they took to the case. Round 0 warms up and does not
/// count. The side that goes first changes from round to round.
fn alternate(
    mut case: Case,
    rounds: usize,
    mut run: impl FnMut(usize, Side) -> anyhow::Result<Usage>,
) -> anyhow::Result<Case> {
    for round in 0..=rounds {
        let [first, second] = Side::ALL;
        for side in if round % 2 == 0 { [first, second] } else { [second, first] } {
            let usage = run(round, side)?;
            if round > 0 {
                case.add(side, usage);
            }
        }
    }
    Ok(case)
}

fn report(run: &Run) -> anyhow::Result<Report> {
    serde_json::from_str(&run.stdout).with_context(|| format!("client printed {:?}", run.stdout))
}

/// Checks that all files travelled. buildctl says so only in its log.
fn check_sent(side: Side, run: &Run, count: usize, bytes: usize) -> anyhow::Result<()> {
    match side {
        Side::Client => {
            let report = report(run)?;
            ensure!(
                report.files_sent >= count as u64 && report.bytes_sent >= (count * bytes) as u64,
                "the client did not send all files: {report:?}"
            );
        }
        Side::Buildctl => {
            let sent = transferred_bytes(&run.stderr);
            // The log rounds to three digits.
            let expected = 0.99 * f64::from(u32::try_from(count * bytes)?);
            let is_whole = sent.is_some_and(|sent| sent >= expected);
            ensure!(is_whole, "buildctl did not send all files:\n{}", run.stderr);
        }
    }
    Ok(())
}

/// The largest of the amounts in `transferring context: 1.07GB 2.1s done`.
fn transferred_bytes(log: &str) -> Option<f64> {
    let amounts = log.lines().filter_map(|line| {
        let (_, amount) = line.split_once("transferring context: ")?;
        let amount = amount.split_whitespace().next()?;
        let digits = amount.find(|it: char| it.is_ascii_alphabetic())?;
        let (number, unit) = amount.split_at(digits);
        let factor = match unit {
            "B" => 1.0,
            "kB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            _ => return None,
        };
        Some(number.parse::<f64>().ok()? * factor)
    });
    amounts.reduce(f64::max)
}
