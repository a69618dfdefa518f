//! The sending half of the file transfer protocol of `tonistiigi/fsutil`, with which a daemon
//! reads a local directory.
//!
//! The sender announces each selected entry with a STAT, and meanwhile answers the daemon's
//! requests (REQ) with the content of files (DATA). An entry is requested by its index in the
//! sequence of STATs.
//!
//! - [`send`] runs one transfer. It reads requests while it announces entries: both directions are
//!   bounded, and a sender that did one after the other could deadlock with the daemon.
//! - Blocking threads: one walks the directory, up to four read files.
//! - [`Packets`] is the stream of packets for the gRPC response.
//!
//! Metadata and content are read through descriptors beneath the directory's own, so that a
//! symlink that replaces a directory during a transfer never leads outside. A file that cannot be
//! read, or that changes while it is sent, fails the transfer.

mod directory;
mod error;
mod files;
mod metadata;
mod names;
mod outgoing;
mod progress;
mod read;
mod selection;
#[cfg(test)]
mod tests;
mod transfer;
mod walk;

pub use directory::{Directory, Override};
pub use error::SendError;
pub use outgoing::{Outgoing, Packets, channel};
pub use progress::{Progress, Sent};
pub use selection::Selection;
pub use transfer::send;
