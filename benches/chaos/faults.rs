//! What is done to the builds. Which fault comes next is the seed's; what it hits is the seed's choice among what is there.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::cluster::{Cluster, processes, run};

/// Marks the rules that cut the network, so that they are found again.
const RULE_COMMENT: &str = "ocibuild-chaos";
const NODE: &str = "ocibuild-dev";

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

    /// Does it, and undoes what would not pass by itself; what was done.
    pub async fn inflict(self, cluster: &Cluster, random: &mut fastrand::Rng) -> anyhow::Result<String> {
        // Drawn in any case: whether there is something to hit must not change what comes later.
        let (choice, seconds) = (random.f64(), random.u64(0..8));
        let is_rough = random.bool();
        Ok(match self {
            Self::OperatorKilled => kill_operators(cluster, choose(cluster.operators().await?, choice)).await?,
            Self::OperatorsKilled => kill_operators(cluster, cluster.operators().await?).await?,
            Self::DaemonKilled => kill_in_build(cluster, choice, "buildkitd").await?,
            Self::RunnerKilled => kill_in_build(cluster, choice, "ocibuild").await?,
            Self::PodDeleted => {
                let pods = choose(cluster.running_builds().await?, choice);
                for pod in &pods {
                    cluster.delete_pod(pod, is_rough.then_some(0)).await?;
                }
                told(if is_rough { "delete by force" } else { "delete" }, &pods)
            }
            Self::NodeDrained => drain(seconds).await?,
            Self::KubeletRestarted => restart("kubelet", seconds).await?,
            Self::ApiServerRestarted => restart("kube-apiserver", seconds).await?,
            Self::EtcdRestarted => restart("etcd", seconds).await?,
            Self::OperatorCutOff => {
                let pods = cluster.operators().await?;
                cut_off(&pods, &["-p", "tcp", "--dport", "6443"], 2 * seconds + 2).await?;
                format!("{} from the API server for {} s", told("cut off", &pods), 2 * seconds + 2)
            }
            Self::BuildCutOff => {
                let pods = choose(cluster.running_builds().await?, choice);
                cut_off(&pods, &[], seconds + 1).await?;
                format!("{} from everything for {} s", told("cut off", &pods), seconds + 1)
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

/// One of them, or none where there is none.
fn choose(mut pods: Vec<Pod>, choice: f64) -> Vec<Pod> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 ≤ choice < 1")]
    let index = (choice * pods.len() as f64) as usize;
    if pods.is_empty() { pods } else { vec![pods.swap_remove(index)] }
}

fn told(what: &str, pods: &[Pod]) -> String {
    let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
    format!("{what} {}", if names.is_empty() { "nothing, for nothing runs".to_owned() } else { names.join(" and ") })
}

fn kill(pod: &Pod, name: &str) {
    for process in processes(pod, name).into_iter().filter_map(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process(process, Signal::KILL);
    }
}

async fn kill_in_build(cluster: &Cluster, choice: f64, name: &str) -> anyhow::Result<String> {
    let pods = choose(cluster.running_builds().await?, choice);
    for pod in &pods {
        kill(pod, name);
    }
    Ok(told(&format!("SIGKILL to {name} of"), &pods))
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).sum()
}

async fn kill_operators(cluster: &Cluster, pods: Vec<Pod>) -> anyhow::Result<String> {
    for pod in &pods {
        kill(pod, "ocibuild");
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
    let drained =
        run("kubectl", &["drain", NODE, which, "--force", "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=60s"])
            .await;
    sleep(Duration::from_secs(seconds)).await;
    run("kubectl", &["uncordon", NODE]).await?;
    let evicted = drained?.lines().filter(|line| line.starts_with("evicting pod")).count();
    Ok(format!("drain the node: {evicted} pods; back after {seconds} s"))
}

async fn restart(process: &str, seconds: u64) -> anyhow::Result<String> {
    run("dev/cluster", &["kill", process]).await?;
    sleep(Duration::from_secs(seconds)).await;
    run("dev/cluster", &["revive", process]).await.with_context(|| format!("{process} does not come back"))?;
    Ok(format!("SIGKILL to {process}; back after {seconds} s"))
}

/// Drops what the pods send, to the node and through it.
async fn cut_off(pods: &[Pod], what: &[&str], seconds: u64) -> anyhow::Result<()> {
    let addresses: Vec<&str> = pods.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.as_deref()).collect();
    let mut rules = Vec::new();
    for address in addresses {
        for chain in ["INPUT", "FORWARD"] {
            rules.push([&[chain, "-s", address], what, &["-m", "comment", "--comment", RULE_COMMENT, "-j", "DROP"]].concat());
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
