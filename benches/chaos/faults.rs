//! What is done to the builds. Which fault comes next is the seed's; what it hits is the seed's choice among what is there.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, processes, run};

/// Marks the rules that cut the network, so that they are found again.
const RULE_COMMENT: &str = "ocibuild-chaos";
const NODE: &str = "ocibuild-dev";
/// How long a build is waited for that runs, before a fault that hits one.
const UNTIL_ONE_RUNS: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    OperatorKilled,
    OperatorsKilled,
    DaemonKilled,
    RunnerKilled,
    PodDeleted,
    NodeDrained,
    KubeletRestarted,
    ApiServerRestarted,
    EtcdRestarted,
    OperatorCutOff,
    BuildCutOff,
}

impl Fault {
    pub const ALL: [Self; 11] = [
        Self::OperatorKilled,
        Self::OperatorsKilled,
        Self::DaemonKilled,
        Self::RunnerKilled,
        Self::PodDeleted,
        Self::NodeDrained,
        Self::KubeletRestarted,
        Self::ApiServerRestarted,
        Self::EtcdRestarted,
        Self::OperatorCutOff,
        Self::BuildCutOff,
    ];

    /// Deals faults as cards: each kind once, in any order, before one comes again.
    pub fn deal(random: &mut fastrand::Rng, count: usize) -> Vec<Self> {
        let mut dealt = Vec::new();
        while dealt.len() < count {
            let mut deck = Self::ALL;
            random.shuffle(&mut deck);
            dealt.extend(deck);
        }
        dealt.truncate(count);
        dealt
    }

    /// Does it, and undoes what would not pass by itself; what was done, if there was anything to hit.
    pub async fn inflict(
        self,
        cluster: &Cluster,
        random: &mut fastrand::Rng,
    ) -> anyhow::Result<Option<String>> {
        // Drawn in any case: whether there is something to hit must not change what comes later.
        let (choice, seconds) = (random.f64(), random.u64(0..8));
        let is_rough = random.bool();
        Ok(match self {
            Self::OperatorKilled => {
                kill_operators(cluster, choose(cluster.operators().await?, choice)).await?
            }
            Self::OperatorsKilled => kill_operators(cluster, cluster.operators().await?).await?,
            Self::DaemonKilled => kill_in_build(cluster, choice, "buildkitd").await?,
            Self::RunnerKilled => kill_in_build(cluster, choice, "ocibuild").await?,
            Self::PodDeleted => {
                let pods = choose(running_builds(cluster).await?, choice);
                for pod in &pods {
                    cluster.delete_pod(pod, is_rough.then_some(0)).await?;
                }
                told(if is_rough { "delete by force" } else { "delete" }, &pods)
            }
            Self::NodeDrained => Some(drain(seconds).await?),
            Self::KubeletRestarted => Some(restart("kubelet", seconds).await?),
            Self::ApiServerRestarted => Some(restart("kube-apiserver", seconds).await?),
            Self::EtcdRestarted => Some(restart("etcd", seconds).await?),
            Self::OperatorCutOff => {
                let pods = cluster.operators().await?;
                cut_off(&pods, &["-p", "tcp", "--dport", "6443"], 2 * seconds + 2).await?;
                told("cut off", &pods)
                    .map(|cut| format!("{cut} from the API server for {} s", 2 * seconds + 2))
            }
            Self::BuildCutOff => {
                let pods = choose(running_builds(cluster).await?, choice);
                cut_off(&pods, &[], seconds + 1).await?;
                told("cut off", &pods)
                    .map(|cut| format!("{cut} from everything for {} s", seconds + 1))
            }
        })
    }
}

/// Undoes what a run that was itself killed has left.
pub async fn mend(cluster: &Cluster) -> anyhow::Result<()> {
    for chain in ["INPUT", "FORWARD"] {
        let rules = run("iptables", &["-w", "-S", chain]).await?;
        for rule in rules.lines().filter(|rule| rule.contains(RULE_COMMENT)) {
            let words: Vec<&str> = rule.split(' ').skip(1).collect();
            run("iptables", &[&["-w", "-D"], words.as_slice()].concat()).await?;
        }
    }
    for process in ["etcd", "kube-apiserver", "kubelet"] {
        run("dev/cluster", &["revive", process]).await?;
    }
    run("kubectl", &["uncordon", NODE]).await?;
    // A kubelet waits longer and longer before it starts a container again that was killed; a new pod starts at once.
    for pod in cluster.operators().await? {
        if restarts(&pod) > 0 {
            cluster.delete_pod(&pod, Some(0)).await?;
        }
    }
    Ok(())
}

/// Pods of builds that run; those that were submitted before this fault may not have come so far.
async fn running_builds(cluster: &Cluster) -> anyhow::Result<Vec<Pod>> {
    let deadline = Instant::now() + UNTIL_ONE_RUNS;
    loop {
        let pods = cluster.running_builds().await?;
        if !pods.is_empty() || Instant::now() > deadline {
            return Ok(pods);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// One of them, or none where there is none.
fn choose(mut pods: Vec<Pod>, choice: f64) -> Vec<Pod> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "0 ≤ choice < 1"
    )]
    let index = (choice * pods.len() as f64) as usize;
    if pods.is_empty() { pods } else { vec![pods.swap_remove(index)] }
}

/// What was done to these pods; none means that nothing was hit.
fn told(what: &str, pods: &[Pod]) -> Option<String> {
    let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
    (!names.is_empty()).then(|| format!("{what} {}", names.join(" and ")))
}

/// Whether there was a process to kill: it may have ended meanwhile.
fn kill(pod: &Pod, name: &str) -> bool {
    let processes = processes(pod, name).into_iter().filter_map(Pid::from_raw);
    processes.filter(|process| kill_process(*process, Signal::KILL).is_ok()).count() > 0
}

async fn kill_in_build(
    cluster: &Cluster,
    choice: f64,
    name: &str,
) -> anyhow::Result<Option<String>> {
    let mut pods = choose(running_builds(cluster).await?, choice);
    pods.retain(|pod| kill(pod, name));
    Ok(told(&format!("SIGKILL to {name} of"), &pods))
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).sum()
}

async fn kill_operators(cluster: &Cluster, mut pods: Vec<Pod>) -> anyhow::Result<Option<String>> {
    pods.retain(|pod| kill(pod, "ocibuild"));
    for pod in &pods {
        // The kubelet's growing pause is no fault of the operator's: the second time the pod is replaced.
        if restarts(pod) > 0 {
            cluster.delete_pod(pod, Some(0)).await?;
        }
    }
    Ok(told("SIGKILL to the operator of", &pods))
}

/// Evicts the pods of builds and of the operator, as `kubectl drain` does before a node is taken away, and gives the node back.
async fn drain(seconds: u64) -> anyhow::Result<String> {
    let which = "--pod-selector=app.kubernetes.io/managed-by=ocibuild";
    let drained = run(
        "kubectl",
        &[
            "drain",
            NODE,
            which,
            "--force",
            "--delete-emptydir-data",
            "--ignore-daemonsets",
            "--timeout=60s",
        ],
    )
    .await;
    sleep(Duration::from_secs(seconds)).await;
    run("kubectl", &["uncordon", NODE]).await?;
    let evicted = drained?.lines().filter(|line| line.starts_with("evicting pod")).count();
    Ok(format!("drain the node: {evicted} pods; back after {seconds} s"))
}

async fn restart(process: &str, seconds: u64) -> anyhow::Result<String> {
    run("dev/cluster", &["kill", process]).await?;
    sleep(Duration::from_secs(seconds)).await;
    run("dev/cluster", &["revive", process])
        .await
        .with_context(|| format!("{process} does not come back"))?;
    Ok(format!("SIGKILL to {process}; back after {seconds} s"))
}

/// Drops what the pods send, to the node and through it.
async fn cut_off(pods: &[Pod], what: &[&str], seconds: u64) -> anyhow::Result<()> {
    let addresses: Vec<&str> =
        pods.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.as_deref()).collect();
    let mut rules = Vec::new();
    for address in addresses {
        for chain in ["INPUT", "FORWARD"] {
            rules.push(
                [
                    &[chain, "-s", address],
                    what,
                    &["-m", "comment", "--comment", RULE_COMMENT, "-j", "DROP"],
                ]
                .concat(),
            );
        }
    }
    for rule in &rules {
        run("iptables", &[&["-w", "-I"], rule.as_slice()].concat()).await?;
    }
    sleep(Duration::from_secs(seconds)).await;
    for rule in &rules {
        run("iptables", &[&["-w", "-D"], rule.as_slice()].concat()).await?;
    }
    Ok(())
}
