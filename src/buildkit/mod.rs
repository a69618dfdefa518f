//! A client of BuildKit's API: it connects to a daemon, offers it a session, and runs solves.
//!
//! It depends on neither Kubernetes nor OciBuild and starts no process. It implements BuildKit's
//! API (`api/services/control`, `session`) and the file transfer of `tonistiigi/fsutil`;
//! docs/buildkit-versions.md lists the versions that it was tested with.
//!
//! ```text
//! Connection ─► Solve ─┬─► Control.Solve ─► ExporterResponse, or SolveError
//!                      ├─► Control.Status ─► Event …
//!                      └─► Control.Session ◄─ the daemon calls: directories (sender), exports,
//!                                             secrets, SSH agents, registry tokens, OCI layouts
//! ```

pub mod auth;
mod connection;
mod error;
mod event;
pub mod llb;
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod proto;
pub mod sender;
mod session;
mod solve;
pub mod ssh_agent;

pub use self::{
    connection::{Address, ClientTls, ConnectError, Connection, ConnectionLost, InvalidAddress},
    error::{FailedVertex, SolveError, SolveFailure, SourceLine},
    event::{Event, Location, LogOutput, Transfer, Vertex, VertexKind, Warning},
    session::{
        Consumer, ExportReader, MAX_SECRET_BYTES, Secret, SecretTooLarge, Services, Session,
        unique_id,
    },
    solve::{CacheEntry, Exporter, ExporterResponse, Input, Solve},
};
#[doc(hidden)]
pub use self::{event::events, session::router};
