//! The names in a directory.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

/// Bytes of directory entries that are read at once.
const BUFFER_BYTES: usize = 32 * 1024;

/// The entries of a directory, sorted by name in byte order.
pub(super) struct Names {
    /// The names, each with its NUL.
    bytes: Vec<u8>,
    /// Start of the name, and type, of each entry.
    entries: Vec<(usize, FileType)>,
    next: usize,
}

impl Names {
    /// Reads a directory that was just opened. The buffer is reused.
    pub(super) fn read(directory: &OwnedFd, buffer: &mut Vec<u8>) -> io::Result<Self> {
        buffer.clear();
        buffer.reserve(BUFFER_BYTES);
        let mut names = Self { bytes: Vec::new(), entries: Vec::new(), next: 0 };
        let mut reader = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = reader.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::INTR) => continue,
                // The directory was removed.
                Err(Errno::NOENT) => break,
                Err(error) => return Err(error.into()),
            };
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.entries.push((names.bytes.len(), entry.file_type()));
                names.bytes.extend_from_slice(name.to_bytes_with_nul());
            }
        }
        let bytes = &names.bytes;
        names.entries.sort_unstable_by(|(left, _), (right, _)| {
            name_at(bytes, *left).cmp(name_at(bytes, *right))
        });
        names.bytes.shrink_to_fit();
        names.entries.shrink_to_fit();
        Ok(names)
    }
}

fn name_at(bytes: &[u8], start: usize) -> &CStr {
    CStr::from_bytes_until_nul(&bytes[start..]).unwrap_or_default()
}

impl Iterator for Names {
    type Item = (CString, FileType);

    fn next(&mut self) -> Option<Self::Item> {
        let (start, file_type) = *self.entries.get(self.next)?;
        self.next += 1;
        Some((name_at(&self.bytes, start).to_owned(), file_type))
    }
}
