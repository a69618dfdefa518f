//! The channel between the threads that read files and the gRPC stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use futures::{FutureExt as _, Stream};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::super::proto::fsutil::types::Packet;

/// Batches in the channel. A batch holds about 128 KiB.
const MAX_QUEUED_BATCHES: usize = 16;

/// The sending end, which belongs to one transfer.
pub struct Outgoing {
    pub(super) batches: mpsc::Sender<Vec<Packet>>,
    pub(super) outcome: oneshot::Sender<Result<(), Status>>,
}

/// The packets of a transfer, as the body of the gRPC response.
///
/// A failed transfer ends with its status at once; packets still in the channel are dropped.
pub struct Packets {
    batches: mpsc::Receiver<Vec<Packet>>,
    current: vec::IntoIter<Packet>,
    outcome: Option<oneshot::Receiver<Result<(), Status>>>,
}

/// Creates the channel of one transfer.
pub fn channel() -> (Outgoing, Packets) {
    let (sender, batches) = mpsc::channel(MAX_QUEUED_BATCHES);
    let (outcome_sender, outcome) = oneshot::channel();
    let packets = Packets { batches, current: Vec::new().into_iter(), outcome: Some(outcome) };
    (Outgoing { batches: sender, outcome: outcome_sender }, packets)
}

impl Stream for Packets {
    type Item = Result<Packet, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(outcome) = &mut self.outcome
            && let Poll::Ready(outcome) = outcome.poll_unpin(context)
        {
            self.outcome = None;
            let outcome =
                outcome.unwrap_or_else(|_| Err(Status::cancelled("the transfer was cancelled")));
            if let Err(status) = outcome {
                self.batches.close();
                while self.batches.try_recv().is_ok() {}
                self.current = Vec::new().into_iter();
                return Poll::Ready(Some(Err(status)));
            }
        }
        loop {
            if let Some(packet) = self.current.next() {
                return Poll::Ready(Some(Ok(packet)));
            }
            match ready!(self.batches.poll_recv(context)) {
                Some(batch) => self.current = batch.into_iter(),
                // The channel can close just before the outcome arrives.
                None if self.outcome.is_some() => return Poll::Pending,
                None => return Poll::Ready(None),
            }
        }
    }
}
