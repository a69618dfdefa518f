//! A source that is packed beside all else, and can be sent while it is.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use futures::{
    FutureExt, Stream,
    future::{BoxFuture, Shared},
};
use hyper::body::Bytes;
use tokio::sync::watch;

use super::archive::{Archive, PackError, Selection, pack};

/// Bytes that are read at once.
const CHUNK: u64 = 1 << 18;

/// A source on its way into an archive. The archive is a file without a name: nothing is left of it, whatever becomes of this
/// process.
#[derive(Clone)]
pub struct Packing {
    file: Arc<File>,
    written: watch::Receiver<u64>,
    archive: Shared<BoxFuture<'static, Result<Archive, Arc<PackError>>>>,
}

impl Packing {
    /// Begins to pack the selection of a folder.
    pub fn begin(folder: &Path, selection: &Selection) -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        let (sender, written) = watch::channel(0);
        let to = Noted { file: file.try_clone()?, written: sender };
        let (folder, selection) = (folder.to_owned(), selection.clone());
        let packed = tokio::task::spawn_blocking(move || pack(&folder, &selection, to));
        let archive = async {
            let packed =
                packed.await.unwrap_or_else(|error| Err(PackError::Write(io::Error::other(error))));
            packed.map_err(Arc::new)
        };
        Ok(Self { file: Arc::new(file), written, archive: archive.boxed().shared() })
    }

    /// Waits until all of it is packed.
    pub async fn archive(&self) -> Result<Archive, Arc<PackError>> {
        self.archive.clone().await
    }

    /// Whether all of it is packed, or cannot be.
    pub fn is_packed(&self) -> bool {
        self.archive.clone().now_or_never().is_some()
    }

    /// Its bytes from a position on, as they are written.
    pub fn chunks(&self, from: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        futures::stream::try_unfold((self.clone(), from), |(mut packing, position)| async move {
            loop {
                let written = *packing.written.borrow_and_update();
                if position < written {
                    let length = CHUNK.min(written - position);
                    let file = packing.file.clone();
                    let read = tokio::task::spawn_blocking(move || {
                        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
                        file.read_exact_at(&mut bytes, position).map(|()| Bytes::from(bytes))
                    });
                    let bytes = read.await.map_err(io::Error::other)??;
                    return Ok(Some((bytes, (packing, position + length))));
                }
                // Whoever writes is gone when all is written.
                if packing.written.changed().await.is_err() {
                    return Ok(None);
                }
            }
        })
    }
}

/// Notes how much of a file is written.
struct Noted {
    file: File,
    written: watch::Sender<u64>,
}

impl Write for Noted {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.written.send_modify(|all| *all += written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::TryStreamExt;
    use sha2::{Digest, Sha256};

    use super::{Packing, Selection};

    #[tokio::test]
    async fn a_source_can_be_read_while_it_is_packed_and_again_from_any_byte_on() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("Dockerfile"), "").unwrap();
        let mut noise = vec![0; 3 << 20];
        fastrand::Rng::with_seed(1).fill(&mut noise);
        fs::write(folder.path().join("noise"), &noise).unwrap();
        let packing = Packing::begin(
            folder.path(),
            &Selection { context: ".".to_owned(), ..Selection::default() },
        )
        .unwrap();
        let sent: Vec<_> = packing.chunks(0).try_collect().await.unwrap();
        let (sent, archive) = (sent.concat(), packing.archive().await.unwrap());
        assert_eq!(
            (sent.len() as u64, hex::encode(Sha256::digest(&sent))),
            (archive.size, archive.sha256)
        );
        let rest: Vec<_> = packing.chunks(1_000_001).try_collect().await.unwrap();
        assert!(rest.concat() == sent[1_000_001..]);
    }

    #[tokio::test]
    async fn one_that_cannot_be_packed_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let packing = Packing::begin(folder.path(), &Selection::default()).unwrap();
        assert!(packing.archive().await.unwrap_err().to_string().contains("no Dockerfile"));
        let sent: Vec<_> = packing.chunks(0).try_collect().await.unwrap();
        assert!(sent.concat().len() < 100, "what was begun");
    }
}
