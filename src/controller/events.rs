//! The events of a build: one for each transition of its status. Pure but for the publishing.

use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::api::{OciBuild, OciBuildStatus, Phase};
use crate::text::shortened;

/// Bytes of a note (events.k8s.io/v1: 1 kB).
const NOTE_LIMIT: usize = 1020;
/// Events that are on their way at once: each has a connection of its own.
const AT_ONCE: usize = 4;
/// Events that wait for that. What comes on top of these is in the log alone.
const QUEUE: usize = 4096;

/// What happened, in the words of `kubectl describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Whether it is a warning.
    pub is_warning: bool,
    /// The condition's reason, or the phase.
    pub reason: String,
    /// The story.
    pub note: String,
    /// Generation that it speaks of.
    pub generation: i64,
    /// Attempt that it speaks of.
    pub attempt: i32,
}

/// What happened between two states of a status, if anything worth telling.
pub fn transition(before: &OciBuildStatus, after: &OciBuildStatus) -> Option<Transition> {
    let ready = after.conditions.first()?;
    let is_same_attempt = before.attempt == after.attempt
        && before.observed_generation == after.observed_generation
        && before.observed_rebuild == after.observed_rebuild;
    let is_same_reason =
        before.conditions.first().is_some_and(|before| before.reason == ready.reason);
    if is_same_attempt && is_same_reason && before.phase == after.phase {
        return None;
    }
    let told = |is_warning, reason: &str, note: String| {
        Some(Transition {
            is_warning,
            reason: reason.to_owned(),
            note: shortened(&note, NOTE_LIMIT),
            generation: after.observed_generation.unwrap_or_default(),
            attempt: after.attempt.unwrap_or_default(),
        })
    };
    match after.phase? {
        // What it waited for has come; the next event says that it builds.
        Phase::Pending
            if ready.reason == "Pending"
                && is_same_attempt
                && before.phase != Some(Phase::Queued) =>
        {
            None
        }
        Phase::Pending if ready.reason == "Pending" => {
            let generation = after.observed_generation.unwrap_or_default();
            told(
                false,
                "Begun",
                format!("the build of generation {generation} begins: {}", ready.message),
            )
        }
        Phase::Pending => told(true, &ready.reason, ready.message.clone()),
        Phase::Queued | Phase::Suspended => told(false, &ready.reason, ready.message.clone()),
        Phase::Running => {
            let pod = after.pod.clone().unwrap_or_default();
            told(
                false,
                "Building",
                format!("pod {} builds on node {}", pod.name, pod.node.unwrap_or_default()),
            )
        }
        Phase::Succeeded => {
            let tar = after
                .tar
                .as_ref()
                .map(|tar| format!(", tar at {}", tar.location))
                .unwrap_or_default();
            let took =
                after.duration.as_deref().map(|took| format!(" in {took}")).unwrap_or_default();
            told(false, "Succeeded", format!("{}{took}{tar}", ready.message))
        }
        Phase::Failed => {
            let excerpt = after.failure.as_ref().and_then(|failure| failure.log_excerpt.clone());
            let excerpt = excerpt.map(|excerpt| format!("\n{excerpt}")).unwrap_or_default();
            told(true, &ready.reason, format!("{}{excerpt}", ready.message))
        }
    }
}

/// Publishes transitions, none of which is waited for.
#[derive(Clone)]
pub struct Publisher {
    queue: mpsc::Sender<(ObjectReference, Transition)>,
}

impl Publisher {
    /// Publishes in this name.
    pub fn new(client: Client, reporter: Reporter) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let publishing = ReceiverStream::new(waiting).for_each_concurrent(
            AT_ONCE,
            move |(build, transition)| {
                let (client, reporter) = (client.clone(), reporter.clone());
                async move { publish(client, reporter, &build, &transition).await }
            },
        );
        tokio::spawn(publishing);
        Self { queue }
    }

    /// Publishes a transition of a build, soon.
    pub fn tell(&self, build: &OciBuild, transition: Transition) {
        if let Err(error) = self.queue.try_send((build.object_ref(&()), transition)) {
            tracing::warn!(%error, "the event is not published: the API server takes events more slowly than they come");
        }
    }
}

/// kube's recorder keeps each event for six minutes, in case that it comes again; ours never do, and looking through thousands of
/// them at each new one is what costs: so each event has a recorder of its own.
async fn publish(
    client: Client,
    reporter: Reporter,
    build: &ObjectReference,
    transition: &Transition,
) {
    let event = Event {
        type_: if transition.is_warning { EventType::Warning } else { EventType::Normal },
        reason: transition.reason.clone(),
        note: Some(transition.note.clone()),
        // Events of the same action and reason within six minutes would keep the first note.
        action: format!("BuildGeneration{}Attempt{}", transition.generation, transition.attempt),
        secondary: None,
    };
    if let Err(error) = Recorder::new(client, reporter).publish(&event, build).await {
        tracing::warn!(%error, build = build.name, namespace = build.namespace, reason = transition.reason, "the event could not be published");
    }
}

#[cfg(test)]
mod tests;
