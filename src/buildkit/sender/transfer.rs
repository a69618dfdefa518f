//! One transfer: answers the daemon's packets and runs the threads that walk and read.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tonic::Status;

use super::super::proto::fsutil::types::{Packet, packet::PacketType};
use super::directory::Directory;
use super::error::SendError;
use super::files::Files;
use super::outgoing::Outgoing;
use super::progress::{Progress, Sent};
use super::read::answer_requests;
use super::selection::Selection;
use super::walk::announce_entries;

/// Packets that are handled before readers are started.
const MAX_PACKETS_AT_ONCE: usize = 1024;
/// Length to which an error of the daemon is cut.
const MAX_ERROR_BYTES: usize = 4096;

/// Sends the selected entries of a directory to the daemon.
///
/// Returns when the daemon has confirmed that it has all files. The stream that belongs to
/// `outgoing` ends with success or with the status of the error. Dropping the future cancels the
/// transfer.
pub async fn send(
    directory: Arc<Directory>,
    selection: Selection,
    incoming: impl Stream<Item = Result<Packet, Status>>,
    outgoing: Outgoing,
    progress: Arc<Progress>,
) -> Result<Sent, SendError> {
    let Outgoing { batches, outcome } = outgoing;
    let transfer = Arc::new(Transfer {
        directory,
        files: Files::default(),
        batches,
        progress,
        own_progress: Progress::default(),
        is_stopped: AtomicBool::new(false),
    });
    let _stop = StopOnDrop(Arc::clone(&transfer));
    let result = transfer.run(selection, incoming).await;
    // The receiver is dropped if the stream has ended.
    drop(outcome.send(result.as_ref().map(|_| ()).map_err(SendError::status)));
    result
}

/// What the threads of a transfer share.
pub(super) struct Transfer {
    pub(super) directory: Arc<Directory>,
    pub(super) files: Files,
    batches: mpsc::Sender<Vec<Packet>>,
    progress: Arc<Progress>,
    own_progress: Progress,
    is_stopped: AtomicBool,
}

/// Stops the threads when the transfer ends for any reason.
struct StopOnDrop(Arc<Transfer>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.is_stopped.store(true, Ordering::Relaxed);
    }
}

type Tasks = JoinSet<Result<(), SendError>>;

impl Transfer {
    async fn run(
        self: &Arc<Self>,
        selection: Selection,
        incoming: impl Stream<Item = Result<Packet, Status>>,
    ) -> Result<Sent, SendError> {
        let mut tasks = JoinSet::new();
        let transfer = Arc::clone(self);
        tasks.spawn_blocking(move || announce_entries(&transfer, &selection));
        let mut incoming = pin!(incoming);
        loop {
            let packet = tokio::select! {
                biased;
                Some(finished) = tasks.join_next() => {
                    flatten(finished)?;
                    continue;
                }
                packet = incoming.next() => packet,
                () = self.batches.closed() => return Err(closed()),
            };
            let mut is_finished = self.handle(packet)?;
            for _ in 0..MAX_PACKETS_AT_ONCE {
                if is_finished {
                    break;
                }
                let Some(packet) = incoming.next().now_or_never() else { break };
                is_finished = self.handle(packet)?;
            }
            if is_finished {
                return self.finish(tasks).await;
            }
            self.start_readers(&mut tasks);
        }
    }

    /// Handles a packet of the daemon. Returns whether the daemon has all files.
    fn handle(&self, packet: Option<Result<Packet, Status>>) -> Result<bool, SendError> {
        let packet = match packet {
            None => {
                let text = "the stream ended before the transfer was complete";
                return Err(SendError::Disconnected(text.to_owned()));
            }
            Some(Err(status)) => return Err(SendError::Disconnected(status.message().to_owned())),
            Some(Ok(packet)) => packet,
        };
        match PacketType::try_from(packet.r#type) {
            Ok(PacketType::PacketReq) => {
                if packet.stat.is_some() || !packet.data.is_empty() {
                    return Err(SendError::Protocol("REQ with content".to_owned()));
                }
                self.files.request(packet.id)?;
                Ok(false)
            }
            Ok(PacketType::PacketFin) => self.files.check_finished().map(|()| true),
            Ok(PacketType::PacketErr) => {
                let text = &packet.data[..packet.data.len().min(MAX_ERROR_BYTES)];
                Err(SendError::Rejected(String::from_utf8_lossy(text).into_owned()))
            }
            Ok(other) => {
                let text = format!("unexpected {}", other.as_str_name());
                Err(SendError::Protocol(text))
            }
            Err(_) => {
                let text = format!("unknown packet type {}", packet.r#type);
                Err(SendError::Protocol(text))
            }
        }
    }

    fn start_readers(self: &Arc<Self>, tasks: &mut Tasks) {
        for _ in 0..self.files.claim_readers() {
            let transfer = Arc::clone(self);
            tasks.spawn_blocking(move || answer_requests(&transfer));
        }
    }

    async fn finish(&self, mut tasks: Tasks) -> Result<Sent, SendError> {
        while let Some(finished) = tasks.join_next().await {
            flatten(finished)?;
        }
        let fin = Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() };
        self.batches.send(vec![fin]).await.map_err(|_| closed())?;
        Ok(self.own_progress.sent())
    }

    /// Sends packets from a thread of the transfer. Waits while the daemon is slow.
    pub(super) fn send_batch(&self, batch: Vec<Packet>) -> Result<(), SendError> {
        self.check_stopped()?;
        self.batches.blocking_send(batch).map_err(|_| closed())
    }

    /// Fails if the transfer has ended for another reason.
    pub(super) fn check_stopped(&self) -> Result<(), SendError> {
        if self.is_stopped.load(Ordering::Relaxed) { Err(closed()) } else { Ok(()) }
    }

    /// Counts what was sent, for this transfer and for the caller's progress.
    pub(super) fn count(&self, add: impl Fn(&Progress)) {
        add(&self.progress);
        add(&self.own_progress);
    }
}

fn closed() -> SendError {
    SendError::Disconnected("the stream was closed".to_owned())
}

fn flatten(finished: Result<Result<(), SendError>, JoinError>) -> Result<(), SendError> {
    finished.unwrap_or_else(|error| Err(SendError::Panicked(error.to_string())))
}
