//! Builds while everything around them is killed: operator, BuildKit, runner, kubelet, API server, etcd, pods, the node, the
//! network. Each build must end as it would have ended undisturbed, with the same digest; none may be built twice without an attempt
//! that says why; none may hang. Run by `dev/chaos` on the development cluster, whose processes it kills.

mod builds;
mod cluster;
mod faults;
mod judgement;
mod recorder;

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use anyhow::{Context, ensure};
use clap::Parser;
use tokio::time::{Instant, sleep};

use self::{builds::Kind, cluster::Cluster, faults::Fault, recorder::Recorder};

/// Builds that are on their way at once.
const WINDOW: usize = 12;
/// A build must have ended this long after the last fault.
const PATIENCE: Duration = Duration::from_mins(4);

/// Builds while everything around them is killed.
#[derive(Parser)]
struct Arguments {
    /// Which faults come in which order, and when. The same seed gives the same ones.
    #[arg(long)]
    seed: Option<u64>,

    /// Builds.
    #[arg(long, default_value_t = 200)]
    builds: usize,

    /// Faults. Default: each kind once for every 40 builds.
    #[arg(long)]
    faults: Option<usize>,

    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!(
        "seed {seed}: to have the same faults again, dev/chaos --seed {seed} --builds {}",
        arguments.builds
    );
    let cluster = Cluster::connect().await?;
    faults::mend(&cluster).await?;
    let expectations =
        builds::undisturbed(&cluster).await.context("builds that nobody disturbs")?;
    let recorder = Recorder::start(&cluster);
    let inflicted = disturb(&cluster, &recorder, &arguments, fastrand::Rng::with_seed(seed)).await;
    faults::mend(&cluster).await?;
    let inflicted = inflicted?;
    let hung = wait_for_all(&cluster, &builds::names(arguments.builds)).await?;
    recorder.hear(&cluster).await?;
    let judgement =
        judgement::judge(&cluster, &recorder, &expectations, arguments.builds, hung).await?;
    for (name, complaint) in &judgement.complaints {
        println!("\n{name}: {complaint}\n{}", cluster.story(name).await);
        recorder.print(name);
    }
    println!("attempts: {}", judgement.attempts);
    println!(
        "chaos: builds {}, faults {inflicted}, lost {}, duplicated {}, hung {}",
        arguments.builds, judgement.lost, judgement.duplicated, judgement.hung
    );
    if judgement.complaints.is_empty() {
        cluster.delete_namespace().await?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("The namespace {} is left to be looked at.", cluster.namespace);
    Ok(ExitCode::FAILURE)
}

/// Submits the builds, some before each fault, and inflicts the faults; how many hit something.
async fn disturb(
    cluster: &Cluster,
    recorder: &Recorder,
    arguments: &Arguments,
    mut random: fastrand::Rng,
) -> anyhow::Result<usize> {
    let count =
        arguments.faults.unwrap_or_else(|| Fault::ALL.len() * arguments.builds.div_ceil(40));
    ensure!(count > 0, "chaos without a fault is none");
    let start = Instant::now();
    let mut names = builds::names(arguments.builds).into_iter().enumerate();
    let (mut open, mut hits) = (BTreeSet::new(), 0);
    for (number, fault) in Fault::deal(&mut random, count).into_iter().enumerate() {
        let pause = Duration::from_millis(random.u64(300..3000));
        for (index, name) in names.by_ref().take(
            (arguments.builds * (number + 1)).div_ceil(count) - arguments.builds * number / count,
        ) {
            wait_for_room(cluster, &mut open).await?;
            cluster.create(builds::build(Kind::of(index), &name, cluster)).await?;
            open.insert(name);
        }
        sleep(pause).await;
        let inflicted =
            fault.inflict(cluster, &mut random).await.with_context(|| format!("{fault:?}"))?;
        hits += usize::from(inflicted.is_some());
        let what = inflicted.unwrap_or_else(|| {
            format!("{fault:?}: nothing was there to be hit; it does not count")
        });
        let line = format!("{:>6.1} s  {what}", start.elapsed().as_secs_f64());
        println!("{line}");
        recorder.remember(&line);
    }
    Ok(hits)
}

async fn wait_for_room(cluster: &Cluster, open: &mut BTreeSet<String>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while open.len() >= WINDOW {
        let ended = cluster.ended().await?;
        open.retain(|name| !ended.contains(name));
        if Instant::now() > deadline {
            // They are judged at the end.
            open.clear();
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Waits until all builds have ended; which of them have not.
async fn wait_for_all(cluster: &Cluster, names: &[String]) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ended = cluster.ended().await?;
        let open: Vec<String> =
            names.iter().filter(|name| !ended.contains(*name)).cloned().collect();
        if open.is_empty() || Instant::now() > deadline {
            return Ok(open);
        }
        sleep(Duration::from_millis(500)).await;
    }
}
