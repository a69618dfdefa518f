//! Exports that the daemon streams to the client: the tar of an image, or of a filesystem.
//!
//! HTTP/2 flow control reaches the daemon: it waits while a slow disk holds back the consumer, and
//! neither side's memory grows.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf, Bytes};
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio_stream::Empty;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};

use super::FirstError;
use crate::buildkit::{
    error::SolveError,
    proto::moby::filesync::v1::{BytesMessage, file_send_server::FileSend},
};

const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
/// Bytes that are handed to the consumer at once: waking its thread for each message of 32 KiB
/// costs more than the rest of the work.
const BATCH_BYTES: usize = 512 << 10;
/// Messages of a batch, which may be empty.
const MAX_BATCH_MESSAGES: usize = 256;
/// Batches that wait for the consumer.
const QUEUED_BATCHES: usize = 2;

/// Reads an export to its end on a blocking thread.
pub type Consumer = Box<dyn FnOnce(ExportReader) -> io::Result<()> + Send>;

enum Batch {
    Data(Vec<Bytes>),
    End,
}

/// The bytes of an export. An aborted stream is an error, not end of file.
pub struct ExportReader {
    batches: mpsc::Receiver<Batch>,
    current: std::vec::IntoIter<Bytes>,
    chunk: Bytes,
    has_ended: bool,
}

impl Read for ExportReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            if let Some(chunk) = self.current.next() {
                self.chunk = chunk;
                continue;
            }
            if self.has_ended {
                return Ok(0);
            }
            match self.batches.blocking_recv() {
                Some(Batch::Data(chunks)) => self.current = chunks.into_iter(),
                Some(Batch::End) => self.has_ended = true,
                None => {
                    let words = "BuildKit aborted the export";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, words));
                }
            }
        }
        let length = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// The consumers of a session.
#[derive(Default)]
pub struct Exports {
    /// Those whose export has not begun.
    waiting: Mutex<BTreeMap<usize, Consumer>>,
    running: TaskTracker,
}

impl Exports {
    pub fn new(consumers: BTreeMap<usize, Consumer>) -> Self {
        Self { waiting: Mutex::new(consumers), running: TaskTracker::new() }
    }

    /// Waits until no consumer runs, and returns the exporter whose export never came.
    pub async fn finish(&self) -> Option<usize> {
        self.running.close();
        self.running.wait().await;
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.keys().next().copied()
    }

    fn take(&self, exporter: usize) -> Result<Consumer, Status> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let consumer = waiting.remove(&exporter);
        consumer.ok_or_else(|| Status::not_found(format!("exporter {exporter} not found")))
    }
}

pub struct ExportService {
    exports: Arc<Exports>,
    first_error: FirstError,
}

impl ExportService {
    pub fn new(exports: Arc<Exports>, first_error: FirstError) -> Self {
        Self { exports, first_error }
    }
}

/// Without the header it is the first exporter, as in BuildKit's own client.
fn exporter_of(metadata: &MetadataMap) -> usize {
    let id = metadata.get(EXPORTER_ID).and_then(|id| id.to_str().ok());
    id.and_then(|id| id.parse().ok()).unwrap_or(0)
}

#[tonic::async_trait]
impl FileSend for ExportService {
    type DiffCopyStream = Empty<Result<BytesMessage, Status>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let exporter = exporter_of(request.metadata());
        let consumer = self.exports.take(exporter)?;
        let (sender, batches) = mpsc::channel(QUEUED_BATCHES);
        let reader = ExportReader {
            batches,
            current: Vec::new().into_iter(),
            chunk: Bytes::new(),
            has_ended: false,
        };
        let consuming = self.exports.running.spawn_blocking(move || consumer(reader));
        let received = forward(request.into_inner(), sender).await;
        let consumed = consuming.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        // After an aborted stream, the consumer's error is only a consequence.
        received?;
        consumed.map_err(|source| {
            let status = Status::new(Code::Aborted, format!("cannot write the export: {source}"));
            self.first_error.record(SolveError::Export { exporter, source });
            status
        })?;
        Ok(Response::new(tokio_stream::empty()))
    }
}

/// Forwards messages until the stream or the consumer ends.
async fn forward(
    mut messages: Streaming<BytesMessage>,
    sender: mpsc::Sender<Batch>,
) -> Result<(), Status> {
    while let Some(message) = messages.message().await? {
        let mut size = message.data.len();
        let mut chunks = vec![message.data];
        let mut is_end = false;
        while size < BATCH_BYTES && chunks.len() < MAX_BATCH_MESSAGES {
            // Take only messages that have arrived.
            let Some(message) = messages.message().now_or_never() else { break };
            let Some(message) = message? else {
                is_end = true;
                break;
            };
            size += message.data.len();
            chunks.push(message.data);
        }
        // The consumer's result gives the reason.
        if sender.send(Batch::Data(chunks)).await.is_err() || is_end {
            break;
        }
    }
    let _ = sender.send(Batch::End).await;
    Ok(())
}
