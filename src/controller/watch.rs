//! The two watches, of builds and of their pods, and what of them wakes a reconcile.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use futures::{Stream, StreamExt, TryStreamExt, future::ready};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{Controller, WatchStreamExt, controller, reflector, reflector::ObjectRef, watcher},
};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    cache::{is_settled, slim_build, slim_pod},
    context::{Caches, Context},
    events::Publisher,
    metrics::Metrics,
    reconcile::{error_policy, reconcile},
    turns::Turns,
};
use crate::{
    api::{CANCEL_ANNOTATION, OciBuild, Phase, REBUILD_ANNOTATION},
    plan::{
        OperatorConfig,
        pod::{MANAGED_BY, MANAGED_BY_LABEL},
    },
};

/// What one watch is for.
pub struct Watched {
    /// The namespace, or all.
    pub namespace: Option<String>,
    /// The queue that all watches share.
    pub turns: Arc<Turns>,
}

/// Watches one namespace, or all, and reconciles what is there.
pub async fn run(client: Client, watched: Watched, config: OperatorConfig, publisher: Publisher, metrics: Arc<Metrics>) {
    let Watched { namespace, turns } = watched;
    let builds: Api<DeserializeGuard<OciBuild>> = scoped(&client, namespace.as_deref());
    let pods: Api<Pod> = scoped(&client, namespace.as_deref());
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
    let next_turns = UnboundedReceiverStream::new(turns.listen()).filter_map(move |(namespace, name)| {
        let is_here = here.as_ref().is_none_or(|here| *here == namespace);
        ready(is_here.then(|| ObjectRef::new(&name).within(&namespace)))
    });
    let caches = Caches { builds: build_store.clone(), pods: pod_store, pods_ready: ready_pods };
    let context = Arc::new(Context::new(&client, config, caches, turns, publisher, metrics));
    let of_watch = namespace.clone();
    let (remembered, mut is_first_list) = (context.clone(), true);
    let (seen_to_go, owners) = (context.clone(), build_store.clone());
    let build_events = watcher(builds, watcher::Config::default())
        .default_backoff()
        .modify(|build| match &mut build.0 {
            Ok(build) => slim_build(build),
            Err(invalid) => invalid.metadata.managed_fields = None,
        })
        .reflect(build_writer)
        .inspect_ok(move |event| match event {
            watcher::Event::Delete(build) => remembered.forget_deleted(build),
            // Before anybody gets a turn: those that have one already.
            watcher::Event::InitApply(build) if is_first_list => {
                if let Some(build) = build.0.as_ref().ok().filter(|build| has_turn(build)) {
                    remembered.turns.resume(&build.uid().unwrap_or_default(), &build.namespace().unwrap_or_default());
                }
            }
            watcher::Event::InitDone if is_first_list => is_first_list = false,
            watcher::Event::InitDone => remembered.forget_absent(of_watch.as_deref()),
            watcher::Event::Apply(build) => {
                if let Ok(build) = &build.0 {
                    remembered.caught_up(build);
                }
            }
            _ => {}
        });
    let pod_events = watcher(pods, watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}")))
        .default_backoff()
        .modify(slim_pod)
        .reflect(pod_writer)
        .inspect_ok(move |event| {
            let watcher::Event::Delete(pod) = event else { return };
            let Some(owner) = pod.owner_references().iter().find(|owner| owner.kind == OciBuild::kind(&())) else { return };
            let build = ObjectRef::new(&owner.name).within(&pod.namespace().unwrap_or_default());
            if owners.get(&build).is_some_and(|build| build.uid().as_deref() == Some(owner.uid.as_str())) {
                seen_to_go.saw_vanish(owner.uid.clone(), pod);
            }
        });

    Controller::for_stream(changed(build_events, build_wakes()), build_store)
        .owns_stream(changed(pod_events, pod_wakes()))
        .reconcile_on(next_turns)
        .with_config(controller::Config::default().concurrency(concurrency))
        .run(reconcile, error_policy, context)
        .for_each(|_| ready(()))
        .await;
}

/// Whether a build ran when this operator started.
fn has_turn(build: &OciBuild) -> bool {
    let phase = build.status.as_ref().and_then(|status| status.phase);
    matches!(phase, Some(Phase::Pending | Phase::Running)) && build.metadata.deletion_timestamp.is_none()
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
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut is_first_list = true;
    events.try_filter_map(move |event| {
        ready(Ok(match event {
            watcher::Event::InitApply(object) if is_first_list => {
                seen.insert(object.uid().unwrap_or_default(), (wakes.fingerprint)(&object));
                (wakes.at_start)(&object).then_some(object)
            }
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                let print = (wakes.fingerprint)(&object);
                let before = seen.insert(object.uid().unwrap_or_default(), print).unwrap_or(wakes.nothing);
                (before != print).then_some(object)
            }
            watcher::Event::Delete(object) => {
                seen.remove(&object.uid().unwrap_or_default());
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
fn build_wakes() -> Wakes<DeserializeGuard<OciBuild>> {
    Wakes {
        fingerprint: build_fingerprint,
        // None has generation zero: one that is new always asks for something.
        nothing: 0,
        at_start: |build| match &build.0 {
            Ok(build) => !is_settled(build) || build.spec.ttl_after_finished.is_some(),
            Err(_) => true,
        },
    }
}

/// At the start each build that has not ended is looked at anyway, together with its pod. What is left are pods that run though
/// their build has ended.
fn pod_wakes() -> Wakes<Pod> {
    Wakes { fingerprint: pod_fingerprint, nothing: pod_fingerprint(&Pod::default()), at_start: |pod| !has_ended(pod) }
}

fn has_ended(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let mut states = statuses.into_iter().flatten().filter_map(|container| container.state.as_ref());
    states.any(|state| state.terminated.is_some())
}

/// What of a build asks for something; its status is written by the controller itself.
fn build_fingerprint(build: &DeserializeGuard<OciBuild>) -> u64 {
    let metadata = build.meta();
    let annotation = |name: &str| metadata.annotations.as_ref().and_then(|annotations| annotations.get(name));
    let asked = [REBUILD_ANNOTATION, CANCEL_ANNOTATION].map(annotation);
    hash(&(metadata.generation, asked, metadata.deletion_timestamp.is_some(), build.0.is_ok()))
}

/// What of a pod [`super::diagnose`] reads.
fn pod_fingerprint(pod: &Pod) -> u64 {
    let status = pod.status.clone().unwrap_or_default();
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| condition.type_ == "DisruptionTarget" || condition.status == "False")
        .map(|condition| (condition.type_.clone(), condition.status.clone(), condition.reason.clone(), condition.message.clone()))
        .collect();
    let containers: Vec<_> = status
        .init_container_statuses
        .iter()
        .flatten()
        .map(|container| (false, container))
        .chain(status.container_statuses.iter().flatten().map(|container| (true, container)))
        .map(|(is_build, container)| {
            let state = container.state.clone().unwrap_or_default();
            let waiting = state
                .waiting
                .and_then(|waiting| waiting.reason)
                .filter(|reason| reason != "PodInitializing" && reason != "ContainerCreating");
            (is_build && state.running.is_some(), is_build && state.terminated.is_some(), waiting)
        })
        // That a pod got a node, and that its containers start as they should, asks for nothing.
        .filter(|(runs, has_ended, waiting)| *runs || *has_ended || waiting.is_some())
        .collect();
    hash(&(pod.metadata.deletion_timestamp.is_some(), status.phase.filter(|phase| phase == "Failed"), conditions, containers))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
