//! Makes the pod of an attempt, and the claim that takes its files, and waits where the API server refuses them for now.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::{ResourceExt, runtime::controller::Action};

use super::{
    apply::{Creation, Made, Refusal},
    diagnose::{PodState, diagnose},
    lifecycle::{NAME_TAKEN, Recorded},
    queue::Ticket,
    reconcile::{LOST_WAKE_UP, ReconcileError, Reconciling},
    summarise::Standing,
    watched_pod::WatchedPod,
};
use crate::{
    api::{FailureReason, Isolation},
    plan::{
        Attempt, Validated,
        claim::output_claim,
        pod::{PodIsolation, attempt_of, build_pod},
    },
    runner::result::{BuildFailure, BuildResult},
};

/// How long to wait before a pod that was refused for now is tried again.
const REFUSED_INTERVAL: Duration = Duration::from_secs(5);

impl Reconciling<'_> {
    /// Makes the claim and the pod of an attempt, once no pod of an earlier build is left that could write to the output.
    pub(super) async fn create(
        &mut self,
        plan: &Validated,
        ticket: &Ticket,
        attempt: Attempt,
        first_attempt: Attempt,
    ) -> Result<Option<Action>, ReconcileError> {
        if self.delete_predecessors(Some((attempt, first_attempt))).await? {
            return Ok(Some(self.again_in(Duration::from_secs(5))));
        }
        if let Some(claim) = output_claim(plan) {
            match self.context.writer.create_claim(&claim, &self.uid).await? {
                Creation::Done { .. } => {}
                Creation::NameTaken { may_pass } => {
                    let message = format!(
                        "the claim {} exists and belongs to something else; name it in output.persistentVolumeClaim to use it",
                        claim.name_any()
                    );
                    let failure = BuildFailure::new(FailureReason::InvalidSpec, message);
                    return self
                        .refused(
                            plan,
                            ticket,
                            Refusal { failure, may_pass, by_pod_security: false },
                        )
                        .await;
                }
                Creation::Refused(refusal) => return self.refused(plan, ticket, refusal).await,
            }
        }
        let mut isolation =
            self.context.nodes.resolve(plan.isolation, &self.context.config).await?;
        let mut creation = self.create_pod(plan, attempt, isolation).await?;
        let may_be_rootless = plan.isolation == Isolation::Auto
            && self.context.config.allowed_isolations.contains(&Isolation::Rootless);
        if let Creation::Refused(refusal) = &creation
            && refusal.by_pod_security
            && isolation == PodIsolation::Userns
            && may_be_rootless
        {
            isolation = PodIsolation::Rootless;
            creation = self.create_pod(plan, attempt, isolation).await?;
        }
        match creation {
            Creation::Done { made, metadata } => {
                self.context.turns.fits(&self.uid);
                let pod = WatchedPod {
                    metadata: *metadata,
                    isolation: Some(isolation.as_str().to_owned()),
                    ..WatchedPod::default()
                };
                // Written down before anything else happens: should the pod go while no operator watches, the next one knows that
                // this attempt had one.
                self.write(plan, Some(&pod), &Standing::Waiting { message: "", reason: None })
                    .await?;
                if made == Made::Now {
                    tracing::info!(build = self.name, namespace = self.namespace, generation = plan.generation, %attempt, "the pod was made");
                    return Ok(Some(self.again_in(LOST_WAKE_UP)));
                }
                // The cache has not caught up with a pod that was made before.
                Ok(Some(self.again_in(Duration::from_secs(1))))
            }
            Creation::NameTaken { .. } => {
                if !self.has_time(plan) {
                    return self
                        .finish_refused(plan, BuildFailure::new(FailureReason::Timeout, NAME_TAKEN))
                        .await;
                }
                self.write(plan, None, &Standing::Waiting { message: NAME_TAKEN, reason: None })
                    .await?;
                Ok(Some(self.again_in(Duration::from_secs(1))))
            }
            Creation::Refused(refusal) => self.refused(plan, ticket, refusal).await,
        }
    }

    async fn create_pod(
        &self,
        plan: &Validated,
        attempt: Attempt,
        isolation: PodIsolation,
    ) -> Result<Creation, ReconcileError> {
        let pod = build_pod(plan, attempt, isolation, &self.context.config);
        Ok(self.context.writer.create_pod(&pod, &self.uid).await?)
    }

    /// A refusal that may pass is waited out: that of a quota in the queue, another as long as for a node. Any other ends the build.
    async fn refused(
        &mut self,
        plan: &Validated,
        ticket: &Ticket,
        refusal: Refusal,
    ) -> Result<Option<Action>, ReconcileError> {
        let recorded = Recorded::of(&self.build);
        let failure = &refusal.failure;
        if let Some(attempt) =
            recorded.attempt.filter(|_| failure.reason == FailureReason::QuotaExceeded)
        {
            let position = self.context.turns.hold(&self.uid, ticket);
            let first_attempt = recorded.first_attempt.unwrap_or(attempt);
            let (reason, message) = (failure.reason.as_str(), failure.message.as_str());
            self.write(
                plan,
                None,
                &Standing::Queued { attempt, first_attempt, position, reason, message },
            )
            .await?;
            return Ok(Some(self.again_in(LOST_WAKE_UP)));
        }
        if refusal.may_pass && self.has_time(plan) {
            self.write(
                plan,
                None,
                &Standing::Waiting { message: &failure.message, reason: Some(failure.reason) },
            )
            .await?;
            return Ok(Some(self.again_in(REFUSED_INTERVAL)));
        }
        self.finish_refused(plan, refusal.failure).await
    }

    /// Whether a pod that cannot be made now may still be made later.
    fn has_time(&self, plan: &Validated) -> bool {
        let since = Recorded::of(&self.build).tried_since();
        let waited = since.map(|since| Timestamp::now().duration_since(since).unsigned_abs());
        waited.is_none_or(|waited| waited < plan.waits.schedule.0)
    }

    async fn finish_refused(
        &mut self,
        plan: &Validated,
        failure: BuildFailure,
    ) -> Result<Option<Action>, ReconcileError> {
        self.write(plan, None, &Standing::Finished(&BuildResult::failed(failure))).await?;
        Ok(None)
    }

    /// Deletes the pods of earlier builds of this object; whether one is still there that has not ended. Lost attempts of
    /// the current build are kept for their logs.
    pub(super) async fn delete_predecessors(
        &self,
        current: Option<(Attempt, Attempt)>,
    ) -> Result<bool, ReconcileError> {
        // Only the first attempt of a first generation has no predecessors. For the others the cache may be behind: asked live.
        let is_first = self.wanted.generation <= 1
            && current.is_some_and(|(attempt, _)| attempt == Attempt::FIRST);
        let own: Vec<WatchedPod> = if is_first {
            Vec::new()
        } else {
            self.context
                .list_pods(&self.namespace, &self.name)
                .await?
                .into_iter()
                .filter(|pod| self.owns(pod))
                .collect()
        };
        let mut is_active = false;
        for pod in own {
            let attempt = attempt_of(&pod.name_any(), &self.name, self.wanted.generation);
            let is_of_current_build =
                attempt.zip(current).is_some_and(|(of_pod, (attempt, first_attempt))| {
                    (first_attempt..=attempt).contains(&of_pod)
                });
            let is_current = attempt.is_some() && attempt == current.map(|(attempt, _)| attempt);
            let state = diagnose(Some(&pod), &self.uid, Timestamp::now());
            is_active |= !is_current && !matches!(state, PodState::Ended(_) | PodState::Lost(_));
            if !is_of_current_build && pod.metadata.deletion_timestamp.is_none() {
                self.context.writer.delete_pod(&pod).await?;
            }
        }
        Ok(is_active)
    }

    fn owns(&self, pod: &WatchedPod) -> bool {
        pod.metadata.namespace.as_deref() == Some(self.namespace.as_str())
            && pod.owner_references().iter().any(|reference| reference.uid == self.uid)
    }
}
