//! A reader that stands for a slow disk.

use std::{
    io::{self, Read},
    thread,
    time::{Duration, Instant},
};

/// Reads no more bytes per second than it was told.
pub struct RateLimit<R> {
    reader: R,
    bytes_per_second: u32,
    start: Option<Instant>,
    bytes_read: u64,
}

impl<R: Read> RateLimit<R> {
    pub fn new(reader: R, bytes_per_second: u32) -> Self {
        Self { reader, bytes_per_second, start: None, bytes_read: 0 }
    }
}

impl<R: Read> Read for RateLimit<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        // The rate counts from the first byte.
        let start = *self.start.get_or_insert_with(Instant::now);
        self.bytes_read += length as u64;
        let due = Duration::from_millis(self.bytes_read * 1000 / u64::from(self.bytes_per_second));
        thread::sleep(due.saturating_sub(start.elapsed()));
        Ok(length)
    }
}
