//! The BuildKit client beside `buildctl`: small builds, uploads and exports, in turn against one
//! daemon. Run by `dev/bench client`.

mod build;
mod cases;
mod client_process;
#[path = "../figures/mod.rs"]
mod common;
mod daemon;
mod figures;
mod inputs;
mod rate;
mod usage;

use std::{env, fs};

use anyhow::Context;

use self::{cases::Bench, common::machine, daemon::Daemon, figures::Case};

/// Selects cases, for example `tiny,upload`.
const CASES: &str = "OCIBUILD_CLIENT_CASES";

const NOTES: &str = "\
Both sides use one buildkitd and alternate; a first round is not counted.
The client hashes the tar (SHA-256) while it writes it, as the runner does; buildctl only writes.
CPU is user and system time, the mean of the runs. Peaks are the maximum of the runs.
The slow sinks get 100 MB at 10 MB/s and 20 MB at 2 MB/s, twice each: the sink sets the time.
";

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() == Some(client_process::ARGUMENT) {
        return client_process::run(&arguments.next().context("a build is missing")?);
    }
    println!("machine: {}, load average {}", machine()?, load()?);
    print!("{NOTES}");
    let directory = tempfile::tempdir_in("/var/lib").context("buildkitd must run as root")?;
    let daemon = Daemon::start(directory.path())?;
    let bench = Bench { daemon, directory: directory.path().to_owned() };
    let cases = run(&bench)?;
    Case::print_head();
    cases.iter().for_each(Case::print);
    cases.iter().for_each(Case::print_verdict);
    println!("load average at the end {}", load()?);
    println!("{}", summary(&cases));
    Ok(())
}

fn run(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let selected = env::var(CASES).unwrap_or_else(|_| "tiny,upload,files,export,slow".to_owned());
    let mut cases = Vec::new();
    for name in selected.split(',') {
        println!("running {name}, load average {}", load()?);
        match name {
            "tiny" => cases.extend([bench.tiny_cached()?, bench.tiny_changed()?]),
            "upload" => cases.push(bench.upload()?),
            "files" => cases.push(bench.files()?),
            "export" => cases.push(bench.export_fast()?),
            "slow" => cases.extend([
                bench.export_slowly("sink 10 MB/s", 100, 10)?,
                bench.export_slowly("sink 2 MB/s", 20, 2)?,
            ]),
            _ => anyhow::bail!("{CASES}: unknown case {name:?}"),
        }
    }
    Ok(cases)
}

/// The load of the last minute and of the last 5 and 15 minutes.
fn load() -> anyhow::Result<String> {
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(load.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

/// The line that others read. A case that did not run is `-`.
fn summary(cases: &[Case]) -> String {
    let worst = |prefix: &str, value: fn(&Case) -> f64| {
        let cases = cases.iter().filter(|case| case.name.starts_with(prefix));
        let worst = cases.map(value).reduce(f64::max);
        worst.map_or_else(|| "-".to_owned(), |worst| format!("{worst:.2}"))
    };
    format!(
        "client: tiny {} upload {} files {} export {} slow-sink peak MiB {}",
        worst("tiny", Case::wall_ratio),
        worst("upload", Case::wall_ratio),
        worst("files", Case::wall_ratio),
        worst("export", Case::wall_ratio),
        worst("sink", Case::client_peak),
    )
}
