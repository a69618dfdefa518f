//! Why a run is to stop before its end: asked from outside, or its time is up.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// SIGTERM or SIGINT.
    Cancelled,
    /// The build's timeout.
    Timeout,
}

/// Tells when to stop; each copy tells it.
#[derive(Clone)]
pub struct Stop(watch::Receiver<Option<StopReason>>);

impl Stop {
    /// Listens for signals and starts the clock.
    pub fn new(timeout: Duration) -> std::io::Result<Self> {
        let (sender, receiver) = watch::channel(None);
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(async move {
            let reason = tokio::select! {
                _ = terminate.recv() => StopReason::Cancelled,
                _ = interrupt.recv() => StopReason::Cancelled,
                () = tokio::time::sleep(timeout) => StopReason::Timeout,
            };
            sender.send_replace(Some(reason));
            // Kept, so that those who listen late are told too.
            sender.closed().await;
        });
        Ok(Self(receiver))
    }

    /// Waits until it is time to stop.
    pub async fn asked(&mut self) {
        if self.0.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Why to stop, if it is time to.
    pub fn reason(&self) -> Option<StopReason> {
        *self.0.borrow()
    }
}
