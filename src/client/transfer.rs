//! Sends the source to a build's pod and fetches its files, and goes on where a broken connection ended.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::{
    StatusCode,
    body::{Bytes, Frame},
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncSeekExt, AsyncWriteExt, SeekFrom},
};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use super::{
    archive::Archive,
    tunnel::{Tunnel, TunnelError, document, request},
};
use crate::runner::{
    result::BuildResult,
    transfer::{Finish, Received},
    unpack::{Devices, unpack_stream},
};

/// How long a transfer may stand still before it is given up.
const PATIENCE: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(300);
const CHUNK: usize = 1 << 20;

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

/// A pod whose runner waits for its client.
pub struct Transfer {
    pods: Api<Pod>,
    pod: String,
}

/// Counts how long nothing has moved.
struct Progress {
    last: u64,
    since: Instant,
}

impl Progress {
    fn new() -> Self {
        Self { last: 0, since: Instant::now() }
    }

    /// Whether another try is worth it: something has moved lately, or time is left.
    fn goes_on(&mut self, position: u64) -> bool {
        if position > self.last {
            (self.last, self.since) = (position, Instant::now());
        }
        self.since.elapsed() < PATIENCE
    }
}

impl Transfer {
    /// The runner of a pod.
    pub fn new(pods: Api<Pod>, pod: String) -> Self {
        Self { pods, pod }
    }

    /// Sends an archive.
    pub async fn upload(&self, path: &Path, archive: &Archive) -> Result<(), TransferError> {
        let mut progress = Progress::new();
        let mut is_sent = false;
        loop {
            match self.try_upload(path, archive, &mut progress, &mut is_sent).await {
                // The answer to the last request was lost: the runner has everything, and goes on.
                Err(TransferError::Tunnel(TunnelError::Refused { status: StatusCode::GONE, .. })) if is_sent => return Ok(()),
                Err(TransferError::Tunnel(error)) if may_go_on(&error) && progress.goes_on(0) => tokio::time::sleep(PAUSE).await,
                ended => return ended,
            }
        }
    }

    async fn try_upload(
        &self,
        path: &Path,
        archive: &Archive,
        progress: &mut Progress,
        is_sent: &mut bool,
    ) -> Result<(), TransferError> {
        let mut tunnel = Tunnel::open(&self.pods, &self.pod).await?;
        let empty = || StreamBody::new(futures::stream::empty().boxed());
        let answer = document(tunnel.ask(request("GET", "/upload", empty())?).await?).await?;
        let received = serde_json::from_slice::<Received>(&answer).unwrap_or_default().received.min(archive.size);
        progress.goes_on(received);
        if received < archive.size {
            let mut file = File::open(path).await.map_err(file_error(path))?;
            file.seek(SeekFrom::Start(received)).await.map_err(file_error(path))?;
            let chunks = ReaderStream::with_capacity(file, CHUNK).map(|chunk| chunk.map(Frame::data)).boxed();
            tunnel.ask(request("PUT", &format!("/upload?offset={received}"), StreamBody::new(chunks))?).await?;
        }
        *is_sent = true;
        let finish = Finish { size: archive.size, sha256: archive.sha256.clone() };
        let body = Full::new(Bytes::from(serde_json::to_vec(&finish).unwrap_or_default()));
        Tunnel::open(&self.pods, &self.pod).await?.ask(request("POST", "/upload/finish", body)?).await?;
        Ok(())
    }

    /// Waits for the build's end and brings its result, over broken connections; whoever calls it knows when the pod is gone.
    pub async fn result(&self) -> Result<BuildResult, TransferError> {
        loop {
            match self.try_result().await {
                Err(TransferError::Tunnel(error)) if error.may_pass() => tokio::time::sleep(PAUSE).await,
                ended => return ended,
            }
        }
    }

    async fn try_result(&self) -> Result<BuildResult, TransferError> {
        let mut tunnel = Tunnel::open(&self.pods, &self.pod).await?;
        let answer = document(tunnel.ask(request("GET", "/result", Empty::<Bytes>::new())?).await?).await?;
        let result = serde_json::from_slice(&answer);
        Ok(result.map_err(|error| TunnelError::Broken(format!("its result cannot be read: {error}")))?)
    }

    /// Brings a file of the output, whole and checked or not at all: it gets its name when its SHA-256 is right.
    pub async fn download(&self, name: &str, to: &Path, sha256: &str) -> Result<(), TransferError> {
        let partial = partial_name(to);
        let fetched = self.fetch(name, &partial, to, sha256).await;
        if fetched.is_err() {
            let _ = tokio::fs::remove_file(&partial).await;
        }
        fetched
    }

    async fn fetch(&self, name: &str, partial: &Path, to: &Path, sha256: &str) -> Result<(), TransferError> {
        let mut file = File::create(partial).await.map_err(file_error(partial))?;
        let mut hash = Sha256::new();
        let mut position = 0;
        let mut progress = Progress::new();
        loop {
            match self.try_fetch(name, &mut file, &mut hash, &mut position).await {
                Ok(()) => break,
                Err(TransferError::Tunnel(error)) if error.may_pass() && progress.goes_on(position) => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        file.sync_all().await.map_err(file_error(partial))?;
        let found = hex::encode(hash.finalize());
        if found != sha256 {
            return Err(TransferError::Checksum { path: to.to_owned(), found, expected: sha256.to_owned() });
        }
        tokio::fs::rename(partial, to).await.map_err(file_error(to))
    }

    async fn try_fetch(&self, name: &str, file: &mut File, hash: &mut Sha256, position: &mut u64) -> Result<(), TransferError> {
        let mut tunnel = Tunnel::open(&self.pods, &self.pod).await?;
        let mut asked = request("GET", &format!("/files/{name}"), Empty::<Bytes>::new())?;
        if let Ok(range) = format!("bytes={position}-").parse() {
            asked.headers_mut().insert(hyper::header::RANGE, range);
        }
        let mut body = tunnel.ask(asked).await?.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| TunnelError::Broken(error.to_string()))?;
            if let Ok(chunk) = frame.into_data() {
                file.write_all(&chunk).await.map_err(file_error(Path::new(name)))?;
                hash.update(&chunk);
                *position += chunk.len() as u64;
            }
        }
        Ok(())
    }

    /// Brings a small file of the output.
    pub async fn document(&self, name: &str) -> Result<Vec<u8>, TransferError> {
        let mut tunnel = Tunnel::open(&self.pods, &self.pod).await?;
        let asked = request("GET", &format!("/files/{name}"), Empty::<Bytes>::new())?;
        Ok(document(tunnel.ask(asked).await?).await?)
    }

    /// Brings a folder of the output into a new folder; nothing is left of one that did not come whole.
    pub async fn folder(&self, name: &str, to: &Path) -> Result<(), TransferError> {
        let partial = partial_name(to);
        let brought = self.unpack(name, &partial).await;
        if brought.is_ok() {
            return tokio::fs::rename(&partial, to).await.map_err(file_error(to));
        }
        let _ = tokio::fs::remove_dir_all(&partial).await;
        brought
    }

    async fn unpack(&self, name: &str, partial: &Path) -> Result<(), TransferError> {
        let mut tunnel = Tunnel::open(&self.pods, &self.pod).await?;
        let asked = request("GET", &format!("/folders/{name}"), Empty::<Bytes>::new())?;
        let body = tunnel.ask(asked).await?.into_body().into_data_stream().map_err(io::Error::other);
        let mut reader = SyncIoBridge::new(StreamReader::new(body));
        let folder = partial.to_owned();
        let unpacking = tokio::task::spawn_blocking(move || {
            std::fs::create_dir(&folder)?;
            unpack_stream(&mut reader, &folder, Devices::LeaveOut)?;
            io::copy(&mut reader, &mut io::sink()).map(drop)
        });
        unpacking.await.map_err(io::Error::other).flatten().map_err(file_error(partial))
    }

    /// The pod may end: everything that is wanted is here. A runner that is gone has heard it.
    pub async fn done(&self) {
        let mut progress = Progress::new();
        while progress.goes_on(0) {
            match self.try_done().await {
                Err(TransferError::Tunnel(error)) if error.may_pass() => tokio::time::sleep(PAUSE).await,
                _ => return,
            }
        }
    }

    async fn try_done(&self) -> Result<(), TransferError> {
        let mut tunnel = Tunnel::open(&self.pods, &self.pod).await?;
        tunnel.ask(request("POST", "/fetched", Empty::<Bytes>::new())?).await?;
        Ok(())
    }
}

/// After a wrong sum the archive is sent again from its begin; where the runner has more than was thought it is asked again.
fn may_go_on(error: &TunnelError) -> bool {
    let is_again = |status: StatusCode| matches!(status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY);
    error.may_pass() || matches!(error, TunnelError::Refused { status, .. } if is_again(*status))
}

/// Name of a file or folder that is not whole yet.
pub fn partial_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    path.with_file_name(format!(".{name}.partial"))
}
