//! One reconcile: observe → decide → act → summarise. The decision is [`lifecycle::decide`], the status is
//! [`summarise::summarise`], the writing is [`apply::Writer`]; here they meet.

use std::{
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Resource, ResourceExt,
    runtime::{controller::Action, reflector::ObjectRef},
};
use tokio::time::timeout;
use tracing::{Instrument, Span, field::Empty};

use super::{
    context::Context,
    diagnose::{PodState, Running, diagnose},
    durations::Durations,
    events,
    lifecycle::{Decision, Limits, Recorded, Wanted, decide},
    queue::{Ticket, Turn},
    summarise::{Facts, Standing, summarise},
    watched_build::{Kept, WatchedBuild},
    watched_pod::WatchedPod,
};
use crate::{
    api::{BuildPod, FailureReason, OciBuild, OciBuildStatus, Phase},
    plan::{Attempt, Validated, duration::parse_duration, pod::pod_name, validate},
    runner::result::{BuildFailure, BuildResult},
};

/// How long a reconcile may take to bring a build further, all its calls together.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a running build's progress is read: the older the build, the less there is to see in a second.
const PROGRESS_INTERVAL: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(5);
/// The watches tell what happens. Should one lose a wake-up, a build is looked at again after this long.
pub(super) const LOST_WAKE_UP: Duration = Duration::from_secs(30);
/// More steps than any build takes in one reconcile; a bound against a fault of ours.
const STEPS_LIMIT: usize = 8;

/// Why a reconcile failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The cache was behind; nothing is wrong.
    #[error("the cache is behind the API server")]
    Stale,
    /// The API server did not do what it was asked.
    #[error(transparent)]
    Api(kube::Error),
    /// The API server did not answer.
    #[error("the API server did not answer within {}s", PATIENCE.as_secs())]
    Slow,
    /// The pods are not known yet.
    #[error("the pods could not be listed within {}s", PATIENCE.as_secs())]
    Unlisted,
    /// The pods will not be known any more.
    #[error("the watch of the pods has ended")]
    Watch,
    /// The lifecycle went round in circles.
    #[error("the build's lifecycle did not settle within {STEPS_LIMIT} steps")]
    Unsettled,
}

impl From<kube::Error> for ReconcileError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 409 => Self::Stale,
            _ => Self::Api(error),
        }
    }
}

impl ReconcileError {
    /// A label for metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Api(_) => "api",
            Self::Slow => "slow",
            Self::Unlisted | Self::Watch => "watch",
            Self::Unsettled => "unsettled",
        }
    }
}

/// Brings one build a step further: a trace of its own, in which each write to the API server is a span.
pub async fn reconcile(
    object: Arc<WatchedBuild>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    context.metrics.reconcile();
    let begun = Instant::now();
    let span = tracing::info_span!(
        "reconcile",
        build = object.name_any(),
        namespace = object.namespace(),
        generation = object.meta().generation,
        decision = Empty,
        otel.status_code = Empty,
        otel.status_description = Empty,
    );
    let result = bring_further(&object, &context).instrument(span.clone()).await;
    context.metrics.reconciled(begun.elapsed());
    if let Err(error) = &result
        && !matches!(error, ReconcileError::Stale)
    {
        span.record("otel.status_code", "ERROR")
            .record("otel.status_description", tracing::field::display(error));
    }
    result
}

async fn bring_further(object: &WatchedBuild, context: &Context) -> Result<Action, ReconcileError> {
    if object.meta().deletion_timestamp.is_some() {
        context.forget(&object.uid().unwrap_or_default());
        return Ok(Action::await_change());
    }
    let cached = match object.kept() {
        Kept::Build(build) => *build,
        Kept::NotHere => match timeout(PATIENCE, context.get(object))
            .await
            .map_err(|_| ReconcileError::Slow)??
        {
            Some(build) => build,
            None => return Ok(Action::await_change()),
        },
        Kept::Unreadable(error) => {
            tracing::warn!(
                build = object.name_any(),
                namespace = object.namespace(),
                error,
                "the object cannot be read; is the CRD of another version?"
            );
            context.forget(&object.uid().unwrap_or_default());
            return Ok(Action::await_change());
        }
    };
    let mut pods_ready = context.pods_ready.clone();
    let listed = timeout(PATIENCE, pods_ready.wait_for(|ready| *ready)).await;
    listed.map_err(|_| ReconcileError::Unlisted)?.map_err(|_| ReconcileError::Watch)?;
    context.turns.all_listed().await;
    let mut reconciling = Reconciling::new(context.newest(cached), context);
    let result = timeout(PATIENCE, Box::pin(reconciling.run())).await;
    Span::current().record("decision", reconciling.decisions.join(" "));
    context.forget_if_gone(object);
    let action = result.map_err(|_| ReconcileError::Slow)??;
    context.clear_failures(object);
    Ok(action)
}

/// When to try again after an error: at once when only the cache was behind, else with a growing pause.
pub fn error_policy(
    object: Arc<WatchedBuild>,
    error: &ReconcileError,
    context: Arc<Context>,
) -> Action {
    context.metrics.reconcile_error(error.kind());
    if matches!(error, ReconcileError::Stale) {
        return Action::requeue(Duration::from_millis(100));
    }
    // An API server that does not do what it is asked may not take renewals either.
    context.restart_lease(&object);
    let count = context.count_failure(&object);
    let pause = Duration::from_secs(1 << (count - 1).min(6));
    tracing::warn!(
        build = object.name_any(), namespace = object.namespace(), %error, pause = pause.as_secs(),
        "the build could not be brought further; it is tried again"
    );
    Action::requeue(pause)
}

/// A build on its way through one reconcile. The making of its pods is in [`super::attempt`].
pub(super) struct Reconciling<'a> {
    pub(super) context: &'a Context,
    pub(super) build: OciBuild,
    pub(super) wanted: Wanted,
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// When to look again at the latest.
    recheck: Duration,
    /// What was decided so far, by name.
    decisions: Vec<&'static str>,
}

impl<'a> Reconciling<'a> {
    fn new(build: OciBuild, context: &'a Context) -> Self {
        Self {
            context,
            wanted: Wanted::of(&build),
            uid: build.uid().unwrap_or_default(),
            namespace: build.namespace().unwrap_or_default(),
            name: build.name_any(),
            recheck: Duration::MAX,
            decisions: Vec::new(),
            build,
        }
    }

    pub(super) fn again_in(&self, pause: Duration) -> Action {
        Action::requeue(pause.min(self.recheck))
    }

    fn decided(&mut self, decision: &'static str) {
        tracing::debug!(decision, "decided");
        self.decisions.push(decision);
    }

    #[expect(clippy::too_many_lines, reason = "an arm for each decision")]
    async fn run(&mut self) -> Result<Action, ReconcileError> {
        let recorded = Recorded::of(&self.build);
        if recorded.is_settled(&self.wanted) {
            self.decided("settled");
            let pod = self.recorded_pod(&recorded);
            let state = diagnose(pod.as_deref(), &self.uid, Timestamp::now());
            return self.settle(pod.as_deref(), &state).await;
        }
        if self.build.spec.suspend {
            return self.suspend().await;
        }
        let plan = match validate(&self.build, &self.context.config) {
            Ok(plan) => plan,
            Err(invalid) => {
                let failure = BuildFailure::new(FailureReason::InvalidSpec, invalid.to_string());
                return Box::pin(self.refuse(failure)).await;
            }
        };
        let limits = Limits { retries: plan.retries, waits: plan.waits };
        if let Some(lease) = plan.lease {
            self.recheck = self.context.lease_left(&self.build, lease);
            if self.recheck.is_zero() {
                let message = format!(
                    "nobody has renewed the build's lease for {}s: who asked for it is gone",
                    lease.as_secs()
                );
                let result =
                    BuildResult::failed(BuildFailure::new(FailureReason::Cancelled, message));
                self.decided("cancel");
                let pod = self.recorded_pod(&Recorded::of(&self.build));
                self.finish(&plan, pod.as_deref(), &result).await?;
            }
        }
        let priority = self.context.turns.priority(plan.priority_class.as_deref()).await;
        for _ in 0..STEPS_LIMIT {
            let recorded = self.recorded();
            let pod = match self.recorded_pod(&recorded) {
                // The cache may be behind a pod that was made a moment ago; no attempt is given up for that.
                None if recorded.pod_seen && recorded.is(&self.wanted) => {
                    self.live_pod(&recorded).await?
                }
                pod => pod,
            };
            let now = Timestamp::now();
            let state = diagnose(pod.as_deref(), &self.uid, now);
            let turn = self.turn(&recorded, &state, priority, now);
            let decision = decide(&self.wanted, &recorded, &state, &limits, turn, now);
            self.decided(decision.name());
            match decision {
                Decision::Settled => return self.settle(pod.as_deref(), &state).await,
                Decision::Begin { attempt, first_attempt, after } => {
                    self.write(
                        &plan,
                        None,
                        &Standing::Begun { attempt, first_attempt, after: after.as_ref() },
                    )
                    .await?;
                    if let Some(lost) = after {
                        self.context.metrics.attempt_lost(lost.failure.reason);
                    }
                }
                Decision::Queue { attempt, first_attempt, position } => {
                    let (reason, message) = match self.refused_by_quota(attempt) {
                        Some(words) => (FailureReason::QuotaExceeded.as_str(), words),
                        None => (
                            "Queued",
                            format!(
                                "the build waits for its turn: it is number {position} in the operator's queue"
                            ),
                        ),
                    };
                    let position = Some(position);
                    let standing = Standing::Queued {
                        attempt,
                        first_attempt,
                        position,
                        reason,
                        message: &message,
                    };
                    self.write(&plan, None, &standing).await?;
                    self.delete_predecessors(Some((attempt, first_attempt))).await?;
                    let left =
                        limits.queue_left(&Recorded::of(&self.build), now).unwrap_or(Duration::MAX);
                    return Ok(self.again_in(self.context.turns.recheck().min(left)));
                }
                Decision::Gated { message } => {
                    let attempt = recorded.attempt.unwrap_or(Attempt::FIRST);
                    let first_attempt = recorded.first_attempt.unwrap_or(attempt);
                    let standing = Standing::Queued {
                        attempt,
                        first_attempt,
                        position: None,
                        reason: "Gated",
                        message: &message,
                    };
                    self.write(&plan, pod.as_deref(), &standing).await?;
                    let left =
                        limits.queue_left(&Recorded::of(&self.build), now).unwrap_or(Duration::MAX);
                    return Ok(self.again_in(LOST_WAKE_UP.min(left)));
                }
                Decision::CreatePod { attempt } => {
                    let ticket = self.ticket(&recorded, priority, now);
                    if let Some(action) = self
                        .create(&plan, &ticket, attempt, recorded.first_attempt.unwrap_or(attempt))
                        .await?
                    {
                        return Ok(action);
                    }
                }
                Decision::Pause(left) => return Ok(self.again_in(left + Duration::from_millis(50))),
                Decision::Wait { message, reason, recheck } => {
                    // A pod that starts as it should is not worth a write.
                    let troubled = pod.as_deref().filter(|_| reason.is_some());
                    self.write(&plan, troubled, &Standing::Waiting { message: &message, reason })
                        .await?;
                    return Ok(self.again_in(
                        recheck.map_or(LOST_WAKE_UP, |recheck| recheck.min(LOST_WAKE_UP)),
                    ));
                }
                Decision::Track(running) => {
                    return self.track(&plan, pod.as_deref(), &recorded, &running).await;
                }
                Decision::Finish(result) => self.finish(&plan, pod.as_deref(), &result).await?,
            }
        }
        Err(ReconcileError::Unsettled)
    }

    /// Writes the end down, after which nobody comes back to the pods of older builds. Whoever makes a pod deletes those first: where
    /// none was made they may still be there.
    async fn finish(
        &mut self,
        plan: &Validated,
        pod: Option<&WatchedPod>,
        result: &BuildResult,
    ) -> Result<(), ReconcileError> {
        let recorded = self.recorded();
        let current =
            recorded.attempt.zip(recorded.first_attempt).filter(|_| recorded.is(&self.wanted));
        if current.is_none() || !recorded.pod_seen {
            self.delete_predecessors(current).await?;
        }
        self.write(plan, pod, &Standing::Finished(result)).await
    }

    /// The words of the quota for which this attempt waits: they stay until there is room for it.
    fn refused_by_quota(&self, attempt: Attempt) -> Option<String> {
        let status =
            self.build.status.as_ref().filter(|status| status.phase == Some(Phase::Queued))?;
        let is_same = status.observed_generation == Some(self.wanted.generation)
            && status.attempt == Some(attempt.number());
        let ready = status
            .conditions
            .first()
            .filter(|ready| is_same && ready.reason == FailureReason::QuotaExceeded.as_str());
        ready.map(|ready| ready.message.clone())
    }

    /// A build whose pod is there has its turn, whatever the limits are now.
    fn turn(&self, recorded: &Recorded, pod: &PodState, priority: i32, now: Timestamp) -> Turn {
        if recorded.is(&self.wanted) && !matches!(pod, PodState::Absent | PodState::Foreign) {
            self.context.turns.resume(&self.uid, &self.namespace);
            return Turn::Granted;
        }
        self.context.turns.turn(&self.uid, &self.ticket(recorded, priority, now))
    }

    fn ticket(&self, recorded: &Recorded, priority: i32, now: Timestamp) -> Ticket {
        let since = recorded.queued.filter(|_| recorded.is(&self.wanted)).unwrap_or(now);
        Ticket { namespace: self.namespace.clone(), name: self.name.clone(), priority, since }
    }

    /// What the status says, and what this operator alone knows: that it has seen the attempt's pod go.
    fn recorded(&self) -> Recorded {
        let recorded = Recorded::of(&self.build);
        let pod = recorded
            .generation
            .zip(recorded.attempt)
            .map(|(generation, attempt)| pod_name(&self.name, generation, attempt));
        let has_vanished = pod.is_some_and(|pod| self.context.has_vanished(&self.uid, &pod));
        Recorded { pod_seen: recorded.pod_seen || has_vanished, ..recorded }
    }

    fn recorded_pod(&self, recorded: &Recorded) -> Option<Arc<WatchedPod>> {
        let (attempt, generation) = recorded.attempt.zip(recorded.generation)?;
        self.context.pods.get(
            &ObjectRef::new(&pod_name(&self.name, generation, attempt)).within(&self.namespace),
        )
    }

    async fn live_pod(
        &self,
        recorded: &Recorded,
    ) -> Result<Option<Arc<WatchedPod>>, ReconcileError> {
        let Some((attempt, generation)) = recorded.attempt.zip(recorded.generation) else {
            return Ok(None);
        };
        let pod = self
            .context
            .get_pod(&self.namespace, &pod_name(&self.name, generation, attempt))
            .await?;
        Ok(pod.map(Arc::new))
    }

    /// The spec holds the build back: say so, and stop what runs for an older one.
    async fn suspend(&mut self) -> Result<Action, ReconcileError> {
        self.decided("suspend");
        let before = self.build.status.clone().unwrap_or_default();
        let status = summarise(&before, &self.facts(None, None, None), &Standing::Suspended);
        self.write_status(status).await?;
        self.delete_predecessors(None).await?;
        let Some(lease) = self.build.spec.lease.as_deref().and_then(parse_duration) else {
            self.context.forget(&self.uid);
            return Ok(Action::await_change());
        };
        self.context.turns.leave(&self.uid);
        // Its client holds it back until its Secret is there. One that died before that is not waited for.
        let left = self.context.lease_left(&self.build, lease);
        if left.is_zero() {
            self.context.writer.delete_build(&self.build).await?;
            return Ok(Action::await_change());
        }
        Ok(Action::requeue(left))
    }

    /// A spec that cannot be built: say so once, and stop what runs for an older one.
    async fn refuse(&mut self, failure: BuildFailure) -> Result<Action, ReconcileError> {
        self.decided("refuse");
        let recorded = self.build.status.clone().unwrap_or_default();
        let before = OciBuildStatus {
            attempt: recorded.attempt,
            first_attempt: recorded.first_attempt,
            observed_rebuild: recorded.observed_rebuild,
            last_success: recorded.last_success,
            ..OciBuildStatus::default()
        };
        // As before any end: nobody comes back to them after it.
        self.delete_predecessors(None).await?;
        let facts = self.facts(None, None, None);
        let status = summarise(&before, &facts, &Standing::Finished(&BuildResult::failed(failure)));
        self.write_status(status).await?;
        self.context.forget(&self.uid);
        Ok(Action::await_change())
    }

    /// The build has ended. A pod that still waits or runs is in nobody's service any more.
    async fn settle(
        &self,
        pod: Option<&WatchedPod>,
        state: &PodState,
    ) -> Result<Action, ReconcileError> {
        if let (Some(pod), PodState::Gated { .. } | PodState::Waiting(_) | PodState::Running(_)) =
            (pod, state)
        {
            self.context.writer.delete_pod(pod).await?;
        }
        self.context.forget(&self.uid);
        self.retain().await
    }

    /// Deletes a build that has been kept for long enough after its end.
    async fn retain(&self) -> Result<Action, ReconcileError> {
        let ended = self.build.status.as_ref().and_then(|status| status.completion_time.as_ref());
        let ttl = self.build.spec.ttl_after_finished.as_deref().and_then(parse_duration);
        let Some((ended, ttl)) = ended.zip(ttl) else { return Ok(Action::await_change()) };
        let age = Timestamp::now().duration_since(ended.0);
        let left = ttl.saturating_sub(Duration::try_from(age).unwrap_or_default());
        if left.is_zero() {
            self.context.writer.delete_build(&self.build).await?;
            return Ok(Action::await_change());
        }
        Ok(Action::requeue(left + Duration::from_millis(50)))
    }

    /// Reports progress. The first report says only that the build runs, so that its end is never waited for.
    async fn track(
        &mut self,
        plan: &Validated,
        pod: Option<&WatchedPod>,
        recorded: &Recorded,
        running: &Running,
    ) -> Result<Action, ReconcileError> {
        let progress = match (&running.address, recorded.phase) {
            (Some(address), Some(Phase::Running)) => self.context.progress.read(address).await,
            _ => None,
        };
        self.write(plan, pod, &Standing::Running { progress }).await?;
        let age = recorded.started.map(|started| Timestamp::now().duration_since(started));
        let age = age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default();
        Ok(self.again_in(age.clamp(*PROGRESS_INTERVAL.start(), *PROGRESS_INTERVAL.end())))
    }

    fn facts<'b>(
        &'b self,
        pod: Option<&WatchedPod>,
        reference: Option<String>,
        output_claim: Option<&'b str>,
    ) -> Facts<'b> {
        let pod = pod.map(|pod| BuildPod {
            name: pod.name_any(),
            uid: pod.uid(),
            node: pod.node.clone(),
            isolation: pod.isolation.clone(),
        });
        Facts {
            wanted: &self.wanted,
            namespace: &self.namespace,
            reference,
            output_claim,
            pod,
            now: Timestamp::now(),
        }
    }

    pub(super) async fn write(
        &mut self,
        plan: &Validated,
        pod: Option<&WatchedPod>,
        standing: &Standing<'_>,
    ) -> Result<(), ReconcileError> {
        let before = self.build.status.clone().unwrap_or_default();
        let facts = self.facts(
            pod,
            plan.instructions.references.first().map(ToString::to_string),
            plan.output.claim_name(),
        );
        let after = summarise(&before, &facts, standing);
        self.write_status(after).await?;
        if let Standing::Finished(result) = standing {
            self.context.metrics.time_spent(&Durations::of(&before, result));
        }
        Ok(())
    }

    async fn write_status(&mut self, after: OciBuildStatus) -> Result<(), ReconcileError> {
        let before = self.build.status.clone().unwrap_or_default();
        if before == after {
            return Ok(());
        }
        let written = self.context.writer.status(&self.build, &after).await?;
        self.context.remember(&written);
        self.build = written;
        self.tell(&before, &after);
        Ok(())
    }

    /// Log, event and metrics of a transition; none of them is waited for.
    fn tell(&self, before: &OciBuildStatus, after: &OciBuildStatus) {
        let ended = after.phase.is_some_and(Phase::is_final)
            && before.completion_time != after.completion_time;
        if ended {
            self.context.metrics.build_ended(after);
        }
        if let (Some(queue), None) = (&before.queue, &after.queue) {
            let waited = Timestamp::now().duration_since(queue.since.0);
            self.context.metrics.left_queue(Duration::try_from(waited).unwrap_or_default());
        }
        let Some(transition) = events::transition(before, after) else { return };
        tracing::info!(
            build = self.name,
            namespace = self.namespace,
            generation = transition.generation,
            attempt = transition.attempt,
            reason = transition.reason,
            "{}",
            transition.note
        );
        self.context.publisher.tell(&self.build, transition);
    }
}
