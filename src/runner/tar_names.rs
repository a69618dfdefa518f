//! Bounds what the names of a tar's entries take of memory. GNU's and POSIX's long names are entries of their own, as long as they
//! like, and the tar crate reads each of them into memory.

use std::{
    cell::Cell,
    io::{self, Read, Seek, SeekFrom},
    rc::Rc,
};

/// Most that is read to come from one entry to the next: headers, and its names and attributes.
const LIMIT: u64 = 1 << 20;

/// A reader with a budget for what is read between entries.
pub struct Budgeted<R> {
    reader: R,
    budget: Budget,
}

/// What may still be read.
#[derive(Clone)]
pub struct Budget(Rc<Cell<Option<u64>>>);

impl Budget {
    /// A reader, and its budget.
    pub fn of<R>(reader: R) -> (Self, Budgeted<R>) {
        let budget = Self(Rc::default());
        (budget.clone(), Budgeted { reader, budget })
    }

    /// Takes the next of a tar's entries within the budget. What is left of the entry before it must have been read.
    pub fn next<T>(&self, entries: &mut impl Iterator<Item = T>) -> Option<T> {
        self.0.set(Some(LIMIT));
        let entry = entries.next();
        self.0.set(None);
        entry
    }
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.budget.0.get() else { return self.reader.read(buffer) };
        if left == 0 {
            return Err(io::Error::other(format!(
                "the names of an entry are longer than {LIMIT} bytes"
            )));
        }
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.reader.read(&mut buffer[..room])?;
        self.budget.0.set(Some(left - read as u64));
        Ok(read)
    }
}

impl<R: Seek> Seek for Budgeted<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}
