//! Why a run is to stop before its end: asked from outside, or its time is up.

use std::time::{Duration, Instant};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep_until,
};

use super::{
    deadlines::{Clock, RunPhase},
    result::BuildFailure,
};
use crate::{api::FailureReason, plan::instructions::Instructions};

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// SIGTERM or SIGINT.
    Cancelled,
    /// The build's timeout.
    Timeout,
    /// The deadline of a phase.
    Overdue(RunPhase),
}

/// Tells when to stop; each copy tells it.
#[derive(Clone)]
pub struct Stop {
    reason: watch::Receiver<Option<StopReason>>,
    told: watch::Receiver<bool>,
    clock: watch::Sender<Clock>,
}

impl Stop {
    /// Listens for signals and starts the clock.
    pub fn new(instructions: &Instructions) -> std::io::Result<Self> {
        let (sender, reason) = watch::channel(None);
        let (telling, told) = watch::channel(false);
        let clock = watch::Sender::new(Clock::new(instructions.deadlines));
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (end, watched) =
            (Instant::now() + Duration::from_secs(instructions.timeout_seconds), clock.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = telling.closed() => {}
            }
            telling.send_replace(true);
            telling.closed().await;
        });
        let mut signalled = told.clone();
        tokio::spawn(async move {
            let reason = tokio::select! {
                _ = signalled.wait_for(|told| *told) => StopReason::Cancelled,
                reason = time_is_up(watched, end) => reason,
            };
            sender.send_replace(Some(reason));
            // Kept, so that those who listen late are told too.
            sender.closed().await;
        });
        Ok(Self { reason, told, clock })
    }

    /// The run is in another phase from now on.
    pub fn enter(&self, phase: RunPhase) {
        self.clock.send_if_modified(|clock| clock.enter(phase, Instant::now()));
    }

    /// BuildKit is in another phase from now on.
    pub fn follow(&self, phase: RunPhase) {
        self.clock.send_if_modified(|clock| clock.follow(phase, Instant::now()));
    }

    /// The image is there: only a signal stops what follows.
    pub fn end(&self) {
        self.clock.send_modify(Clock::end);
    }

    /// Seconds that a phase may take.
    pub fn limit(&self, phase: RunPhase) -> Option<u64> {
        self.clock.borrow().limit(phase)
    }

    /// Waits until it is time to stop.
    pub async fn asked(&mut self) {
        if self.reason.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until a signal tells to stop; the time does not matter.
    pub async fn told(&mut self) {
        if self.told.wait_for(|told| *told).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Why to stop, if it is time to.
    pub fn reason(&self) -> Option<StopReason> {
        *self.reason.borrow()
    }

    /// Does work that blocks. When it is time to stop it is left behind: it ends with the process.
    pub async fn unless_asked<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> Result<T, BuildFailure> + Send + 'static,
    ) -> Result<T, BuildFailure> {
        let working = tokio::task::spawn_blocking(work);
        tokio::select! {
            done = working => done.unwrap_or_else(|error| Err(BuildFailure::new(FailureReason::Internal, error.to_string()))),
            () = self.asked() => Err(stopped()),
        }
    }
}

/// What work that was stopped says; the run knows why.
pub fn stopped() -> BuildFailure {
    BuildFailure::new(FailureReason::Cancelled, "the build was told to stop")
}

async fn time_is_up(mut clock: watch::Receiver<Clock>, end: Instant) -> StopReason {
    loop {
        let (overdue, has_ended) = {
            let clock = clock.borrow_and_update();
            (clock.overdue(), clock.has_ended())
        };
        let (reason, at) = match overdue {
            Some((phase, at)) if at < end => (StopReason::Overdue(phase), at),
            _ => (StopReason::Timeout, end),
        };
        tokio::select! {
            // Without a sender there is nobody left to stop.
            changed = clock.changed() => if changed.is_err() { std::future::pending::<()>().await },
            () = sleep_until(at.into()), if !has_ended => return reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt;
    use serde_json::json;

    use super::{RunPhase, Stop, StopReason};

    fn stop(deadlines: &serde_json::Value, timeout_seconds: u64) -> Stop {
        let instructions = json!({
            "build": "team/app", "source": { "files": { "files": {} } }, "context": ".", "references": [], "push": false,
            "timeoutSeconds": timeout_seconds, "deadlines": deadlines,
        });
        Stop::new(&serde_json::from_value(instructions).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn work_that_blocks_is_left_behind_at_the_deadline_of_its_phase() {
        let mut stop = stop(&json!({ "source": 1 }), 3600);
        stop.enter(RunPhase::Source);
        let (release, blocked) = mpsc::channel::<()>();
        let left = stop.unless_asked(move || Ok(blocked.recv())).await;
        assert!(left.is_err());
        assert_eq!(stop.reason(), Some(StopReason::Overdue(RunPhase::Source)));
        drop(release);
    }

    #[tokio::test]
    async fn the_timeout_counts_where_it_comes_first_and_not_once_the_image_is_there() {
        let mut late = stop(&json!({ "build": 3600 }), 1);
        late.enter(RunPhase::Build);
        late.asked().await;
        assert_eq!(late.reason(), Some(StopReason::Timeout));
        assert!(
            late.told().now_or_never().is_none(),
            "an image that came at the last moment is still given to its client"
        );
        let mut ended = stop(&json!({ "build": 1 }), 1);
        ended.enter(RunPhase::Build);
        ended.end();
        // The other clock is as long as both of its own.
        let mut other = stop(&json!({}), 2);
        tokio::select! {
            () = ended.asked() => panic!("stopped after its end"),
            () = other.asked() => {}
        }
    }
}
