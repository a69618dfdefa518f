//! Reads requested files and sends their content.

use std::mem;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::FileType;
use rustix::io::read;

use super::super::proto::fsutil::types::{Packet, packet::PacketType};
use super::directory::{retry_on_intr, to_path};
use super::error::SendError;
use super::files::{Content, Request};
use super::metadata::{file_type, modification_time, stat_open};
use super::transfer::Transfer;

/// Content of a batch, and thereby the greatest content of a packet.
const BATCH_BYTES: usize = 128 * 1024;
/// A batch with less space is sent before a file that does not fit is read.
const MIN_READ_BYTES: usize = 16 * 1024;
/// Packets of a batch.
const MAX_BATCH_PACKETS: usize = 512;

/// Answers requests until none is queued.
pub(super) fn answer_requests(transfer: &Transfer) -> Result<(), SendError> {
    let mut batch = Batch::new(transfer);
    loop {
        while let Some(request) = transfer.files.next_request() {
            batch.add_file(&request)?;
        }
        batch.send()?;
        if transfer.files.release_reader() {
            return Ok(());
        }
    }
}

/// Content that is sent together, so that small files do not cost a channel operation each.
struct Batch<'t> {
    transfer: &'t Transfer,
    content: Vec<u8>,
    /// Entry and part of the content, for each packet. An empty part ends a file.
    parts: Vec<(u32, Range<usize>)>,
    files: u64,
}

impl<'t> Batch<'t> {
    fn new(transfer: &'t Transfer) -> Self {
        Self { transfer, content: Vec::new(), parts: Vec::new(), files: 0 }
    }

    fn add_file(&mut self, request: &Request) -> Result<(), SendError> {
        if let Content::File { size, mtime } = request.content {
            self.add_content(request, size, mtime)?;
        }
        self.parts.push((request.id, 0..0));
        self.files += 1;
        Ok(())
    }

    fn add_content(&mut self, request: &Request, size: u64, mtime: i64) -> Result<(), SendError> {
        let directory = &self.transfer.directory;
        let path = &request.path;
        let file = directory.open_file(path).map_err(|error| directory.unreadable(path, error))?;
        self.check_unchanged(file.as_fd(), path, size, mtime)?;
        let mut left = size;
        loop {
            self.make_room(left)?;
            let start = self.content.len();
            let length = retry_on_intr(|| read(&file, spare_capacity(&mut self.content)))
                .map_err(|error| directory.unreadable(path, error.into()))?;
            let length_read = length as u64;
            if length_read > left || (length == 0 && left > 0) {
                let found = size - left + length_read;
                return Err(SendError::LengthChanged {
                    path: to_path(path),
                    expected: size,
                    found,
                });
            }
            left -= length_read;
            if length > 0 {
                self.parts.push((request.id, start..start + length));
            }
            if left == 0 {
                break;
            }
        }
        self.check_unchanged(file.as_fd(), path, size, mtime)
    }

    /// Checks that type, size and modification time still match.
    fn check_unchanged(
        &self,
        file: BorrowedFd<'_>,
        path: &[u8],
        size: u64,
        mtime: i64,
    ) -> Result<(), SendError> {
        let stat =
            stat_open(file).map_err(|error| self.transfer.directory.unreadable(path, error))?;
        if file_type(&stat) != FileType::RegularFile {
            return Err(SendError::Replaced { path: to_path(path) });
        }
        if stat.stx_size != size {
            let (expected, found) = (size, stat.stx_size);
            return Err(SendError::LengthChanged { path: to_path(path), expected, found });
        }
        if modification_time(&stat) != mtime {
            return Err(SendError::Modified { path: to_path(path) });
        }
        Ok(())
    }

    /// Sends the batch if it has too little space for the next part of a file.
    fn make_room(&mut self, wanted: u64) -> Result<(), SendError> {
        let space = BATCH_BYTES.saturating_sub(self.content.len());
        let is_full = space < MIN_READ_BYTES && (space == 0 || (space as u64) < wanted);
        if is_full || self.parts.len() >= MAX_BATCH_PACKETS {
            self.send()?;
        }
        if self.content.capacity() == 0 {
            self.content.reserve_exact(BATCH_BYTES);
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), SendError> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let bytes = self.content.len() as u64;
        let content = Bytes::from(mem::take(&mut self.content));
        let packets = self.parts.drain(..).map(|(id, part)| Packet {
            r#type: PacketType::PacketData.into(),
            id,
            data: content.slice(part),
            ..Packet::default()
        });
        self.transfer.send_batch(packets.collect())?;
        let files = mem::take(&mut self.files);
        self.transfer.count(|progress| progress.add_content(files, bytes));
        Ok(())
    }
}
