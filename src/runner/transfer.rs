//! Takes the source from a client and gives it the files of the image, over the pod's loopback address: a client comes by
//! port-forward, and so by the API server's leave. Steps of the build share that address, and may leave processes behind: nothing
//! is taken or given while they run, and at no time without the client's token, if it has one.
//!
//! ```text
//! GET  /upload            {"received": bytes}      where an upload goes on after a broken connection
//! PUT  /upload?offset=N   the archive from there on
//! POST /upload/finish     {"size", "sha256"}       all of it is there; 202 while it is still being unpacked
//! GET  /result            the result, or 204 while the build goes on
//! GET  /files/<path>      a file of the output, whole or a range of it (`bytes=N-`, `bytes=N-M`)
//! GET  /folders/<path>    a folder of the output, as a tar
//! POST /fetched           the client has what it wants: the pod may end
//! ```

use std::{
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path as UrlPath, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use futures::{
    FutureExt, Stream, StreamExt, TryStreamExt,
    future::{BoxFuture, Shared},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncSeekExt, SeekFrom},
    net::TcpListener,
    runtime::Handle,
    sync::{Mutex, mpsc, watch},
};
use tokio_util::io::ReaderStream;

use super::{
    folder_tar::append_content,
    locate::below,
    output::remove,
    result::{BuildFailure, BuildResult},
    source::{make_root, not_unpacked},
    stop::{Stop, stopped},
    unpack::unpack_any,
};
use crate::{api::FailureReason, plan::layout};

/// Header with the token of a build's client.
pub const TOKEN_HEADER: &str = "x-ocibuild-token";
/// How long nothing may arrive of a source before nobody is expected to send it any more.
const UPLOAD_PATIENCE: Duration = Duration::from_mins(5);
/// How long a question is held open whose answer takes its time: a connection that died without a word must not look like a long build.
const HELD: Duration = Duration::from_secs(20);
const CHUNK: usize = 1 << 18;
/// Chunks of a source that wait to be unpacked.
const QUEUE: usize = 16;

/// How much of the archive has arrived.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes.
    pub received: u64,
}

/// What a client says when it has sent everything.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Bytes of the archive.
    pub size: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

#[derive(Deserialize)]
struct Offset {
    offset: u64,
}

/// Where a transfer stands.
#[derive(Clone, Debug)]
enum Stage {
    /// The source is awaited.
    Uploading { received: u64 },
    /// All of the source is there.
    Uploaded,
    /// What arrived cannot be kept.
    Refused(BuildFailure),
    /// The build runs, or needs no source from a client.
    Building,
    /// The build has ended; its files can be fetched.
    Ended(Arc<BuildResult>),
    /// The client has what it wants.
    Fetched,
}

/// The transfer of one build.
#[derive(Clone)]
pub struct Transfer {
    stage: watch::Sender<Stage>,
    arriving: Arc<Mutex<Arriving>>,
    /// Counts the uploads that have begun: a new one takes the place of one whose connection died without a word.
    turn: watch::Sender<u64>,
    /// Bytes of files that were given.
    given: Arc<AtomicU64>,
    output: PathBuf,
    /// SHA-256 of the token that every request must bring.
    token: Option<String>,
}

/// The source as far as it has arrived: it is unpacked as it comes, and kept if its sum is right.
struct Arriving {
    root: PathBuf,
    hash: Sha256,
    unpacking: Option<Unpacking>,
}

/// An archive that is being unpacked, over as many connections as it takes.
struct Unpacking {
    /// None once all of it has arrived.
    chunks: Option<mpsc::Sender<Bytes>>,
    /// How it ended, for whoever asks: a client may be cut off while it waits for the answer, and ask again.
    ended: Shared<BoxFuture<'static, Result<(), BuildFailure>>>,
}

impl Arriving {
    /// From the begin; what an archive with a wrong sum left is taken away.
    fn begin(&mut self) {
        self.hash = Sha256::new();
        let (chunks, queue) = mpsc::channel(QUEUE);
        let (root, before) = (self.root.clone(), self.unpacking.take());
        let unpacking = tokio::task::spawn_blocking(move || {
            if let Some(before) = before {
                drop(before.chunks);
                let _ = Handle::current().block_on(before.ended);
            }
            if root.symlink_metadata().is_ok() {
                remove(&root)?;
            }
            make_root(&root)?;
            unpack_any(Queue { queue, chunk: Bytes::new() }, &root)
        });
        let ended =
            async { unpacking.await.map_err(io::Error::other).flatten().map_err(not_unpacked) };
        self.unpacking = Some(Unpacking { chunks: Some(chunks), ended: ended.boxed().shared() });
    }

    /// Waits until what has arrived is unpacked. Nothing is lost when the waiting is cut off.
    async fn end(&mut self) -> Result<(), BuildFailure> {
        let Some(unpacking) = &mut self.unpacking else {
            return Err(not_unpacked(io::ErrorKind::UnexpectedEof.into()));
        };
        unpacking.chunks = None;
        unpacking.ended.clone().await
    }
}

/// Reads what is sent to it.
struct Queue {
    queue: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for Queue {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.queue.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let part = self.chunk.split_to(self.chunk.len().min(buffer.len()));
        buffer[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}

impl Transfer {
    /// Listens on the pod's loopback address. The source, where one is awaited, is unpacked at `source`: it may come while the
    /// daemon still starts. The files are read from `output`.
    pub async fn serve(
        source: Option<&Path>,
        output: &Path,
        token: Option<String>,
    ) -> io::Result<Self> {
        let listener =
            TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, layout::TRANSFER_PORT)).await?;
        let stage = source.map_or(Stage::Building, |_| Stage::Uploading { received: 0 });
        let root = source.unwrap_or(Path::new("")).to_owned();
        let transfer = Self {
            stage: watch::Sender::new(stage),
            arriving: Arc::new(Mutex::new(Arriving { root, hash: Sha256::new(), unpacking: None })),
            turn: watch::Sender::new(0),
            given: Arc::default(),
            output: output.to_owned(),
            token,
        };
        let app = Router::new()
            .route("/upload", get(received))
            .route("/upload", put(receive))
            .route("/upload/finish", post(finish))
            .route("/result", get(result))
            .route("/files/{*path}", get(file))
            .route("/folders/{*path}", get(folder))
            .route("/fetched", post(fetched))
            .layer(middleware::from_fn_with_state(transfer.clone(), only_with_token))
            .with_state(transfer.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(transfer)
    }

    /// Waits until a client has sent the source, and all of it is in its place.
    pub async fn upload(&self, stop: &mut Stop) -> Result<(), BuildFailure> {
        let mut stage = self.stage.subscribe();
        loop {
            let received = match &*stage.borrow_and_update() {
                Stage::Uploaded => return Ok(()),
                Stage::Refused(failure) => return Err(failure.clone()),
                Stage::Uploading { received } => *received,
                _ => 0,
            };
            let changed = tokio::select! {
                changed = tokio::time::timeout(UPLOAD_PATIENCE, stage.changed()) => changed,
                () = stop.asked() => return Err(stopped()),
            };
            if changed.is_err() {
                let minutes = UPLOAD_PATIENCE.as_secs() / 60;
                let message = format!(
                    "no client has sent anything of the source for {minutes} minutes; {received} bytes had arrived"
                );
                return Err(BuildFailure::new(FailureReason::SourceNotFound, message));
            }
        }
    }

    /// What a path of the output leads to, once the build has ended; never out of the output.
    #[allow(clippy::result_large_err, reason = "the error is the answer")]
    fn find(&self, path: &str) -> Result<PathBuf, Response> {
        match *self.stage.borrow() {
            Stage::Ended(_) => {}
            Stage::Fetched => return Err(refused(StatusCode::GONE, "the files have been fetched")),
            _ => return Err(refused(StatusCode::CONFLICT, "the build has not ended")),
        }
        let root = self.output.canonicalize().ok();
        root.and_then(|root| below(&root, Path::new(path)))
            .ok_or_else(|| refused(StatusCode::NOT_FOUND, format!("there is no {path:?}")))
    }

    /// The source is in its place: from here on steps may run, and nothing more is taken.
    pub fn close_upload(&self) {
        self.stage.send_replace(Stage::Building);
    }

    /// Offers the files of a build until a client has fetched them, or has asked for nothing for as long as `patience`.
    pub async fn offer(
        &self,
        result: &BuildResult,
        patience: Duration,
        stop: &mut Stop,
    ) -> Result<(), BuildFailure> {
        self.stage.send_replace(Stage::Ended(Arc::new(result.clone())));
        let mut stage = self.stage.subscribe();
        let mut given = 0;
        loop {
            tokio::select! {
                fetched = tokio::time::timeout(patience, stage.wait_for(|stage| matches!(stage, Stage::Fetched))) => {
                    let before = std::mem::replace(&mut given, self.given.load(Ordering::Relaxed));
                    if fetched.is_ok() {
                        return Ok(());
                    }
                    if given == before {
                        let message = format!("the image was built, but no client fetched its files within {}s", patience.as_secs());
                        return Err(BuildFailure::new(FailureReason::Timeout, message));
                    }
                }
                () = stop.told() => {
                    let message = "the build was told to stop before its files were fetched";
                    return Err(BuildFailure::new(FailureReason::Cancelled, message));
                }
            }
        }
    }
}

fn refused(status: StatusCode, words: impl Into<String>) -> Response {
    (status, words.into()).into_response()
}

async fn only_with_token(
    State(transfer): State<Transfer>,
    request: Request,
    next: Next,
) -> Response {
    let brought = request.headers().get(TOKEN_HEADER).map_or(&[][..], |token| token.as_bytes());
    // What is compared is a sum: how far two of them agree tells nothing of the token.
    let may = transfer
        .token
        .as_ref()
        .is_none_or(|wanted| *wanted == hex::encode(Sha256::digest(brought)));
    if may {
        next.run(request).await
    } else {
        refused(StatusCode::FORBIDDEN, "the build's client alone is served here")
    }
}

/// Who asks is still there: it counts as a sign of life, while a large source is being packed.
async fn received(State(transfer): State<Transfer>) -> Response {
    transfer.stage.send_modify(|_| {});
    match *transfer.stage.borrow() {
        Stage::Uploading { received } => Json(Received { received }).into_response(),
        _ => refused(StatusCode::GONE, "no source is awaited"),
    }
}

/// Appends to the archive. One client at a time, the latest; what it sends must begin where the archive ends.
async fn receive(
    State(transfer): State<Transfer>,
    Query(Offset { offset }): Query<Offset>,
    body: Body,
) -> Response {
    let mut turn = transfer.turn.subscribe();
    transfer.turn.send_modify(|turn| *turn += 1);
    let mine = *turn.borrow_and_update();
    let mut arriving = transfer.arriving.lock().await;
    let Stage::Uploading { received } = *transfer.stage.borrow() else {
        return refused(StatusCode::GONE, "no source is awaited");
    };
    if offset != received || *turn.borrow() != mine {
        return (StatusCode::CONFLICT, Json(Received { received })).into_response();
    }
    let appended = tokio::select! {
        appended = append(&transfer, &mut arriving, received, body) => appended,
        _ = turn.wait_for(|turn| *turn != mine) => return refused(StatusCode::CONFLICT, "another upload has begun"),
    };
    match appended {
        Ok(received) => Json(Received { received }).into_response(),
        Err(failure) => refuse(&transfer, failure),
    }
}

/// Sending it again would not help. The build ends with this reason, and so the client learns it.
fn refuse(transfer: &Transfer, failure: BuildFailure) -> Response {
    transfer.stage.send_replace(Stage::Refused(failure.clone()));
    refused(StatusCode::INSUFFICIENT_STORAGE, failure.message)
}

async fn append(
    transfer: &Transfer,
    arriving: &mut Arriving,
    mut received: u64,
    body: Body,
) -> Result<u64, BuildFailure> {
    if received == 0 {
        arriving.begin();
    }
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        // The client asks how much has arrived, and goes on from there.
        let Ok(chunk) = chunk else { break };
        let Some(to) = arriving.unpacking.as_ref().and_then(|unpacking| unpacking.chunks.clone())
        else {
            break;
        };
        // One permit first: a chunk counts once, whenever this is cut off.
        let Ok(permit) = to.reserve().await else {
            arriving.end().await?;
            return Err(not_unpacked(io::Error::other("there is more behind the archive's end")));
        };
        arriving.hash.update(&chunk);
        received += chunk.len() as u64;
        permit.send(chunk);
        transfer.stage.send_if_modified(|stage| match stage {
            Stage::Uploading { received: shown } => {
                *shown = received;
                true
            }
            _ => false,
        });
    }
    Ok(received)
}

async fn finish(State(transfer): State<Transfer>, Json(finish): Json<Finish>) -> Response {
    let mut arriving = transfer.arriving.lock().await;
    let Stage::Uploading { received } = *transfer.stage.borrow() else {
        return refused(StatusCode::GONE, "no source is awaited");
    };
    if received != finish.size {
        return (StatusCode::CONFLICT, Json(Received { received })).into_response();
    }
    let found = hex::encode(arriving.hash.clone().finalize());
    if found != finish.sha256 {
        // From the beginning: which part is wrong nobody knows.
        transfer.stage.send_replace(Stage::Uploading { received: 0 });
        return refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("the SHA-256 of what arrived is {found}"),
        );
    }
    match tokio::time::timeout(HELD, arriving.end()).await {
        Ok(Ok(())) => {
            transfer.stage.send_replace(Stage::Uploaded);
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(Err(failure)) => refuse(&transfer, failure),
        Err(_) => {
            // Who waits for it is there.
            transfer.stage.send_modify(|_| {});
            StatusCode::ACCEPTED.into_response()
        }
    }
}

async fn result(State(transfer): State<Transfer>) -> Response {
    let mut stage = transfer.stage.subscribe();
    let ended = stage.wait_for(|stage| matches!(stage, Stage::Ended(_) | Stage::Fetched));
    let Ok(ended) = tokio::time::timeout(HELD, ended).await else {
        return StatusCode::NO_CONTENT.into_response();
    };
    match ended.as_deref() {
        Ok(Stage::Ended(result)) => Json(result.as_ref()).into_response(),
        _ => refused(StatusCode::GONE, "the files have been fetched"),
    }
}

async fn file(
    State(transfer): State<Transfer>,
    UrlPath(path): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    match transfer.find(&path) {
        Ok(found) if found.is_file() => {
            let sent = send(&found, &headers, transfer.given.clone()).await;
            sent.unwrap_or_else(|error| {
                refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            })
        }
        Ok(_) => refused(StatusCode::NOT_FOUND, format!("{path:?} is not a file")),
        Err(refused) => refused,
    }
}

async fn folder(State(transfer): State<Transfer>, UrlPath(path): UrlPath<String>) -> Response {
    match transfer.find(&path) {
        Ok(found) if found.is_dir() => pack(found, transfer.given.clone()),
        Ok(_) => refused(StatusCode::NOT_FOUND, format!("{path:?} is not a folder")),
        Err(refused) => refused,
    }
}

/// A folder as a tar that is made while it is sent.
fn pack(folder: PathBuf, given: Arc<AtomicU64>) -> Response {
    let (sender, mut chunks) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(8);
    tokio::task::spawn_blocking(move || {
        let packed = || -> io::Result<()> {
            let mut builder =
                tar::Builder::new(BufWriter::with_capacity(CHUNK, ChunkWriter(sender.clone())));
            builder.follow_symlinks(false);
            append_content(&mut builder, &folder)?;
            builder.into_inner()?.flush()
        };
        if let Err(error) = packed() {
            // The connection breaks, so that half a folder is not taken for a whole one.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let chunks = futures::stream::poll_fn(move |context| chunks.poll_recv(context));
    Body::from_stream(counted(chunks, given)).into_response()
}

struct ChunkWriter(tokio::sync::mpsc::Sender<io::Result<Bytes>>);

impl Write for ChunkWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(buffer)));
        sent.map(|()| buffer.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts what is given.
fn counted(
    chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    given: Arc<AtomicU64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    chunks.inspect_ok(move |chunk| {
        given.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    })
}

/// A file, or the range of it that is asked for.
async fn send(path: &Path, headers: &HeaderMap, given: Arc<AtomicU64>) -> io::Result<Response> {
    let mut file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).and_then(range);
    let (from, to) = asked.unwrap_or((0, u64::MAX));
    let (from, to) = (from.min(size), to.min(size));
    file.seek(SeekFrom::Start(from)).await?;
    let length = to.saturating_sub(from);
    let status = if length == size { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
    let body =
        Body::from_stream(counted(ReaderStream::with_capacity(file.take(length), CHUNK), given));
    Ok((status, [(header::CONTENT_LENGTH, length.to_string())], body).into_response())
}

/// `bytes=N-` and `bytes=N-M`, where M is the last byte, as the first byte and the one behind the last.
fn range(text: &str) -> Option<(u64, u64)> {
    let (from, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = if last.is_empty() { u64::MAX } else { last.parse::<u64>().ok()?.saturating_add(1) };
    Some((from.parse().ok()?, end))
}

async fn fetched(State(transfer): State<Transfer>) -> Response {
    transfer.stage.send_if_modified(|stage| {
        let has_ended = matches!(stage, Stage::Ended(_));
        if has_ended {
            *stage = Stage::Fetched;
        }
        has_ended
    });
    // A client that did not hear the answer says it again.
    match *transfer.stage.borrow() {
        Stage::Fetched => StatusCode::NO_CONTENT.into_response(),
        _ => refused(StatusCode::CONFLICT, "the build has not ended"),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, path::Path};

    use axum::{
        body::{Body, Bytes},
        extract::{Query, State},
    };
    use serde_json::json;
    use sha2::{Digest, Sha256};
    use tokio::sync::{Mutex, watch};

    use super::{
        Arriving, BuildFailure, BuildResult, Finish, Json, Offset, Stage, StatusCode, Stop,
        Transfer, fetched, finish, receive,
    };
    use crate::api::FailureReason;

    fn transfer(root: &Path) -> Transfer {
        Transfer {
            stage: watch::Sender::new(Stage::Uploading { received: 0 }),
            arriving: Mutex::new(Arriving {
                root: root.to_owned(),
                hash: Sha256::new(),
                unpacking: None,
            })
            .into(),
            turn: watch::Sender::new(0),
            given: std::sync::Arc::default(),
            output: root.to_owned(),
            token: None,
        }
    }

    fn archive(name: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &b"hello"[..]).unwrap();
        builder.into_inner().unwrap().finish().unwrap()
    }

    async fn put(transfer: &Transfer, offset: u64, bytes: &[u8]) -> StatusCode {
        let body = Body::from(Bytes::copy_from_slice(bytes));
        receive(State(transfer.clone()), Query(Offset { offset }), body).await.status()
    }

    async fn end(transfer: &Transfer, bytes: &[u8], sum: &[u8]) -> StatusCode {
        let sha256 = hex::encode(Sha256::digest(sum));
        finish(State(transfer.clone()), Json(Finish { size: bytes.len() as u64, sha256 }))
            .await
            .status()
    }

    #[tokio::test]
    async fn a_source_comes_in_pieces_and_again_after_a_wrong_sum() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("source");
        let transfer = transfer(&root);
        let (other, bytes) = (archive("other"), archive("file"));
        assert_eq!(put(&transfer, 0, &other).await, StatusCode::OK);
        assert_eq!(end(&transfer, &other, b"not that").await, StatusCode::UNPROCESSABLE_ENTITY);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        assert_eq!(put(&transfer, 7, first).await, StatusCode::CONFLICT);
        assert_eq!(put(&transfer, 0, first).await, StatusCode::OK);
        assert_eq!(
            end(&transfer, &bytes, &bytes).await,
            StatusCode::CONFLICT,
            "half of it is not all of it"
        );
        assert_eq!(put(&transfer, first.len() as u64, second).await, StatusCode::OK);
        assert_eq!(end(&transfer, &bytes, &bytes).await, StatusCode::NO_CONTENT);
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "hello");
        assert!(!root.join("other").exists(), "nothing is left of what had a wrong sum");
        assert_eq!(put(&transfer, 0, &bytes).await, StatusCode::GONE);
    }

    #[tokio::test]
    async fn a_client_that_is_cut_off_while_it_waits_for_the_end_asks_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("source");
        let transfer = transfer(&root);
        let bytes = archive("file");
        assert_eq!(put(&transfer, 0, &bytes).await, StatusCode::OK);
        let mut cut_off = Box::pin(end(&transfer, &bytes, &bytes));
        assert!(futures::poll!(&mut cut_off).is_pending(), "it is unpacked by another thread");
        drop(cut_off);
        assert_eq!(put(&transfer, bytes.len() as u64, b"").await, StatusCode::OK);
        assert_eq!(end(&transfer, &bytes, &bytes).await, StatusCode::NO_CONTENT);
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_client_may_say_twice_that_it_has_all_files() {
        let folder = tempfile::tempdir().unwrap();
        let transfer = transfer(folder.path());
        assert_eq!(fetched(State(transfer.clone())).await.status(), StatusCode::CONFLICT);
        let failure = BuildFailure::new(FailureReason::Internal, "");
        transfer.stage.send_replace(Stage::Ended(BuildResult::failed(failure).into()));
        for _ in 0..2 {
            assert_eq!(fetched(State(transfer.clone())).await.status(), StatusCode::NO_CONTENT);
        }
        assert_eq!(transfer.find("image.tar").unwrap_err().status(), StatusCode::GONE);
    }

    #[tokio::test]
    async fn a_source_that_came_while_the_daemon_started_is_not_awaited_again() {
        let folder = tempfile::tempdir().unwrap();
        let transfer = transfer(&folder.path().join("source"));
        let bytes = archive("file");
        assert_eq!(put(&transfer, 0, &bytes).await, StatusCode::OK);
        assert_eq!(end(&transfer, &bytes, &bytes).await, StatusCode::NO_CONTENT);
        let instructions = json!({
            "build": "team/app", "source": { "upload": {} }, "context": ".", "references": [], "push": false, "timeoutSeconds": 3600,
        });
        let mut stop = Stop::new(&serde_json::from_value(instructions).unwrap()).unwrap();
        transfer.upload(&mut stop).await.unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_unpacked_ends_the_build_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut escaping = tar::Header::new_gnu();
        escaping.as_old_mut().name[..4].copy_from_slice(b"../x");
        escaping.set_size(0);
        escaping.set_cksum();
        let escaping = [escaping.as_bytes().as_slice(), &[0; 1024]].concat();
        for bytes in [escaping, b"no archive".to_vec(), Vec::new()] {
            let transfer = transfer(&folder.path().join("source"));
            put(&transfer, 0, &bytes).await;
            assert_eq!(end(&transfer, &bytes, &bytes).await, StatusCode::INSUFFICIENT_STORAGE);
            let Stage::Refused(failure) = transfer.stage.borrow().clone() else {
                panic!("it was taken")
            };
            assert_eq!(failure.reason, FailureReason::SourceInvalid);
        }
        // Where a folder is a file nothing can be written.
        let blocked = folder.path().join("blocked");
        fs::File::create(&blocked).unwrap().write_all(b"x").unwrap();
        let transfer = transfer(&blocked.join("source"));
        let bytes = archive("file");
        put(&transfer, 0, &bytes).await;
        assert_ne!(end(&transfer, &bytes, &bytes).await, StatusCode::NO_CONTENT);
    }
}
