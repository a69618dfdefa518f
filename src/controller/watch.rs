//! The two watches, of builds and of their pods, and what of them wakes a reconcile.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use futures::{Stream, StreamExt, TryStreamExt, future::ready};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{Controller, WatchStreamExt, controller, reflector, reflector::ObjectRef, watcher},
};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    context::{Caches, Context},
    events::Publisher,
    metrics::Metrics,
    reconcile::{error_policy, reconcile},
    turns::Turns,
    watched_build::WatchedBuild,
    watched_pod::{ContainerState, WatchedPod},
};
use crate::{
    api::{CANCEL_ANNOTATION, OciBuild, Phase, REBUILD_ANNOTATION},
    plan::{
        OperatorConfig,
        pod::{MANAGED_BY, MANAGED_BY_LABEL},
    },
};

/// Objects that are listed at once. One may have more than a megabyte, and a page is in memory as a whole.
const PAGE: u32 = 50;

/// What one watch is for.
pub struct Watched {
    /// The namespace, or all.
    pub namespace: Option<String>,
    /// The queue that all watches share.
    pub turns: Arc<Turns>,
}

/// Watches one namespace, or all, and reconciles what is there.
pub async fn run(
    client: Client,
    watched: Watched,
    config: OperatorConfig,
    publisher: Publisher,
    metrics: Arc<Metrics>,
) {
    let Watched { namespace, turns } = watched;
    let builds: Api<WatchedBuild> = scoped(&client, namespace.as_deref());
    let pods: Api<WatchedPod> = scoped(&client, namespace.as_deref());
    let (build_store, build_writer) = reflector::store();
    metrics.watch(build_store.clone());
    let (pod_store, pod_writer) = reflector::store();

    let concurrency = config.concurrency;
    // One waiter: of several that wait for a store, kube 5.0 wakes only the last (DelayedInit keeps one waker).
    let (pods_ready, ready_pods) = tokio::sync::watch::channel(false);
    let first_list = pod_store.clone();
    tokio::spawn(async move {
        if first_list.wait_until_ready().await.is_ok() {
            pods_ready.send_replace(true);
        }
        pods_ready.closed().await;
    });
    let here = namespace.clone();
    let next_turns =
        UnboundedReceiverStream::new(turns.listen()).filter_map(move |(namespace, name)| {
            let is_here = here.as_ref().is_none_or(|here| *here == namespace);
            ready(is_here.then(|| ObjectRef::new(&name).within(&namespace)))
        });
    let caches = Caches { builds: build_store.clone(), pods: pod_store, pods_ready: ready_pods };
    let context = Arc::new(Context::new(&client, config, caches, turns, publisher, metrics));
    let of_watch = namespace.clone();
    let (remembered, mut is_first_list) = (context.clone(), true);
    let (unheard, blind) = (context.clone(), context.clone());
    let (seen_to_go, owners) = (context.clone(), build_store.clone());
    let build_events = watcher(builds, watcher::Config::default().page_size(PAGE))
        .default_backoff()
        .reflect(build_writer)
        .inspect_ok(move |event| match event {
            watcher::Event::Delete(build) => remembered.forget_deleted(build),
            // Before anybody gets a turn: those that have one already.
            watcher::Event::InitApply(build) if is_first_list && has_turn(build) => {
                remembered.turns.resume(
                    &build.uid().unwrap_or_default(),
                    &build.namespace().unwrap_or_default(),
                );
            }
            watcher::Event::InitDone => {
                // Of the first list, too: it may have begun anew after one of its pages was lost.
                remembered.forget_absent(of_watch.as_deref());
                if std::mem::take(&mut is_first_list) {
                    remembered.turns.listed();
                }
            }
            watcher::Event::Apply(build) => remembered.caught_up(build),
            _ => {}
        })
        .inspect_err(move |error| {
            tracing::warn!(%error, "the builds cannot be watched; it is tried again");
            unheard.metrics.reconcile_error("watch");
            unheard.restart_leases();
        });
    let pod_events = watcher(
        pods,
        watcher::Config::default()
            .page_size(PAGE)
            .labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}")),
    )
    .default_backoff()
    .reflect(pod_writer)
    .inspect_ok(move |event| {
        let watcher::Event::Delete(pod) = event else { return };
        let Some(owner) =
            pod.owner_references().iter().find(|owner| owner.kind == OciBuild::kind(&()))
        else {
            return;
        };
        let build = ObjectRef::new(&owner.name).within(&pod.namespace().unwrap_or_default());
        if owners
            .get(&build)
            .is_some_and(|build| build.uid().as_deref() == Some(owner.uid.as_str()))
        {
            seen_to_go.saw_vanish(owner.uid.clone(), pod);
        }
    })
    .inspect_err(move |error| {
        tracing::warn!(%error, "the pods of builds cannot be watched; it is tried again");
        blind.metrics.reconcile_error("watch");
    });

    Controller::for_stream(changed(build_events, build_wakes()), build_store)
        .owns_stream(changed(pod_events, pod_wakes()))
        .reconcile_on(next_turns)
        .with_config(controller::Config::default().concurrency(concurrency))
        .run(reconcile, error_policy, context)
        .for_each(|_| ready(()))
        .await;
}

/// Whether a build had its turn when this operator started: it ran, or something else holds its pod back.
fn has_turn(build: &WatchedBuild) -> bool {
    let Some(status) = build.open_status().filter(|_| build.meta().deletion_timestamp.is_none())
    else {
        return false;
    };
    match status.phase {
        Some(Phase::Pending | Phase::Running) => true,
        Some(Phase::Queued) => status.pod.is_some(),
        _ => false,
    }
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Which objects of a watch wake a reconcile.
struct Wakes<K> {
    /// What of an object asks for something, as a number.
    fingerprint: fn(&K) -> u64,
    /// The fingerprint of one that asks for nothing.
    nothing: u64,
    /// Whether one that is there when the operator starts needs a look.
    at_start: fn(&K) -> bool,
}

/// The objects of a watch whose fingerprint changed, and those that were deleted.
fn changed<K>(
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
    wakes: Wakes<K>,
) -> impl Stream<Item = Result<K, watcher::Error>> + Send + 'static
where
    K: Resource + Send + 'static,
{
    // By a hash of their UIDs: there are many, and two alike are as rare as two alike fingerprints.
    let mut seen: HashMap<u64, u64> = HashMap::new();
    let uid = |object: &K| hash(&object.uid());
    let mut is_first_list = true;
    events.try_filter_map(move |event| {
        ready(Ok(match event {
            watcher::Event::InitApply(object) if is_first_list => {
                seen.insert(uid(&object), (wakes.fingerprint)(&object));
                (wakes.at_start)(&object).then_some(object)
            }
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                let print = (wakes.fingerprint)(&object);
                let before = seen.insert(uid(&object), print).unwrap_or(wakes.nothing);
                (before != print).then_some(object)
            }
            watcher::Event::Delete(object) => {
                seen.remove(&uid(&object));
                Some(object)
            }
            watcher::Event::InitDone => {
                is_first_list = false;
                None
            }
            watcher::Event::Init => None,
        }))
    })
}

/// A build that has ended needs a look only when its time to be deleted comes.
fn build_wakes() -> Wakes<WatchedBuild> {
    Wakes {
        fingerprint: build_fingerprint,
        // None has generation zero: one that is new always asks for something.
        nothing: 0,
        at_start: |build| !build.is_done(),
    }
}

/// At the start each build that has not ended is looked at anyway, together with its pod. What is left are pods that run though
/// their build has ended.
fn pod_wakes() -> Wakes<WatchedPod> {
    Wakes {
        fingerprint: pod_fingerprint,
        nothing: pod_fingerprint(&WatchedPod::default()),
        at_start: |pod| !has_ended(pod),
    }
}

fn has_ended(pod: &WatchedPod) -> bool {
    pod.build.as_ref().is_some_and(|build| build.state.terminated().is_some())
}

/// What of a build asks for something; its status is written by the controller itself.
fn build_fingerprint(build: &WatchedBuild) -> u64 {
    let metadata = build.meta();
    let annotation =
        |name: &str| metadata.annotations.as_ref().and_then(|annotations| annotations.get(name));
    let asked = [REBUILD_ANNOTATION, CANCEL_ANNOTATION].map(annotation);
    hash(&(metadata.generation, asked, metadata.deletion_timestamp.is_some(), build.is_readable()))
}

/// What of a pod [`super::diagnose`] reads. That it got a node, and that its containers start as they should, asks for nothing.
fn pod_fingerprint(pod: &WatchedPod) -> u64 {
    let conditions: Vec<_> = pod
        .conditions
        .iter()
        .filter(|condition| condition.type_ == "DisruptionTarget" || condition.status == "False")
        .map(|condition| {
            (&condition.type_, &condition.status, &condition.reason, &condition.message)
        })
        .collect();
    let stuck = [&pod.build, &pod.daemon].map(|container| {
        let reason = container.as_ref()?.state.waiting()?.reason.as_ref()?;
        (reason != "PodInitializing" && reason != "ContainerCreating").then_some(reason)
    });
    let runs =
        pod.build.as_ref().is_some_and(|build| matches!(build.state, ContainerState::Running));
    hash(&(
        pod.metadata.deletion_timestamp.is_some(),
        pod.has_failed,
        conditions,
        stuck,
        runs,
        has_ended(pod),
    ))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
