//! Errors of a file transfer.

use std::io;
use std::path::PathBuf;

use tonic::{Code, Status};

/// Why a transfer failed. Every `path` is relative to the directory.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// An entry that belongs to the selection cannot be read.
    #[error("cannot read {path:?} (mode {mode:04o}, owner {uid}:{gid}): {source}")]
    Unreadable {
        path: PathBuf,
        /// Permission bits of the entry.
        mode: u32,
        /// User ID of the owner.
        uid: u32,
        /// Group ID of the owner.
        gid: u32,
        /// Why reading failed.
        source: io::Error,
    },
    /// An entry cannot be read, and neither can its metadata.
    #[error("cannot read {path:?}: {source}")]
    Inaccessible {
        path: PathBuf,
        /// Why reading failed.
        source: io::Error,
    },
    /// An entry was removed after it was announced.
    #[error("cannot send {path:?}: it was removed during the transfer")]
    Removed { path: PathBuf },
    /// A file is longer or shorter than announced.
    #[error(
        "cannot send {path:?}: its length changed from {expected} to {found} bytes during the \
         transfer"
    )]
    LengthChanged {
        path: PathBuf,
        /// Announced length in bytes.
        expected: u64,
        /// Length in bytes that was found.
        found: u64,
    },
    /// The modification time of a file differs from the announced one.
    #[error("cannot send {path:?}: it was modified during the transfer")]
    Modified { path: PathBuf },
    /// An entry turned into an entry of another type.
    #[error(
        "cannot send {path:?}: it was replaced by an entry of another type during the transfer"
    )]
    Replaced { path: PathBuf },
    /// A pattern of the request does not follow the grammar.
    #[error("cannot select files: {0}")]
    Pattern(String),
    /// The daemon sent a packet that the protocol does not allow.
    #[error("the daemon violated the file transfer protocol: {0}")]
    Protocol(String),
    /// The daemon reported an error of its own.
    #[error("the daemon failed to receive the files: {0}")]
    Rejected(String),
    /// The daemon ended the transfer before it was complete.
    #[error("the daemon ended the file transfer: {0}")]
    Disconnected(String),
    /// A thread that reads files panicked.
    #[error("a thread that reads files panicked: {0}")]
    Panicked(String),
}

impl SendError {
    /// Whether the cause is on this side. Otherwise the daemon ended the transfer, and its own
    /// answer to the solve says why.
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::Rejected(_) | Self::Disconnected(_))
    }

    /// Returns the status that ends the gRPC stream.
    pub fn status(&self) -> Status {
        let code = match self {
            Self::Unreadable { source, .. } | Self::Inaccessible { source, .. } => {
                match source.kind() {
                    io::ErrorKind::PermissionDenied => Code::PermissionDenied,
                    _ => Code::DataLoss,
                }
            }
            Self::Removed { .. }
            | Self::LengthChanged { .. }
            | Self::Modified { .. }
            | Self::Replaced { .. } => Code::Aborted,
            Self::Pattern(_) | Self::Protocol(_) => Code::InvalidArgument,
            Self::Rejected(_) | Self::Disconnected(_) => Code::Cancelled,
            Self::Panicked(_) => Code::Internal,
        };
        Status::new(code, self.to_string())
    }
}
