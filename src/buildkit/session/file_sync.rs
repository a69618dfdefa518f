//! Directories of the client that the daemon reads: build contexts and Dockerfiles.

use std::{collections::BTreeMap, sync::Arc};

use percent_encoding::percent_decode;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::FirstError;
use crate::buildkit::{
    error::SolveError,
    proto::{fsutil::types::Packet, moby::filesync::v1::file_sync_server::FileSync},
    sender::{self, Directory, Packets, Progress, Selection},
};

const DIRECTORY_NAME: &str = "dir-name";
const INCLUDES: &str = "include-patterns";
const EXCLUDES: &str = "exclude-patterns";
const FOLLOW_PATHS: &str = "followpaths";

pub struct FileSyncService {
    directories: BTreeMap<String, Arc<Directory>>,
    progress: Arc<Progress>,
    first_error: FirstError,
}

impl FileSyncService {
    pub fn new(
        directories: BTreeMap<String, Arc<Directory>>,
        progress: Arc<Progress>,
        first_error: FirstError,
    ) -> Self {
        Self { directories, progress, first_error }
    }
}

#[tonic::async_trait]
impl FileSync for FileSyncService {
    type DiffCopyStream = Packets;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Packets>, Status> {
        let name = values(request.metadata(), DIRECTORY_NAME).into_iter().next();
        let name = name.map(|name| String::from_utf8_lossy(&name).into_owned()).unwrap_or_default();
        let Some(directory) = self.directories.get(&name).cloned() else {
            return Err(Status::not_found(format!("no access allowed to dir {name:?}")));
        };
        let selection = Selection {
            includes: values(request.metadata(), INCLUDES),
            excludes: values(request.metadata(), EXCLUDES),
            follow_paths: values(request.metadata(), FOLLOW_PATHS),
        };
        let (outgoing, packets) = sender::channel();
        let (first_error, progress) = (self.first_error.clone(), self.progress.clone());
        tokio::spawn(async move {
            let incoming = request.into_inner();
            let sent = sender::send(directory, selection, incoming, outgoing, progress).await;
            if let Err(source) = sent
                && source.is_local()
            {
                first_error.record(SolveError::Send { directory: name, source });
            }
        });
        Ok(Response::new(packets))
    }
}

/// The values of a key; if they are not printable ASCII, the daemon escapes them as in a query.
fn values(metadata: &MetadataMap, key: &str) -> Vec<Vec<u8>> {
    let is_encoded = metadata.get(format!("{key}-encoded")).is_some_and(|value| value == "1");
    let values = metadata.get_all(key).iter().map(|value| value.as_bytes().to_vec());
    if is_encoded { values.map(|value| unescape(&value)).collect() } else { values.collect() }
}

fn unescape(value: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> =
        value.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    percent_decode(&spaced).collect()
}

#[cfg(test)]
mod tests {
    use tonic::metadata::{AsciiMetadataValue, MetadataMap};

    use super::values;

    #[test]
    fn values_are_unescaped_only_where_the_daemon_says_so() {
        let mut metadata = MetadataMap::new();
        for pattern in ["a+b%20c", "gr%C3%B6%FF"] {
            metadata.append("exclude-patterns", AsciiMetadataValue::from_static(pattern));
        }
        assert_eq!(values(&metadata, "exclude-patterns"), [&b"a+b%20c"[..], b"gr%C3%B6%FF"]);
        metadata.insert("exclude-patterns-encoded", AsciiMetadataValue::from_static("1"));
        assert_eq!(values(&metadata, "exclude-patterns"), [&b"a b c"[..], b"gr\xc3\xb6\xff"]);
        assert!(values(&metadata, "include-patterns").is_empty());
    }
}
