//! The lifecycle against a small model of the world: pods that live and die, a cache of pods that lags behind, writes that are
//! lost, operators that are killed, clocks that jump, users who change, cancel and rebuild. Whatever happens, no attempt is made
//! twice, no final phase is left, and when the world calms down the build ends.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{
    super::{Decision, Recorded, Wanted, decide},
    failure, limits, now, success,
};
use crate::{
    api::{FailureReason, Phase},
    controller::{
        diagnose::{PodState, Running, Wait, Waiting},
        queue::Turn,
    },
    plan::Attempt,
    runner::result::{BuildResult, Outcome},
};

/// What may happen.
#[derive(Clone, Debug)]
enum Step {
    /// The operator looks, decides and acts. The write, if any, may be lost on its way.
    Reconcile { is_lost: bool },
    /// The cache of the pods catches up by one event.
    CatchUp,
    /// The pod of the newest attempt goes on.
    Pod(Event),
    /// The operator is killed; the next one lists everything anew.
    Restart,
    /// Clocks jump.
    Jump(i64),
    /// It is, or is not, the build's turn.
    Turn(bool),
    /// A user changes the spec, asks for another build, or cancels.
    User(Change),
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Gate,
    Wait,
    Run,
    Succeed,
    Fail,
    Evict,
    LoseDaemon,
    Vanish,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Spec,
    Rebuild,
    Cancel,
}

type PodName = (i64, Attempt);

struct World {
    wanted: Wanted,
    recorded: Recorded,
    /// The history of each pod that was ever made; how much of it the cache has seen.
    pods: BTreeMap<PodName, Vec<PodState>>,
    cached: BTreeMap<PodName, usize>,
    /// Pods that are gone without any operator having written down that it saw them.
    turn: bool,
    now: Timestamp,
    texts: u32,
    finals: BTreeMap<(i64, Option<String>, Attempt), Phase>,
}

impl World {
    fn new() -> Self {
        Self {
            wanted: Wanted { generation: 1, rebuild: None, cancel: None },
            recorded: Recorded::default(),
            pods: BTreeMap::new(),
            cached: BTreeMap::new(),
            turn: true,
            now: now(),
            texts: 0,
            finals: BTreeMap::new(),
        }
    }

    fn name(&self) -> Option<PodName> {
        self.recorded.generation.zip(self.recorded.attempt)
    }

    fn seen_pod(&self) -> PodState {
        let Some(name) = self.name() else { return PodState::Absent };
        let seen = self.cached.get(&name).copied().unwrap_or_default();
        self.pods
            .get(&name)
            .filter(|_| seen > 0)
            .map_or(PodState::Absent, |history| history[seen - 1].clone())
    }

    fn is_there(&self, name: PodName) -> bool {
        self.pods
            .get(&name)
            .and_then(|history| history.last())
            .is_some_and(|state| *state != PodState::Absent)
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Reconcile { is_lost } => self.reconcile(*is_lost)?,
            Step::CatchUp => {
                for (name, history) in &self.pods {
                    let seen = self.cached.entry(*name).or_default();
                    *seen = (*seen + 1).min(history.len());
                }
            }
            Step::Restart => {
                // A pod that was there and is gone leaves no trace in a new list.
                self.cached =
                    self.pods.iter().map(|(name, history)| (*name, history.len())).collect();
            }
            Step::Pod(event) => self.pod(*event),
            Step::Jump(seconds) => {
                self.now = self
                    .now
                    .saturating_add(SignedDuration::from_secs(*seconds))
                    .unwrap_or(self.now);
            }
            Step::Turn(turn) => self.turn = *turn,
            Step::User(change) => {
                self.texts += 1;
                let text = Some(self.texts.to_string());
                match change {
                    Change::Spec => self.wanted.generation += 1,
                    Change::Rebuild => self.wanted.rebuild = text,
                    Change::Cancel => self.wanted.cancel = text,
                }
            }
        }
        Ok(())
    }

    fn pod(&mut self, event: Event) {
        let Some(history) = self.pods.values_mut().next_back() else { return };
        let last = history.last().cloned().unwrap_or(PodState::Absent);
        let has_ended = matches!(last, PodState::Ended(_) | PodState::Lost(_));
        let next = match (event, has_ended) {
            (_, _) if last == PodState::Absent => return,
            (Event::Vanish, _) => PodState::Absent,
            (_, true) => return,
            (Event::Gate, _) => PodState::Gated { message: "a gate".to_owned() },
            (Event::Wait, _) => PodState::Waiting(Waiting {
                reason: FailureReason::Unschedulable,
                message: "no node".to_owned(),
                wait: Wait::Schedule,
                since: Some(self.now),
                hopeless: false,
            }),
            (Event::Run, _) => PodState::Running(Running { address: None }),
            (Event::Succeed, _) => PodState::Ended(success()),
            (Event::Fail, _) => {
                PodState::Ended(BuildResult::failed(failure(FailureReason::StepFailed)))
            }
            (Event::LoseDaemon, _) => {
                PodState::Ended(BuildResult::failed(failure(FailureReason::DaemonDied)))
            }
            (Event::Evict, _) => PodState::Lost(failure(FailureReason::Evicted)),
        };
        history.push(next);
    }

    fn reconcile(&mut self, is_lost: bool) -> Result<(), TestCaseError> {
        let pod = self.seen_pod();
        let holds_turn = self.recorded.is(&self.wanted) && pod != PodState::Absent;
        let turn =
            if self.turn || holds_turn { Turn::Granted } else { Turn::Waiting { position: 1 } };
        let decision = decide(&self.wanted, &self.recorded, &pod, &limits(), turn, self.now);
        if self.recorded.is_settled(&self.wanted) {
            prop_assert_eq!(&decision, &Decision::Settled);
        }
        if let Decision::CreatePod { attempt } = decision {
            let name = (self.wanted.generation, attempt);
            prop_assert_eq!(
                self.name(),
                Some(name),
                "the attempt is written down before its pod is made"
            );
            if !is_lost && !self.is_there(name) {
                let was_seen = self.cached.get(&name).copied().unwrap_or_default() > 0
                    && self.recorded.pod_seen;
                prop_assert!(!was_seen, "the pod of {:?} is made twice", name);
                self.pods
                    .entry(name)
                    .or_default()
                    .push(PodState::Running(Running { address: None }));
            }
            return Ok(());
        }
        if !is_lost {
            self.write(&decision, &pod)?;
        }
        Ok(())
    }

    /// What the summary of a decision leaves in the status.
    fn write(&mut self, decision: &Decision, pod: &PodState) -> Result<(), TestCaseError> {
        let before = self.recorded.clone();
        let pod_seen = before.pod_seen || !matches!(pod, PodState::Absent | PodState::Foreign);
        let begun =
            |attempt: Attempt, first_attempt: Attempt, phase: Phase, is_same: bool| Recorded {
                generation: Some(self.wanted.generation),
                rebuild: self.wanted.rebuild.clone().or_else(|| before.rebuild.clone()),
                cancel: if is_same { before.cancel.clone() } else { self.wanted.cancel.clone() },
                attempt: Some(attempt),
                first_attempt: Some(first_attempt),
                phase: Some(phase),
                pod_seen: false,
                started: Some(self.now),
                queued: None,
                retry: None,
            };
        let is_same_build = before.is(&self.wanted);
        let after = match decision {
            Decision::Begin { attempt, first_attempt, after } => {
                let retry = after.as_ref().map(|lost| lost.retry);
                Recorded {
                    retry,
                    ..begun(*attempt, *first_attempt, Phase::Pending, after.is_some())
                }
            }
            Decision::Queue { attempt, first_attempt, .. } => Recorded {
                pod_seen: pod_seen && is_same_build,
                ..begun(*attempt, *first_attempt, Phase::Queued, is_same_build)
            },
            Decision::Gated { .. } => {
                Recorded { phase: Some(Phase::Queued), pod_seen, ..before.clone() }
            }
            Decision::Wait { .. } => {
                Recorded { phase: Some(Phase::Pending), pod_seen, ..before.clone() }
            }
            Decision::Track(_) => {
                Recorded { phase: Some(Phase::Running), pod_seen, ..before.clone() }
            }
            Decision::Finish(result) => {
                let is_success = matches!(result.outcome, Outcome::Succeeded(_));
                let phase = if is_success { Phase::Succeeded } else { Phase::Failed };
                Recorded {
                    phase: Some(phase),
                    pod_seen,
                    cancel: self.wanted.cancel.clone(),
                    ..before.clone()
                }
            }
            Decision::Settled | Decision::CreatePod { .. } | Decision::Pause(_) => before.clone(),
        };
        if after.generation == before.generation {
            prop_assert!(after.attempt >= before.attempt, "attempts of a generation only grow");
        }
        if let (Some(first), Some(attempt)) = (after.first_attempt, after.attempt) {
            prop_assert!(
                attempt.number() - first.number() <= limits().retries,
                "retries are bounded"
            );
            let build = (after.generation.unwrap_or_default(), after.rebuild.clone(), first);
            if let Some(phase) = self.finals.get(&build) {
                prop_assert_eq!(
                    after.phase,
                    Some(*phase),
                    "a final phase of the same build is left: {:?}",
                    decision
                );
            }
            if let Some(phase) = after.phase.filter(|phase| phase.is_final()) {
                self.finals.insert(build, phase);
            }
        }
        self.recorded = after;
        Ok(())
    }

    /// The world calms down: the turn comes, pods run and succeed, caches catch up, nothing is lost, time passes.
    fn calm_down(&mut self) -> Result<(), TestCaseError> {
        self.turn = true;
        for _ in 0..40 {
            self.take(&Step::CatchUp)?;
            self.take(&Step::Reconcile { is_lost: false })?;
            if self.recorded.is_settled(&self.wanted) {
                return Ok(());
            }
            self.take(&Step::Pod(Event::Succeed))?;
            self.take(&Step::Jump(200))?;
            for (name, history) in &self.pods {
                self.cached.insert(*name, history.len());
            }
        }
        prop_assert!(false, "the build does not end: {:?}, {:?}", self.recorded, self.seen_pod());
        Ok(())
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let event = prop::sample::select(vec![
        Event::Gate,
        Event::Wait,
        Event::Run,
        Event::Succeed,
        Event::Fail,
        Event::Evict,
        Event::LoseDaemon,
        Event::Vanish,
    ]);
    let change = prop::sample::select(vec![Change::Spec, Change::Rebuild, Change::Cancel]);
    prop_oneof![
        8 => prop::bool::weighted(0.3).prop_map(|is_lost| Step::Reconcile { is_lost }),
        4 => Just(Step::CatchUp),
        4 => event.prop_map(Step::Pod),
        1 => Just(Step::Restart),
        1 => (-100_000i64..100_000).prop_map(Step::Jump),
        1 => any::<bool>().prop_map(Step::Turn),
        1 => change.prop_map(Step::User),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn whatever_happens_no_attempt_is_made_twice_no_final_phase_is_left_and_the_build_ends(
        steps in prop::collection::vec(any_step(), 0..80),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step)?;
        }
        world.calm_down()?;
        let was_cancelled = world.recorded.phase == Some(Phase::Failed) && world.wanted.cancel.is_some();
        let has_failed = steps.iter().any(|step| matches!(step, Step::Pod(_) | Step::Jump(_)));
        prop_assert!(world.recorded.phase == Some(Phase::Succeeded) || was_cancelled || has_failed);
    }
}
