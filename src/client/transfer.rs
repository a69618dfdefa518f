//! Sends the source to a build's pod and fetches its files, and goes on where a broken connection ended. No wait is without an
//! end but those for the pod to start and for the build to end: whoever waits for these knows when they are in vain.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{
    outage::FORBIDDEN,
    packing::Packing,
    pieces::{Chunk, write_pieces},
    tunnel::{RequestBody, STILL, Tunnel, TunnelError, body_of, document, question, request},
};
use crate::runner::{
    result::BuildResult,
    transfer::{Finish, Received, TOKEN_HEADER},
    unpack::{Devices, unpack_stream},
};

/// How long a transfer may stand still before it is given up.
const PATIENCE: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(300);
/// How soon, and later how often, a pod is asked that does not answer yet.
const KNOCKS: (Duration, Duration) = (Duration::from_millis(60), Duration::from_secs(1));
/// Connections that bring one file, and the bytes of each question.
const STREAMS: u64 = 3;
const PIECE: u64 = 16 << 20;
/// Bytes that are handed to the file's writer at once: to wake it for each that arrive costs more than to write them.
const BATCH: u64 = 1 << 19;

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The runner could not be asked.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// A file here could not be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The build ended before its files could be fetched.
    #[error("the build ended before its files could be fetched")]
    Ended,
    /// What arrived is not what was sent.
    #[error("{path}: the SHA-256 of what arrived is {found}, and should be {expected}")]
    Checksum {
        /// The file.
        path: PathBuf,
        /// What arrived.
        found: String,
        /// What was sent.
        expected: String,
    },
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> TransferError + '_ {
    move |error| TransferError::File { path: path.to_owned(), error }
}

/// Decides how long something that fails is tried again.
struct Patience {
    position: u64,
    moved: Instant,
    forbidden: Option<Instant>,
}

impl Patience {
    fn new() -> Self {
        Self { position: 0, moved: Instant::now(), forbidden: None }
    }

    /// The transfer has come so far.
    fn reached(&mut self, position: u64) {
        if position > self.position {
            (self.position, self.moved) = (position, Instant::now());
        }
    }

    /// Whether another try is worth it after this error.
    fn bears(&mut self, error: &TunnelError) -> bool {
        self.is_let_in(error)
            && (error.may_pass() || is_again(error))
            && self.moved.elapsed() < PATIENCE
    }

    /// Whether the API server may yet let this account through.
    fn is_let_in(&mut self, error: &TunnelError) -> bool {
        self.forbidden = error.is_forbidden().then(|| self.forbidden.unwrap_or_else(Instant::now));
        self.forbidden.is_none_or(|since| since.elapsed() < FORBIDDEN)
    }
}

/// A pod whose runner waits for its client.
pub struct Transfer {
    pods: Api<Pod>,
    pod: String,
    token: String,
    /// The connection that was used last, if it is still good.
    tunnel: Option<Tunnel>,
}

impl Transfer {
    /// The runner of a pod, which need not be there yet, and the token of its client.
    pub fn new(pods: Api<Pod>, pod: String, token: &str) -> Self {
        Self { pods, pod, token: token.to_owned(), tunnel: None }
    }

    async fn ask(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TunnelError> {
        if let Ok(token) = self.token.parse() {
            request.headers_mut().insert(TOKEN_HEADER, token);
        }
        let mut tunnel = match self.tunnel.take().filter(Tunnel::is_open) {
            Some(tunnel) => tunnel,
            None => Tunnel::open(&self.pods, &self.pod).await?,
        };
        let response = tunnel.ask(request).await?;
        self.tunnel = Some(tunnel);
        Ok(response)
    }

    /// Asks what is answered at once.
    async fn ask_briefly(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TunnelError> {
        timeout(STILL, self.ask(request)).await.unwrap_or(Err(TunnelError::Still))
    }

    /// Waits, without an end, until the pod's runner listens.
    pub async fn reach(&mut self) -> Result<(), TransferError> {
        let (mut pause, longest) = KNOCKS;
        let mut patience = Patience::new();
        loop {
            match self.received().await {
                Ok(_)
                | Err(TransferError::Tunnel(TunnelError::Refused {
                    status: StatusCode::GONE,
                    ..
                })) => return Ok(()),
                Err(TransferError::Tunnel(error))
                    if patience.is_let_in(&error) && error.may_pass() =>
                {
                    tokio::time::sleep(pause).await;
                    pause = longest.min(pause.mul_f64(1.1));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn received(&mut self) -> Result<u64, TransferError> {
        let answer = document(self.ask_briefly(question("GET", "/upload")?).await?).await?;
        Ok(serde_json::from_slice::<Received>(&answer).unwrap_or_default().received)
    }

    /// Sends a source, while it is packed, or as much of it as the runner wants. It does not end for one that cannot be packed.
    pub async fn upload(&mut self, source: &Packing) -> Result<(), TransferError> {
        let mut patience = Patience::new();
        loop {
            match self.try_upload(source, &mut patience).await {
                Err(TransferError::Tunnel(TunnelError::Refused { status, .. }))
                    if wants_no_more(status) =>
                {
                    return Ok(());
                }
                Err(TransferError::Tunnel(error)) if patience.bears(&error) => {
                    tokio::time::sleep(PAUSE).await;
                }
                ended => return ended,
            }
        }
    }

    async fn try_upload(
        &mut self,
        source: &Packing,
        patience: &mut Patience,
    ) -> Result<(), TransferError> {
        let received = self.received().await?;
        patience.reached(received);
        if !source.is_packed() {
            // What has not been packed cannot be sent, and the runner waits for it.
            patience.moved = Instant::now();
        }
        let sent = Arc::new(AtomicU64::new(received));
        let counter = sent.clone();
        let chunks = source.chunks(received).map_ok(move |chunk| {
            counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            Frame::data(chunk)
        });
        let body = BodyExt::boxed_unsync(StreamBody::new(chunks));
        let asked = self
            .ask_while_moving(request("PUT", &format!("/upload?offset={received}"), body)?, &sent)
            .await;
        patience.reached(sent.load(Ordering::Relaxed));
        asked?;
        let Ok(archive) = source.archive().await else { return std::future::pending().await };
        let finish = Finish { size: archive.size, sha256: archive.sha256 };
        let finish =
            serde_json::to_vec(&finish).map_err(|error| TunnelError::Broken(error.to_string()))?;
        loop {
            let asked = request("POST", "/upload/finish", body_of(finish.clone()))?;
            // Unpacking may take longer than the sending did; the runner answers meanwhile.
            if self.ask_briefly(asked).await?.status() != StatusCode::ACCEPTED {
                return Ok(());
            }
        }
    }

    /// Asks with a long body: for as long as its bytes move.
    async fn ask_while_moving(
        &mut self,
        request: Request<RequestBody>,
        sent: &AtomicU64,
    ) -> Result<(), TunnelError> {
        let mut asking = Box::pin(self.ask(request));
        let mut before = sent.load(Ordering::Relaxed);
        loop {
            if let Ok(answer) = timeout(STILL, &mut asking).await {
                return answer.map(drop);
            }
            let now = sent.load(Ordering::Relaxed);
            if now == before {
                return Err(TunnelError::Still);
            }
            before = now;
        }
    }

    /// Waits for the build's end and brings its result, over broken connections.
    pub async fn result(&mut self) -> Result<BuildResult, TransferError> {
        let mut patience = Patience::new();
        loop {
            match self.try_result().await {
                Ok(Some(result)) => return Ok(result),
                // The runner answers: the build goes on.
                Ok(None) => patience = Patience::new(),
                Err(TransferError::Tunnel(error))
                    if patience.is_let_in(&error) && error.may_pass() =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_result(&mut self) -> Result<Option<BuildResult>, TransferError> {
        let answer = self.ask_briefly(question("GET", "/result")?).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let result = serde_json::from_slice(&document(answer).await?);
        Ok(Some(
            result.map_err(|error| {
                TunnelError::Broken(format!("its result cannot be read: {error}"))
            })?,
        ))
    }

    /// Brings a file of the output, whole and checked or not at all: it gets its name when its SHA-256 is right.
    pub async fn download(
        &self,
        name: &str,
        to: &Path,
        size: u64,
        sha256: &str,
    ) -> Result<(), TransferError> {
        let partial = partial_name(to);
        let fetched = self.fetch(name, &partial, to, size, sha256).await;
        if fetched.is_err() {
            let _ = tokio::fs::remove_file(&partial).await;
        }
        fetched
    }

    async fn fetch(
        &self,
        name: &str,
        partial: &Path,
        to: &Path,
        size: u64,
        sha256: &str,
    ) -> Result<(), TransferError> {
        let (chunks, writer) = write_pieces(partial).map_err(file_error(to))?;
        let pieces = AtomicU64::new(0);
        let streams = (0..STREAMS.min(size.div_ceil(PIECE))).map(|_| async {
            let mut stream = Self::new(self.pods.clone(), self.pod.clone(), &self.token);
            stream.fetch_pieces(name, &pieces, size, &chunks).await
        });
        futures::future::try_join_all(streams).await?;
        drop(chunks);
        let found = writer.await.map_err(io::Error::other).flatten().map_err(file_error(to))?;
        if found != sha256 {
            return Err(TransferError::Checksum {
                path: to.to_owned(),
                found,
                expected: sha256.to_owned(),
            });
        }
        tokio::fs::rename(partial, to).await.map_err(file_error(to))
    }

    /// Brings one piece after the other, whichever is next.
    async fn fetch_pieces(
        &mut self,
        name: &str,
        pieces: &AtomicU64,
        size: u64,
        chunks: &mpsc::Sender<Chunk>,
    ) -> Result<(), TransferError> {
        let (mut patience, mut fetched) = (Patience::new(), 0);
        loop {
            let mut from = pieces.fetch_add(PIECE, Ordering::Relaxed);
            let end = size.min(from + PIECE);
            while from < end {
                let before = from;
                match self.try_fetch(name, &mut from, end, chunks).await {
                    Ok(()) => {}
                    // The writer is gone: it knows why.
                    Err(TransferError::Ended) => return Ok(()),
                    Err(TransferError::Tunnel(error)) => {
                        fetched += from - before;
                        patience.reached(fetched);
                        if !patience.bears(&error) {
                            return Err(error.into());
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(error) => return Err(error),
                }
            }
            if end == size {
                return Ok(());
            }
            fetched += PIECE;
            patience.reached(fetched);
        }
    }

    async fn try_fetch(
        &mut self,
        name: &str,
        from: &mut u64,
        end: u64,
        chunks: &mpsc::Sender<Chunk>,
    ) -> Result<(), TransferError> {
        let mut asked = question("GET", &format!("/files/{name}"))?;
        if let Ok(range) = format!("bytes={from}-{}", end - 1).parse() {
            asked.headers_mut().insert(hyper::header::RANGE, range);
        }
        let mut body = self.ask_briefly(asked).await?.into_body();
        let (mut parts, mut batch) = (Vec::new(), 0);
        while let Some(frame) =
            timeout(STILL, body.frame()).await.map_err(|_| TunnelError::Still)?
        {
            let frame = frame.map_err(super::tunnel::broken)?;
            let Ok(bytes) = frame.into_data() else { continue };
            batch += bytes.len() as u64;
            parts.push(bytes);
            if batch >= BATCH || *from + batch >= end {
                let chunk = Chunk { at: *from, parts: std::mem::take(&mut parts) };
                *from += std::mem::take(&mut batch);
                chunks.send(chunk).await.map_err(|_| TransferError::Ended)?;
            }
        }
        if *from < end {
            Err(TunnelError::Broken("the file ended early".to_owned()).into())
        } else {
            Ok(())
        }
    }

    /// Brings a small file of the output.
    pub async fn document(&mut self, name: &str) -> Result<Vec<u8>, TransferError> {
        let mut patience = Patience::new();
        loop {
            match self.try_document(name).await {
                Err(TransferError::Tunnel(error)) if patience.bears(&error) => {
                    tokio::time::sleep(PAUSE).await;
                }
                ended => return ended,
            }
        }
    }

    async fn try_document(&mut self, name: &str) -> Result<Vec<u8>, TransferError> {
        let answer = self.ask_briefly(question("GET", &format!("/files/{name}"))?).await?;
        Ok(document(answer).await?)
    }

    /// Brings a folder of the output into a new folder; nothing is left of one that did not come whole.
    pub async fn folder(&mut self, name: &str, to: &Path) -> Result<(), TransferError> {
        let partial = partial_name(to);
        let mut patience = Patience::new();
        loop {
            match self.try_folder(name, &partial).await {
                Ok(()) => return tokio::fs::rename(&partial, to).await.map_err(file_error(to)),
                Err(error) => {
                    let _ = tokio::fs::remove_dir_all(&partial).await;
                    match error {
                        // From the beginning: a tar that is made while it is sent has no ranges.
                        TransferError::Tunnel(error) if patience.bears(&error) => {
                            tokio::time::sleep(PAUSE).await;
                        }
                        error => return Err(error),
                    }
                }
            }
        }
    }

    async fn try_folder(&mut self, name: &str, partial: &Path) -> Result<(), TransferError> {
        let body =
            self.ask_briefly(question("GET", &format!("/folders/{name}"))?).await?.into_body();
        // An error of the connection comes out of the unpacking as if it were one of a file.
        let broken = Arc::new(OnceLock::new());
        let noted = broken.clone();
        let chunks = moving_chunks(body).map_err(move |error| {
            let _ = noted.set(error.to_string());
            io::Error::other(error)
        });
        let mut reader = SyncIoBridge::new(StreamReader::new(Box::pin(chunks)));
        let folder = partial.to_owned();
        let unpacking = tokio::task::spawn_blocking(move || {
            std::fs::create_dir(&folder)?;
            // Whom its files belong to the pod does not know: here they belong to the task, as those of an input do.
            unpack_stream(&mut reader, &folder, Devices::Refuse)?;
            io::copy(&mut reader, &mut io::sink()).map(drop)
        });
        let unpacked = unpacking.await.map_err(io::Error::other).flatten();
        match broken.get() {
            Some(words) => Err(TunnelError::Broken(words.clone()).into()),
            None => unpacked.map_err(file_error(partial)),
        }
    }

    /// The pod may end: everything that is wanted is here. A runner that is gone has heard it.
    pub async fn done(&mut self) {
        let mut patience = Patience::new();
        loop {
            let Ok(question) = question("POST", "/fetched") else { return };
            match self.ask_briefly(question).await {
                Err(error) if patience.bears(&error) => tokio::time::sleep(PAUSE).await,
                _ => return,
            }
        }
    }
}

/// The bytes of an answer; an error if they stand still.
fn moving_chunks(body: Incoming) -> impl futures::Stream<Item = Result<Bytes, TunnelError>> + Send {
    futures::stream::try_unfold(body.into_data_stream(), |mut chunks| async move {
        match timeout(STILL, chunks.next()).await {
            Ok(Some(Ok(chunk))) => Ok(Some((chunk, chunks))),
            Ok(Some(Err(error))) => Err(super::tunnel::broken(error)),
            Ok(None) => Ok(None),
            Err(_) => Err(TunnelError::Still),
        }
    })
}

/// After a wrong sum the archive is sent again from its begin; where the runner has more than was thought it is asked again.
fn is_again(error: &TunnelError) -> bool {
    matches!(
        error,
        TunnelError::Refused {
            status: StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY,
            ..
        }
    )
}

/// The runner has everything, and the answer that said so was lost; or the build ends before its source is there, and says why.
fn wants_no_more(status: StatusCode) -> bool {
    matches!(status, StatusCode::GONE | StatusCode::INSUFFICIENT_STORAGE)
}

/// Name of a file or folder that is not whole yet.
pub fn partial_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    path.with_file_name(format!(".{name}.partial"))
}
