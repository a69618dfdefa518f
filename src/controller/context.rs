//! What every reconcile needs: the writer, the caches, and what was written last.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::watch;

use super::{
    apply::Writer,
    events::Publisher,
    isolation::Nodes,
    metrics::Metrics,
    progress::ProgressReader,
    turns::Turns,
    watched_build::{WatchedBuild, WholeBuild, is_large},
    watched_pod::WatchedPod,
};
use crate::{
    api::{OciBuild, RENEWED_ANNOTATION},
    plan::{OperatorConfig, pod::BUILD_LABEL},
};

/// Pods of an answer; whoever may make pods may make many, and large ones.
const PAGE: u32 = 20;

/// What every reconcile needs.
pub struct Context {
    client: Client,
    pub(super) config: OperatorConfig,
    pub(super) writer: Writer,
    builds: Store<WatchedBuild>,
    pub(super) pods: Store<WatchedPod>,
    pub(super) pods_ready: watch::Receiver<bool>,
    pub(super) nodes: Nodes,
    pub(super) turns: Arc<Turns>,
    pub(super) progress: ProgressReader,
    pub(super) publisher: Publisher,
    pub(super) metrics: Arc<Metrics>,
    written: Mutex<HashMap<String, OciBuild>>,
    renewed: Mutex<HashMap<String, (Option<String>, Instant)>>,
    vanished: Mutex<HashMap<String, String>>,
    failures: Mutex<HashMap<ObjectRef<WatchedBuild>, u32>>,
}

/// What the watches know.
pub struct Caches {
    /// The builds.
    pub builds: Store<WatchedBuild>,
    /// Their pods.
    pub pods: Store<WatchedPod>,
    /// Whether the pods were listed.
    pub pods_ready: watch::Receiver<bool>,
}

impl Context {
    /// A context over a client and the caches.
    pub fn new(
        client: &Client,
        config: OperatorConfig,
        caches: Caches,
        turns: Arc<Turns>,
        publisher: Publisher,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            client: client.clone(),
            config,
            writer: Writer::new(client.clone(), metrics.clone()),
            builds: caches.builds,
            pods: caches.pods,
            pods_ready: caches.pods_ready,
            nodes: Nodes::new(client.clone()),
            turns,
            progress: ProgressReader::default(),
            publisher,
            metrics,
            written: Mutex::default(),
            renewed: Mutex::default(),
            vanished: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// The object as it was last written from here, where the cache has not caught up.
    pub(super) fn newest(&self, cached: OciBuild) -> OciBuild {
        let mut written = locked(&self.written);
        let uid = cached.uid().unwrap_or_default();
        match written.get(&uid) {
            Some(own) if version(own) > version(&cached) => own.clone(),
            Some(_) => {
                written.remove(&uid);
                cached
            }
            None => cached,
        }
    }

    /// The cache has this state of an object: what was written before it need not be kept.
    pub(super) fn caught_up(&self, cached: &WatchedBuild) {
        let mut written = locked(&self.written);
        let uid = cached.uid().unwrap_or_default();
        if written.get(&uid).is_some_and(|own| version(own) <= version(cached)) {
            written.remove(&uid);
        }
    }

    /// A build as it is now, if it is still there.
    pub(super) async fn get(&self, build: &WatchedBuild) -> Result<Option<OciBuild>, kube::Error> {
        let api: Api<WholeBuild> =
            Api::namespaced(self.client.clone(), &build.namespace().unwrap_or_default());
        let found = api.get_opt(&build.name_any()).await?.map(OciBuild::from);
        Ok(found.filter(|found| found.uid() == build.uid()))
    }

    /// The pods of a build as they are now.
    pub(super) async fn list_pods(
        &self,
        namespace: &str,
        build: &str,
    ) -> Result<Vec<WatchedPod>, kube::Error> {
        let api: Api<WatchedPod> = Api::namespaced(self.client.clone(), namespace);
        let mut page = ListParams::default().labels(&format!("{BUILD_LABEL}={build}")).limit(PAGE);
        let mut pods = Vec::new();
        loop {
            let listed = api.list(&page).await?;
            pods.extend(listed.items);
            match listed.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(pods),
            }
        }
    }

    /// A pod as it is now, if it is there.
    pub(super) async fn get_pod(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<WatchedPod>, kube::Error> {
        Api::<WatchedPod>::namespaced(self.client.clone(), namespace).get_opt(name).await
    }

    /// Keeps what was written of an object until the cache has caught up; a large one is asked for anyway.
    pub(super) fn remember(&self, written: &OciBuild) {
        if is_large(&written.spec) {
            return;
        }
        locked(&self.written).insert(written.uid().unwrap_or_default(), written.clone());
    }

    /// Forgets what was written of an object that needs no more work, or is gone.
    pub(super) fn forget(&self, uid: &str) {
        locked(&self.written).remove(uid);
        locked(&self.renewed).remove(uid);
        locked(&self.vanished).remove(uid);
        self.turns.leave(uid);
    }

    /// Forgets an object that was deleted, also where no reconcile sees it any more.
    pub(super) fn forget_deleted(&self, build: &WatchedBuild) {
        self.forget(&build.uid().unwrap_or_default());
        self.clear_failures(build);
    }

    /// The watch has seen a pod of a build go. Without a word of it in the status the same attempt would be made once more.
    pub(super) fn saw_vanish(&self, build_uid: String, pod: &WatchedPod) {
        locked(&self.vanished).insert(build_uid, pod.name_any());
    }

    /// Whether the watch has seen this pod of a build go.
    pub(super) fn has_vanished(&self, build_uid: &str, pod: &str) -> bool {
        locked(&self.vanished).get(build_uid).is_some_and(|vanished| vanished == pod)
    }

    /// Forgets an object that was deleted while a reconcile was at work with it: what that has left would stay for ever, its turn too.
    pub(super) fn forget_if_gone(&self, object: &WatchedBuild) {
        let now = self.builds.get(&ObjectRef::from_obj(object));
        if now.is_none_or(|now| now.uid() != object.uid()) {
            self.forget_deleted(object);
        }
    }

    /// Forgets the objects of these namespaces that were deleted while their watch was broken: nothing tells of them.
    pub(super) fn forget_absent(&self, namespace: Option<&str>) {
        let there: HashSet<String> =
            self.builds.state().iter().filter_map(|build| build.uid()).collect();
        for (uid, of) in self.turns.known() {
            if namespace.is_none_or(|namespace| namespace == of) && !there.contains(&uid) {
                self.forget(&uid);
            }
        }
    }

    /// How long a build's lease still lasts. It counts from when this operator saw the annotation change: clocks of others
    /// do not matter, and a restart gives every build its whole lease again.
    pub(super) fn lease_left(&self, build: &OciBuild, lease: Duration) -> Duration {
        let text = build.annotations().get(RENEWED_ANNOTATION).cloned();
        let mut renewed = locked(&self.renewed);
        let (last, since) = renewed
            .entry(build.uid().unwrap_or_default())
            .or_insert_with(|| (text.clone(), Instant::now()));
        if *last != text {
            (*last, *since) = (text, Instant::now());
        }
        lease.saturating_sub(since.elapsed())
    }

    /// Gives a build its whole lease again.
    pub(super) fn restart_lease(&self, build: &WatchedBuild) {
        locked(&self.renewed).remove(&build.uid().unwrap_or_default());
    }

    /// Gives every build its whole lease again: an operator that hears nothing of the API server hears of no renewal either.
    pub(super) fn restart_leases(&self) {
        locked(&self.renewed).clear();
    }

    /// Counts a reconcile that failed; how many did in a row.
    pub(super) fn count_failure(&self, build: &WatchedBuild) -> u32 {
        let mut failures = locked(&self.failures);
        let count = failures.entry(ObjectRef::from_obj(build)).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// A reconcile did not fail.
    pub(super) fn clear_failures(&self, build: &WatchedBuild) {
        locked(&self.failures).remove(&ObjectRef::from_obj(build));
    }
}

/// Resource versions are etcd's revisions: the later is the greater.
fn version(build: &impl ResourceExt) -> Option<u128> {
    build.resource_version().and_then(|version| version.parse().ok())
}

/// A map is whole whatever a thread that held it did.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
