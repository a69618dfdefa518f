//! Counters of what was sent.

use std::sync::atomic::{AtomicU64, Ordering};

/// Running counters, which several transfers may share.
#[derive(Debug, Default)]
pub struct Progress {
    entries: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
}

/// Snapshot of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Entries whose metadata were sent.
    pub entries: u64,
    /// Files whose content was requested and sent.
    pub files: u64,
    /// Content of these files in bytes.
    pub bytes: u64,
}

impl Progress {
    /// Returns what was sent so far.
    pub fn sent(&self) -> Sent {
        Sent {
            entries: self.entries.load(Ordering::Relaxed),
            files: self.files.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    pub(super) fn add_entries(&self, entries: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
    }

    pub(super) fn add_content(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
