//! Puts the pieces of a file together that several connections bring, and sums it meanwhile.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::Path};

use hyper::body::Bytes;
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, task::JoinHandle};

/// Chunks that wait to be written.
const QUEUE: usize = 4;
/// Bytes that are read again at once.
const AGAIN: usize = 1 << 18;

/// Bytes of a file and where they belong.
pub struct Chunk {
    /// Position of the first.
    pub at: u64,
    /// The bytes, in the parts that have arrived one after the other.
    pub parts: Vec<Bytes>,
}

/// Begins to write a file of the chunks that are sent, in whatever order they come; each byte comes once. When nothing more is
/// sent it ends with the file's SHA-256 in hexadecimal digits.
pub fn write_pieces(
    path: &Path,
) -> io::Result<(mpsc::Sender<Chunk>, JoinHandle<io::Result<String>>)> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    let (chunks, mut queue) = mpsc::channel::<Chunk>(QUEUE);
    let writing = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::new(file);
        while let Some(chunk) = queue.blocking_recv() {
            let mut at = chunk.at;
            for part in &chunk.parts {
                writer.write(at, part)?;
                at += part.len() as u64;
            }
        }
        Ok(hex::encode(writer.hash.finalize()))
    });
    Ok((chunks, writing))
}

struct Writer {
    file: File,
    hash: Sha256,
    /// Bytes that are in the sum.
    summed: u64,
    /// What was written behind them: from where to where.
    ahead: BTreeMap<u64, u64>,
    /// What of it is read again.
    again: Vec<u8>,
}

impl Writer {
    fn new(file: File) -> Self {
        Self { file, hash: Sha256::new(), summed: 0, ahead: BTreeMap::new(), again: vec![0; AGAIN] }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        let end = at + bytes.len() as u64;
        if at != self.summed {
            match self.ahead.range_mut(..at).next_back() {
                Some((_, to)) if *to == at => *to = end,
                _ => drop(self.ahead.insert(at, end)),
            }
            return Ok(());
        }
        self.hash.update(bytes);
        self.summed = end;
        while let Some(to) = self.ahead.remove(&self.summed) {
            self.sum_again(to)?;
        }
        Ok(())
    }

    /// Sums what came too early: it is read again, from memory most likely.
    fn sum_again(&mut self, to: u64) -> io::Result<()> {
        while self.summed < to {
            let length = usize::try_from(to - self.summed).unwrap_or(usize::MAX).min(AGAIN);
            let bytes = &mut self.again[..length];
            self.file.read_exact_at(bytes, self.summed)?;
            self.hash.update(bytes);
            self.summed += length as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{AGAIN, Bytes, Chunk, Digest, Sha256, write_pieces};

    #[tokio::test]
    async fn a_file_is_whole_and_its_sum_right_in_whatever_order_its_chunks_come() {
        let mut content = vec![0; 3 * AGAIN + 5];
        fastrand::Rng::with_seed(1).fill(&mut content);
        let chunks: Vec<_> = content.chunks(AGAIN / 3).enumerate().collect();
        for seed in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            let (sender, written) = write_pieces(&path).unwrap();
            let mut order = chunks.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut order);
            for (number, bytes) in order {
                let at = (number * (AGAIN / 3)) as u64;
                let parts = bytes.chunks(AGAIN / 8).map(Bytes::copy_from_slice).collect();
                sender.send(Chunk { at, parts }).await.ok().unwrap();
            }
            drop(sender);
            assert_eq!(
                written.await.unwrap().unwrap(),
                hex::encode(Sha256::digest(&content)),
                "seed {seed}"
            );
            assert!(std::fs::read(&path).unwrap() == content, "seed {seed}");
        }
    }
}
