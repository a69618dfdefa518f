//! OCI layouts that a solve reads as images (`oci-layout://NAME@DIGEST`).

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::buildkit::proto::containerd::services::content::v1::{
    Info, InfoRequest, InfoResponse, ReadContentRequest, ReadContentResponse,
    content_server::Content,
};

const STORE_ID: &str = "buildkit-attachable-store-id";
const CHUNK_BYTES: usize = 256 << 10;
const QUEUED_CHUNKS: usize = 4;

pub struct ContentService(Arc<BTreeMap<String, PathBuf>>);

impl ContentService {
    pub fn new(layouts: BTreeMap<String, PathBuf>) -> Self {
        Self(Arc::new(layouts))
    }

    fn blob(&self, metadata: &MetadataMap, digest: &str) -> Result<PathBuf, Status> {
        let id = metadata.get(STORE_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
        let layout = id.strip_prefix("oci:").and_then(|name| self.0.get(name));
        let layout = layout.ok_or_else(|| Status::not_found(format!("unknown store {id:?}")))?;
        blob(layout, digest).ok_or_else(|| Status::invalid_argument("digest: expected sha256:HEX"))
    }
}

/// Returns the path of a blob, or `None` unless the digest is `sha256:` and 64 hexadecimal digits.
/// This keeps paths inside the layout.
fn blob(layout: &Path, digest: &str) -> Option<PathBuf> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_digest = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| layout.join("blobs/sha256").join(hex))
}

fn status(digest: &str, error: io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::NotFound => Status::not_found(format!("content {digest}: not found")),
        _ => Status::unavailable(format!("content {digest}: {error}")),
    }
}

#[tonic::async_trait]
impl Content for ContentService {
    type ReadStream = ReceiverStream<Result<ReadContentResponse, Status>>;

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let digest = request.get_ref().digest.clone();
        let path = self.blob(request.metadata(), &digest)?;
        let metadata = tokio::fs::metadata(path).await.map_err(|error| status(&digest, error))?;
        let size = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
        let info = Info { digest, size, ..Info::default() };
        Ok(Response::new(InfoResponse { info: Some(info) }))
    }

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let path = self.blob(request.metadata(), &request.get_ref().digest)?;
        let request = request.into_inner();
        let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read(&path, &request, &sender) {
                let _ = sender.blocking_send(Err(status(&request.digest, error)));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Reads exactly the requested range; a size of 0 means up to the end.
fn read(
    path: &Path,
    request: &ReadContentRequest,
    sender: &mpsc::Sender<Result<ReadContentResponse, Status>>,
) -> io::Result<()> {
    // A pipe must not block the thread.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let length = metadata.len();
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut offset = u64::try_from(request.offset).map_err(invalid)?;
    let size = u64::try_from(request.size).map_err(invalid)?;
    let end = if size == 0 { length } else { length.min(offset.saturating_add(size)) };
    let mut buffer = vec![0; CHUNK_BYTES];
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let count = file.read_at(&mut buffer[..wanted], offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let position = i64::try_from(offset).map_err(io::Error::other)?;
        let data = buffer[..count].to_vec();
        if sender.blocking_send(Ok(ReadContentResponse { offset: position, data })).is_err() {
            return Ok(());
        }
        offset += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::blob;

    #[test]
    fn only_a_digest_names_a_blob() {
        let layout = Path::new("/layout");
        let digest = format!("sha256:{}", "0a".repeat(32));
        let path = layout.join("blobs/sha256").join("0a".repeat(32));
        assert_eq!(blob(layout, &digest), Some(path));
        for other in ["", "sha256:", "sha256:../../etc/passwd", "sha512:00", "0a"] {
            assert_eq!(blob(layout, other), None, "{other}");
        }
    }
}
