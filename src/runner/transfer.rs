//! Takes the source from a client and gives it the files of the image, over the pod's loopback address: a client comes by
//! port-forward, and so by the API server's leave. Steps of the build share that address, so nothing is taken or given while
//! they run.
//!
//! ```text
//! GET  /upload            {"received": bytes}      where an upload goes on after a broken connection
//! PUT  /upload?offset=N   the archive from there on
//! POST /upload/finish     {"size", "sha256"}       all of it is there
//! GET  /result            the result, once the build has ended
//! GET  /files/<path>      a file of the output, whole or a range of it
//! GET  /folders/<path>    a folder of the output, as a tar
//! POST /fetched           the client has what it wants: the pod may end
//! ```

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path as UrlPath, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    fs::OpenOptions,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom},
    net::TcpListener,
    sync::{Mutex, watch},
};
use tokio_util::io::ReaderStream;

use super::{
    locate::below,
    output::storage_reason,
    result::{BuildFailure, BuildResult},
    stop::Stop,
};
use crate::{api::FailureReason, plan::layout};

/// How long nothing may arrive of a source before nobody is expected to send it any more.
const UPLOAD_PATIENCE: Duration = Duration::from_mins(5);
const CHUNK: usize = 1 << 18;

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
#[derive(Clone, Debug, Default)]
enum Stage {
    /// The source is awaited.
    Uploading { received: u64 },
    /// All of the source is there.
    Uploaded(Finish),
    /// The build runs, or needs no client.
    #[default]
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
    archive: Arc<Mutex<PathBuf>>,
    output: PathBuf,
}

impl Transfer {
    /// Listens on the pod's loopback address. The archive is kept below `work`, the files are read from `output`.
    pub async fn serve(work: &Path, output: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, layout::TRANSFER_PORT)).await?;
        let transfer = Self {
            stage: watch::Sender::new(Stage::Building),
            archive: Arc::new(Mutex::new(work.join("upload"))),
            output: output.to_owned(),
        };
        let app = Router::new()
            .route("/upload", get(received))
            .route("/upload", put(receive))
            .route("/upload/finish", post(finish))
            .route("/result", get(result))
            .route("/files/{*path}", get(file))
            .route("/folders/{*path}", get(folder))
            .route("/fetched", post(fetched))
            .with_state(transfer.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(transfer)
    }

    /// Waits until a client has sent the source: the archive, its size and its SHA-256.
    pub async fn upload(&self, stop: &mut Stop) -> Result<(PathBuf, Finish), BuildFailure> {
        self.stage.send_replace(Stage::Uploading { received: 0 });
        let mut stage = self.stage.subscribe();
        loop {
            let changed = tokio::select! {
                changed = tokio::time::timeout(UPLOAD_PATIENCE, stage.changed()) => changed,
                () = stop.asked() => return Err(BuildFailure::new(FailureReason::Cancelled, "the build was told to stop")),
            };
            let received = match &*stage.borrow_and_update() {
                Stage::Uploaded(finish) => return Ok((self.archive.lock().await.clone(), finish.clone())),
                Stage::Uploading { received } => *received,
                _ => 0,
            };
            if changed.is_err() {
                let minutes = UPLOAD_PATIENCE.as_secs() / 60;
                let message =
                    format!("no client has sent anything of the source for {minutes} minutes; {received} bytes had arrived");
                return Err(BuildFailure::new(FailureReason::SourceNotFound, message));
            }
        }
    }

    /// What a path of the output leads to, once the build has ended; never out of the output.
    #[allow(clippy::result_large_err, reason = "the error is the answer")]
    fn find(&self, path: &str) -> Result<PathBuf, Response> {
        if !matches!(*self.stage.borrow(), Stage::Ended(_)) {
            return Err(refused(StatusCode::CONFLICT, "the build has not ended"));
        }
        let root = self.output.canonicalize().ok();
        root.and_then(|root| below(&root, Path::new(path)))
            .ok_or_else(|| refused(StatusCode::NOT_FOUND, format!("there is no {path:?}")))
    }

    /// The source is in its place: from here on steps may run, and nothing more is taken.
    pub fn close_upload(&self) {
        self.stage.send_replace(Stage::Building);
    }

    /// Offers the files of a build until a client has fetched them.
    pub async fn offer(&self, result: &BuildResult, patience: Duration, stop: &mut Stop) -> Result<(), BuildFailure> {
        self.stage.send_replace(Stage::Ended(Arc::new(result.clone())));
        let mut stage = self.stage.subscribe();
        tokio::select! {
            fetched = tokio::time::timeout(patience, stage.wait_for(|stage| matches!(stage, Stage::Fetched))) => {
                fetched.map(drop).map_err(|_| {
                    let message = format!("the image was built, but no client fetched its files within {}s", patience.as_secs());
                    BuildFailure::new(FailureReason::Timeout, message)
                })
            }
            () = stop.asked() => Err(BuildFailure::new(FailureReason::Cancelled, "the build was told to stop before its files were fetched")),
        }
    }
}

fn refused(status: StatusCode, words: impl Into<String>) -> Response {
    (status, words.into()).into_response()
}

async fn received(State(transfer): State<Transfer>) -> Response {
    match *transfer.stage.borrow() {
        Stage::Uploading { received } => Json(Received { received }).into_response(),
        _ => refused(StatusCode::GONE, "no source is awaited"),
    }
}

/// Appends to the archive. One client at a time; what it sends must begin where the archive ends.
async fn receive(State(transfer): State<Transfer>, Query(Offset { offset }): Query<Offset>, body: Body) -> Response {
    let archive = transfer.archive.lock().await;
    let Stage::Uploading { received } = *transfer.stage.borrow() else {
        return refused(StatusCode::GONE, "no source is awaited");
    };
    if offset != received {
        return (StatusCode::CONFLICT, Json(Received { received })).into_response();
    }
    match append(&transfer, &archive, received, body).await {
        Ok(received) => Json(Received { received }).into_response(),
        Err(error) if storage_reason(&error) == FailureReason::StorageFull => {
            refused(StatusCode::INSUFFICIENT_STORAGE, format!("the pod has no room for the source: {error}"))
        }
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn append(transfer: &Transfer, archive: &Path, mut received: u64, body: Body) -> io::Result<u64> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(archive).await?;
    // What a broken connection left behind the last byte that was counted is written again.
    file.set_len(received).await?;
    file.seek(SeekFrom::Start(received)).await?;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        // The client asks how much has arrived, and goes on from there.
        let Ok(chunk) = chunk else { break };
        file.write_all(&chunk).await?;
        received += chunk.len() as u64;
        transfer.stage.send_if_modified(|stage| match stage {
            Stage::Uploading { received: shown } => {
                *shown = received;
                true
            }
            _ => false,
        });
    }
    file.flush().await?;
    Ok(received)
}

async fn finish(State(transfer): State<Transfer>, Json(finish): Json<Finish>) -> Response {
    let archive = transfer.archive.lock().await;
    let Stage::Uploading { received } = *transfer.stage.borrow() else {
        return refused(StatusCode::GONE, "no source is awaited");
    };
    if received != finish.size {
        return (StatusCode::CONFLICT, Json(Received { received })).into_response();
    }
    let path = archive.clone();
    let found = tokio::task::spawn_blocking(move || super::source::sha256_of(&path)).await.map_err(io::Error::other).flatten();
    match found {
        Ok(found) if found == finish.sha256 => {
            transfer.stage.send_replace(Stage::Uploaded(finish));
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(found) => {
            // From the beginning: which part is wrong nobody knows.
            transfer.stage.send_replace(Stage::Uploading { received: 0 });
            refused(StatusCode::UNPROCESSABLE_ENTITY, format!("the SHA-256 of what arrived is {found}"))
        }
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn result(State(transfer): State<Transfer>) -> Response {
    let mut stage = transfer.stage.subscribe();
    let ended = stage.wait_for(|stage| matches!(stage, Stage::Ended(_) | Stage::Fetched)).await;
    match ended.as_deref() {
        Ok(Stage::Ended(result)) => Json(result.as_ref()).into_response(),
        _ => refused(StatusCode::GONE, "the files have been fetched"),
    }
}

async fn file(State(transfer): State<Transfer>, UrlPath(path): UrlPath<String>, headers: HeaderMap) -> Response {
    match transfer.find(&path) {
        Ok(found) if found.is_file() => {
            send(&found, &headers).await.unwrap_or_else(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
        }
        Ok(_) => refused(StatusCode::NOT_FOUND, format!("{path:?} is not a file")),
        Err(refused) => refused,
    }
}

async fn folder(State(transfer): State<Transfer>, UrlPath(path): UrlPath<String>) -> Response {
    match transfer.find(&path) {
        Ok(found) if found.is_dir() => pack(found),
        Ok(_) => refused(StatusCode::NOT_FOUND, format!("{path:?} is not a folder")),
        Err(refused) => refused,
    }
}

/// A folder as a tar that is made while it is sent.
fn pack(folder: PathBuf) -> Response {
    let (sender, mut chunks) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(8);
    tokio::task::spawn_blocking(move || {
        let packed = || -> io::Result<()> {
            let mut builder = tar::Builder::new(BufWriter::with_capacity(CHUNK, ChunkWriter(sender.clone())));
            builder.follow_symlinks(false);
            builder.append_dir_all("", &folder)?;
            builder.into_inner()?.flush()
        };
        if let Err(error) = packed() {
            // The connection breaks, so that half a folder is not taken for a whole one.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Body::from_stream(futures::stream::poll_fn(move |context| chunks.poll_recv(context))).into_response()
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

/// A file from the byte on that `Range: bytes=N-` names.
async fn send(path: &Path, headers: &HeaderMap) -> io::Result<Response> {
    let mut file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<u64>().ok());
    let from = from.unwrap_or_default().min(size);
    file.seek(SeekFrom::Start(from)).await?;
    let status = if from == 0 { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(size - from), CHUNK));
    Ok((status, [(header::CONTENT_LENGTH, (size - from).to_string())], body).into_response())
}

async fn fetched(State(transfer): State<Transfer>) -> Response {
    let has_ended = transfer.stage.send_if_modified(|stage| {
        let has_ended = matches!(stage, Stage::Ended(_));
        if has_ended {
            *stage = Stage::Fetched;
        }
        has_ended
    });
    if has_ended { StatusCode::NO_CONTENT.into_response() } else { refused(StatusCode::CONFLICT, "the build has not ended") }
}
