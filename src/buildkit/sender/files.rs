//! The announced entries, which the daemon requests by number, and the queue of its requests.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::SendError;

/// Greatest number of threads that read files of one transfer.
const MAX_READERS: usize = 4;
/// Queued requests for which one more reader is started.
const REQUESTS_PER_READER: usize = 64;
/// Queued content for which one more reader is started.
const BYTES_PER_READER: u64 = 1024 * 1024;

/// Number of the root directory, which is never announced.
pub(super) const ROOT: u32 = u32::MAX;

/// Response to a request for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing: the entry cannot be requested.
    None,
    /// No bytes: the entry is announced as a file but cannot be opened.
    Empty,
    /// The bytes of a regular file that has this size and modification time.
    File { size: u64, mtime: i64 },
}

/// A request that a reader answers.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: u32,
    pub(super) path: Vec<u8>,
    pub(super) content: Content,
}

struct Entry {
    name_start: usize,
    parent: u32,
    name_length: u16,
    is_requested: bool,
    content: Content,
}

/// Entries are compact, a number for the parent and a name, since a transfer can have millions.
#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    names: Vec<u8>,
    queue: VecDeque<u32>,
    queued_bytes: u64,
    readers: usize,
    is_complete: bool,
}

/// The announced entries and the requests for them.
#[derive(Default)]
pub(super) struct Files(Mutex<State>);

impl Files {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry and returns its number.
    pub(super) fn push(&self, parent: u32, name: &[u8], content: Content) -> u32 {
        let mut state = self.lock();
        let id = u32::try_from(state.entries.len())
            .expect("entries for all 32-bit numbers do not fit into memory");
        let name_length =
            u16::try_from(name.len()).expect("Linux limits names of files to 255 bytes");
        let name_start = state.names.len();
        state.names.extend_from_slice(name);
        state.entries.push(Entry { name_start, parent, name_length, is_requested: false, content });
        id
    }

    /// Marks that all entries have been added.
    pub(super) fn complete(&self) {
        self.lock().is_complete = true;
    }

    /// Returns the path of an entry.
    pub(super) fn path(&self, id: u32) -> Vec<u8> {
        self.lock().path(id)
    }

    /// Queues the request for an entry. Each entry can be requested once.
    pub(super) fn request(&self, id: u32) -> Result<(), SendError> {
        let mut state = self.lock();
        let announced = state.entries.len();
        let Some(entry) = state.entries.get_mut(id as usize) else {
            let text = format!("requested entry {id}, but only {announced} were announced");
            return Err(SendError::Protocol(text));
        };
        let refused = match entry.content {
            Content::None => Some("which is not a file"),
            _ if entry.is_requested => Some("which was requested before"),
            _ => None,
        };
        if let Some(reason) = refused {
            return Err(SendError::Protocol(format!("requested entry {id}, {reason}")));
        }
        entry.is_requested = true;
        let weight = weight(entry.content);
        state.queued_bytes += weight;
        state.queue.push_back(id);
        Ok(())
    }

    /// Takes the oldest request.
    pub(super) fn next_request(&self) -> Option<Request> {
        let mut state = self.lock();
        let id = state.queue.pop_front()?;
        let content = state.entries[id as usize].content;
        state.queued_bytes -= weight(content);
        Some(Request { id, path: state.path(id), content })
    }

    /// Returns how many readers to start for the queued requests and counts them as started.
    pub(super) fn claim_readers(&self) -> usize {
        let mut state = self.lock();
        let by_bytes =
            usize::try_from(state.queued_bytes / BYTES_PER_READER).unwrap_or(MAX_READERS);
        let wanted = match state.queue.len() {
            0 => 0,
            queued => (1 + queued / REQUESTS_PER_READER).max(by_bytes.min(queued)).min(MAX_READERS),
        };
        let missing = wanted.saturating_sub(state.readers);
        state.readers += missing;
        missing
    }

    /// Releases a reader unless requests are queued. Returns whether the reader was released.
    pub(super) fn release_reader(&self) -> bool {
        let mut state = self.lock();
        let is_idle = state.queue.is_empty();
        if is_idle {
            state.readers -= 1;
        }
        is_idle
    }

    /// Checks that FIN is allowed: all entries are announced, all requests are answered.
    pub(super) fn check_finished(&self) -> Result<(), SendError> {
        let state = self.lock();
        if !state.is_complete {
            return Err(SendError::Protocol("FIN before the last STAT".to_owned()));
        }
        if !state.queue.is_empty() {
            let text = format!("FIN before {} requested files were sent", state.queue.len());
            return Err(SendError::Protocol(text));
        }
        Ok(())
    }
}

/// Returns what a file adds to the queued bytes. The limit keeps the sum from overflowing.
fn weight(content: Content) -> u64 {
    match content {
        Content::File { size, .. } => size.min(MAX_READERS as u64 * BYTES_PER_READER),
        Content::None | Content::Empty => 0,
    }
}

impl State {
    fn path(&self, id: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut length = 0;
        let mut next = id;
        while next != ROOT {
            let entry = &self.entries[next as usize];
            let name = &self.names[entry.name_start..][..usize::from(entry.name_length)];
            length += name.len() + 1;
            names.push(name);
            next = entry.parent;
        }
        let mut path = Vec::with_capacity(length);
        for name in names.iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }
}
