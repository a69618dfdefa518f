//! Writes down every pod that there ever was, and what was done when.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Event, Pod},
    jiff::Timestamp,
};
use kube::{
    ResourceExt,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};

use crate::cluster::{Cluster, patiently};

#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Records>>);

#[derive(Default)]
struct Records {
    /// UIDs of the pods that had a name.
    uids: BTreeMap<String, BTreeSet<String>>,
    lines: Vec<(Timestamp, String)>,
}

impl Recorder {
    /// Watches the pods of builds until the program ends.
    pub fn start(cluster: &Cluster) -> Self {
        let recorder = Self::default();
        let watching = recorder.clone();
        let pods = cluster.api::<Pod>();
        tokio::spawn(async move {
            let config = watcher::Config::default().labels("app.kubernetes.io/managed-by=ocibuild");
            let mut events = watcher(pods, config).default_backoff().boxed();
            while let Some(event) = events.next().await {
                if let Ok(
                    watcher::Event::Apply(pod)
                    | watcher::Event::InitApply(pod)
                    | watcher::Event::Delete(pod),
                ) = event
                {
                    watching.note(&pod);
                }
            }
        });
        recorder
    }

    /// Notes the pods that events tell of: one that came and went while nothing could be watched was scheduled all the same.
    pub async fn hear(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let parameters = ListParams::default().fields("involvedObject.kind=Pod");
        let api = cluster.api::<Event>();
        let events = patiently("list the events", async || api.list(&parameters).await).await?;
        let mut records = self.records();
        for pod in events.items.into_iter().map(|event| event.involved_object) {
            if let (Some(name), Some(uid)) = (pod.name, pod.uid) {
                records.uids.entry(name).or_default().insert(uid);
            }
        }
        Ok(())
    }

    pub fn remember(&self, line: &str) {
        self.records().lines.push((Timestamp::now(), line.to_owned()));
    }

    /// Names that more than one pod has had.
    pub fn twice(&self) -> Vec<String> {
        self.records()
            .uids
            .iter()
            .filter(|(_, uids)| uids.len() > 1)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// All that was noted of a build's pods, between what was done to the cluster.
    pub fn print(&self, build: &str) {
        let pods = format!("{build}-g");
        for (at, line) in &self.records().lines {
            if line.starts_with(&pods) || line.contains(" s  ") {
                println!("    {at:.1} {line}");
            }
        }
    }

    fn note(&self, pod: &Pod) {
        let status = pod.status.clone().unwrap_or_default();
        let state = |statuses: Option<Vec<k8s_openapi::api::core::v1::ContainerStatus>>| {
            let state = statuses
                .into_iter()
                .flatten()
                .next()
                .and_then(|container| container.state)
                .unwrap_or_default();
            match (state.running, state.terminated) {
                (_, Some(ended)) => {
                    format!("ended {} {}", ended.exit_code, ended.reason.unwrap_or_default())
                }
                (Some(_), None) => "runs".to_owned(),
                (None, None) => "waits".to_owned(),
            }
        };
        let line = format!(
            "{} {}{}: build {}, buildkitd {}",
            pod.name_any(),
            status.phase.unwrap_or_default(),
            if pod.metadata.deletion_timestamp.is_some() { ", being deleted" } else { "" },
            state(status.container_statuses),
            state(status.init_container_statuses),
        );
        let mut records = self.records();
        records.uids.entry(pod.name_any()).or_default().insert(pod.uid().unwrap_or_default());
        records.lines.push((Timestamp::now(), line));
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
