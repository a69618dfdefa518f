//! A limit for what goes before an entry of a tar. The tar crate holds the names and attributes of an entry in memory, however
//! large an archive says that they are (GNU long names, PAX headers, sparse maps); a hostile one could end the runner by it.

use std::{
    cell::Cell,
    io::{self, Read, Seek, SeekFrom},
    rc::Rc,
};

/// Linux knows no longer path than 4 KiB, and an attribute of a file has at most 64 KiB.
const LIMIT: u64 = 1 << 20;

/// Counts what is read of headers.
pub struct HeaderLimit(Rc<Cell<Option<u64>>>);

/// The reader that is counted.
pub struct Limited<R> {
    reader: R,
    left: Rc<Cell<Option<u64>>>,
}

impl HeaderLimit {
    /// The limit, and the reader that the archive reads from.
    pub fn of<R>(reader: R) -> (Self, Limited<R>) {
        let left = Rc::<Cell<Option<u64>>>::default();
        (Self(left.clone()), Limited { reader, left })
    }

    /// Goes on to the next entry. The content of the one before must have been read.
    pub fn next<T>(&self, next: impl FnOnce() -> T) -> T {
        self.0.set(Some(LIMIT));
        let entry = next();
        self.0.set(None);
        entry
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.left.get() else { return self.reader.read(buffer) };
        if left == 0 && !buffer.is_empty() {
            let words = format!("the archive has an entry whose names and attributes are larger than {LIMIT} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.reader.read(&mut buffer[..room])?;
        self.left.set(Some(left - read as u64));
        Ok(read)
    }
}

impl<R: Seek> Seek for Limited<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.reader.seek(position)
    }
}
