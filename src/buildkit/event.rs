//! What `Control.Status` reports while a solve runs: vertices, transfers, log output, warnings.
//!
//! A daemon and the frontends that it runs are not trusted: names, digests and texts are whatever
//! they sent, within the limit of a message. Callers that keep them must limit their size.

use std::time::SystemTime;

use bytes::Bytes;

use super::proto::{moby::buildkit::v1 as api, pb};

/// One report of a running solve.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Vertex(Vertex),
    Transfer(Transfer),
    Log(LogOutput),
    Warning(Warning),
}

/// The state of a vertex. A vertex is reported again whenever its state changes, and it can start
/// more than once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vertex {
    pub digest: String,
    /// The digests of the vertices that this one needs.
    pub inputs: Vec<String>,
    pub name: String,
    pub is_cached: bool,
    pub started: Option<SystemTime>,
    pub completed: Option<SystemTime>,
    /// Empty unless the vertex failed or was cancelled.
    pub error: String,
    /// The name of the group that the frontend shows this vertex under.
    pub group: Option<String>,
}

/// The progress of a part of a vertex: a layer that is pulled, files that are sent, a push.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transfer {
    /// What is transferred, for example `sha256:…` or `pushing layers`.
    pub id: String,
    pub vertex: String,
    /// Bytes transferred so far and in total; 0 if unknown.
    pub current: u64,
    pub total: u64,
    pub started: Option<SystemTime>,
    pub completed: Option<SystemTime>,
}

/// A chunk of a step's output; it may end within a line or a character.
#[derive(Clone, Debug, PartialEq)]
pub struct LogOutput {
    pub vertex: String,
    pub time: Option<SystemTime>,
    pub data: Bytes,
}

/// A warning of the frontend, for example about a deprecated instruction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Warning {
    pub vertex: String,
    pub short: String,
    pub url: String,
    pub location: Option<Location>,
}

/// Lines of a file that a frontend read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    pub file: String,
    /// From 1. The last line belongs to it.
    pub first_line: u32,
    pub last_line: u32,
}

/// What kind of work a vertex does. BuildKit has no field for it; its own progress printers go by
/// the name as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VertexKind {
    /// An instruction of the Dockerfile.
    Step,
    /// Makes layers, writes a tar, or pushes.
    Export,
    /// Loads definitions and metadata, or authenticates.
    Internal,
}

impl VertexKind {
    pub fn of(name: &str) -> Self {
        if name.starts_with("exporting ") || name.starts_with("pushing ") {
            Self::Export
        } else if name.starts_with('[')
            && !name.starts_with("[internal]")
            && !name.starts_with("[auth]")
        {
            Self::Step
        } else {
            Self::Internal
        }
    }
}

/// Bytes of output in one event. A consumer that keeps all lines of one event needs a multiple.
const MAX_LOG_BYTES: usize = 64 << 10;

/// Returns the events of a message in the order in which BuildKit's own client handles them.
pub fn events(response: api::StatusResponse) -> impl Iterator<Item = Event> {
    let vertices = response.vertexes.into_iter().map(|vertex| Event::Vertex(vertex.into()));
    let transfers = response.statuses.into_iter().map(|status| Event::Transfer(status.into()));
    let logs = response.logs.into_iter().flat_map(|log| pieces(log.into())).map(Event::Log);
    let warnings = response.warnings.into_iter().map(|warning| Event::Warning(warning.into()));
    vertices.chain(transfers).chain(logs).chain(warnings)
}

/// Splits output into events of a bounded size. Output without bytes is an event as well.
fn pieces(log: LogOutput) -> impl Iterator<Item = LogOutput> {
    let starts = (0..log.data.len().max(1)).step_by(MAX_LOG_BYTES);
    starts.map(move |start| {
        let end = log.data.len().min(start + MAX_LOG_BYTES);
        LogOutput { data: log.data.slice(start..end), vertex: log.vertex.clone(), time: log.time }
    })
}

/// Valid seconds of a protobuf timestamp (1970 to 9999).
const TIMES: std::ops::Range<i64> = 0..253_402_300_800;

/// Returns `None` for an out-of-range timestamp.
fn time(timestamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    let timestamp = timestamp.filter(|timestamp| TIMES.contains(&timestamp.seconds))?;
    SystemTime::try_from(timestamp).ok()
}

fn bytes(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

impl From<api::Vertex> for Vertex {
    fn from(vertex: api::Vertex) -> Self {
        Self {
            digest: vertex.digest,
            inputs: vertex.inputs,
            name: vertex.name,
            is_cached: vertex.cached,
            started: time(vertex.started),
            completed: time(vertex.completed),
            error: vertex.error,
            group: vertex.progress_group.map(|group| group.name),
        }
    }
}

impl From<api::VertexStatus> for Transfer {
    fn from(status: api::VertexStatus) -> Self {
        Self {
            id: status.id,
            vertex: status.vertex,
            current: bytes(status.current),
            total: bytes(status.total),
            started: time(status.started),
            completed: time(status.completed),
        }
    }
}

impl From<api::VertexLog> for LogOutput {
    fn from(log: api::VertexLog) -> Self {
        Self { vertex: log.vertex, time: time(log.timestamp), data: log.msg.into() }
    }
}

impl From<api::VertexWarning> for Warning {
    fn from(warning: api::VertexWarning) -> Self {
        let file = warning.info.map(|info| info.filename);
        Self {
            vertex: warning.vertex,
            short: String::from_utf8_lossy(&warning.short).into_owned(),
            url: warning.url,
            location: file.and_then(|file| location(file, &warning.ranges)),
        }
    }
}

fn location(file: String, ranges: &[pb::Range]) -> Option<Location> {
    let line = |position: &Option<pb::Position>| {
        position.as_ref().and_then(|position| u32::try_from(position.line).ok())
    };
    let first_line = ranges.iter().filter_map(|range| line(&range.start)).min()?;
    let last_line = ranges.iter().filter_map(|range| line(&range.end)).max()?;
    Some(Location { file, first_line, last_line: last_line.max(first_line) })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{Event, Location, VertexKind, api, events, pb};

    #[test]
    fn a_vertex_is_a_step_an_export_or_internal_by_its_name() {
        for (name, expected) in [
            ("[1/2] FROM docker.io/library/busybox", VertexKind::Step),
            ("[build 2/2] RUN make", VertexKind::Step),
            ("exporting to image", VertexKind::Export),
            ("pushing layers", VertexKind::Export),
            ("[internal] load build definition from Dockerfile", VertexKind::Internal),
            ("[auth] library/busybox:pull token for r.example", VertexKind::Internal),
            ("importing cache manifest from r.example/cache", VertexKind::Internal),
        ] {
            assert_eq!(VertexKind::of(name), expected, "{name}");
        }
    }

    #[test]
    fn a_message_becomes_events_and_impossible_times_are_left_out() {
        let timestamp = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let position = |line| Some(pb::Position { line, character: 0 });
        let response = api::StatusResponse {
            vertexes: vec![api::Vertex {
                name: "[1/1] RUN".to_owned(),
                started: timestamp(7),
                completed: timestamp(i64::MAX),
                ..api::Vertex::default()
            }],
            statuses: vec![api::VertexStatus { current: -1, total: 5, ..Default::default() }],
            logs: vec![api::VertexLog { msg: b"\xff\n".to_vec(), ..api::VertexLog::default() }],
            warnings: vec![api::VertexWarning {
                short: b"deprecated".to_vec(),
                info: Some(pb::SourceInfo {
                    filename: "Dockerfile".to_owned(),
                    ..Default::default()
                }),
                ranges: vec![
                    pb::Range { start: position(4), end: position(4) },
                    pb::Range { start: position(3), end: position(3) },
                ],
                ..api::VertexWarning::default()
            }],
        };
        let events: Vec<Event> = events(response).collect();
        let [
            Event::Vertex(vertex),
            Event::Transfer(transfer),
            Event::Log(log),
            Event::Warning(warning),
        ] = events.as_slice()
        else {
            panic!("{events:?}")
        };
        assert_eq!(vertex.started, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7)));
        assert_eq!(vertex.completed, None);
        assert_eq!((transfer.current, transfer.total), (0, 5));
        assert_eq!(log.data.as_ref(), b"\xff\n");
        let expected = Location { file: "Dockerfile".to_owned(), first_line: 3, last_line: 4 };
        assert_eq!((warning.short.as_str(), &warning.location), ("deprecated", &Some(expected)));
    }
}
