//! Why a solve failed, as types: the details that BuildKit attaches to its gRPC errors.
//!
//! The details are JSON in protobuf's `Any` (`util/grpcerrors`), one for each layer of the error.
//! They come from a daemon and from frontends, so every part that is kept is bounded.

use std::io;

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use serde::Deserialize;
use tonic::{Code, Status};

use super::{
    auth::{BasicError, RandomError},
    connection::{ConnectError, ConnectionLost},
    event::{Location, VertexKind},
    proto::google::rpc,
    sender::SendError,
};

/// Details of one error that are read. BuildKit sends one or two for each layer of a build.
const MAX_DETAILS: usize = 256;
/// Bytes of all details. Each layer of an error may hold the whole Dockerfile.
const MAX_DETAILS_BYTES: usize = 8 << 20;
/// Bytes of a text that is kept.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// Bytes of a name or a digest that is kept.
const MAX_NAME_BYTES: usize = 4096;

/// Lines of the Dockerfile that are kept before and after those that failed.
const EXCERPT_MARGIN_LINES: u32 = 3;
const MAX_EXCERPT_LINES: usize = 30;
const MAX_EXCERPT_LINE_BYTES: usize = 512;

/// Error of a solve.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// The caller cancelled it.
    #[error("the solve was cancelled")]
    Cancelled,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The daemon died, or the network to it broke.
    #[error(transparent)]
    ConnectionLost(#[from] ConnectionLost),
    /// The daemon ended the session, without which the solve cannot finish.
    #[error("lost the BuildKit session: {0}")]
    SessionLost(String),
    /// A file or directory could not be sent.
    #[error("cannot send {directory:?} to BuildKit: {source}")]
    Send { directory: String, source: SendError },
    /// An export could not be written.
    #[error("cannot write the export: {source}")]
    Export { exporter: usize, source: io::Error },
    /// A registry with Basic authentication has no credential that serves the whole build.
    #[error(transparent)]
    Credentials(BasicError),
    /// The daemon or a frontend returned an error.
    #[error(transparent)]
    Failed(Box<SolveFailure>),
}

/// Error status of a solve, with its typed details.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SolveFailure {
    /// Nearly always `Unknown`: BuildKit maps few errors to codes.
    pub code: Code,
    pub message: String,
    /// The vertex that failed. Its name is known if the solve reported it.
    pub vertex: Option<FailedVertex>,
    /// The lines of the Dockerfile that failed.
    pub location: Option<Location>,
    /// The failed lines with their context.
    pub excerpt: Vec<SourceLine>,
    /// The exit code of the step's process; 128 and a signal's number for a signal.
    pub exit_code: Option<i32>,
    /// Whether the frontend failed, for example to parse the Dockerfile.
    pub is_frontend: bool,
    /// The identifier of the source that failed, for example `docker-image://…`.
    pub source_identifier: Option<String>,
}

/// A line of the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLine {
    /// Line number, starting at 1.
    pub number: u32,
    pub text: String,
    /// Whether the line is part of the failed instruction.
    pub is_failed: bool,
}

/// The vertex that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedVertex {
    pub digest: String,
    pub name: Option<String>,
}

impl FailedVertex {
    /// The kind of its work, if its name is known.
    pub fn kind(&self) -> Option<VertexKind> {
        self.name.as_deref().map(VertexKind::of)
    }
}

impl SolveError {
    /// Converts a status. One with an error source and no details is a transport error.
    pub(super) fn of(status: &Status) -> Self {
        let source = std::error::Error::source(status);
        match source.filter(|_| status.details().is_empty()) {
            Some(source) => Self::ConnectionLost(ConnectionLost::of(source)),
            None => Self::Failed(Box::new(SolveFailure::of(status))),
        }
    }
}

#[derive(Deserialize)]
struct VertexDetail {
    #[serde(default)]
    digest: String,
}

#[derive(Deserialize)]
struct SourceDetail {
    info: Option<SourceInfo>,
    #[serde(default)]
    ranges: Vec<Range>,
}

#[derive(Deserialize)]
struct SourceInfo {
    #[serde(default)]
    filename: String,
    /// The whole file, in base64.
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct Range {
    start: Option<Position>,
    end: Option<Position>,
}

#[derive(Deserialize)]
struct Position {
    #[serde(default)]
    line: u32,
}

/// `gatewayapi.ExitMessage`; Go encodes the field as `Code`.
#[derive(Deserialize)]
struct ExitDetail {
    #[serde(alias = "Code", default)]
    code: u32,
}

#[derive(Deserialize)]
struct SolveDetail {
    op: Option<Operation>,
}

/// An operation of LLB, by protobuf's oneof as Go's encoder writes it.
#[derive(Deserialize)]
struct Operation {
    #[serde(alias = "Op")]
    op: Option<OperationKind>,
    #[serde(alias = "Source")]
    source: Option<SourceOperation>,
}

#[derive(Deserialize)]
struct OperationKind {
    #[serde(alias = "Source")]
    source: Option<SourceOperation>,
}

#[derive(Deserialize)]
struct SourceOperation {
    #[serde(default)]
    identifier: String,
}

impl SolveFailure {
    /// Reads the details of an answer. Details that are damaged or of an unknown type are skipped.
    #[doc(hidden)]
    pub fn of(status: &Status) -> Self {
        let mut failure = Self {
            code: status.code(),
            message: truncated(status.message(), MAX_TEXT_BYTES),
            vertex: None,
            location: None,
            excerpt: Vec::new(),
            exit_code: None,
            is_frontend: false,
            source_identifier: None,
        };
        let details = status.details();
        let details = if details.len() > MAX_DETAILS_BYTES { &[] } else { details };
        let details = rpc::Status::decode(details).map(|status| status.details);
        for detail in details.unwrap_or_default().iter().take(MAX_DETAILS) {
            failure.add(&detail.type_url, &detail.value);
        }
        failure
    }

    fn add(&mut self, type_url: &str, json: &[u8]) {
        let name = type_url.rsplit('/').next().unwrap_or_default();
        let name = name.strip_suffix("+json").unwrap_or(name);
        match name {
            "errdefs.Vertex" => {
                let detail = read::<VertexDetail>(json).filter(|detail| !detail.digest.is_empty());
                if let Some(detail) = detail.filter(|_| self.vertex.is_none()) {
                    let digest = truncated(&detail.digest, MAX_NAME_BYTES);
                    self.vertex = Some(FailedVertex { digest, name: None });
                }
            }
            "errdefs.Source" => {
                let detail = read::<SourceDetail>(json).filter(|_| self.location.is_none());
                if let Some((location, excerpt)) = detail.and_then(located) {
                    (self.location, self.excerpt) = (Some(location), excerpt);
                }
            }
            "gatewayapi.ExitMessage" | "moby.buildkit.v1.frontend.ExitMessage" => {
                let code = read::<ExitDetail>(json).and_then(|exit| i32::try_from(exit.code).ok());
                self.exit_code = self.exit_code.or(code);
            }
            "errdefs.Frontend" | "errdefs.FrontendCap" | "errdefs.Subrequest" => {
                self.is_frontend = true;
            }
            "errdefs.Solve" => {
                let identifier = read::<SolveDetail>(json).and_then(|detail| {
                    let operation = detail.op?;
                    operation
                        .source
                        .or_else(|| operation.op?.source)
                        .map(|source| source.identifier)
                });
                let identifier = identifier.filter(|identifier| !identifier.is_empty());
                let identifier =
                    identifier.map(|identifier| truncated(&identifier, MAX_NAME_BYTES));
                self.source_identifier = self.source_identifier.take().or(identifier);
            }
            _ => {}
        }
    }
}

fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}

fn located(detail: SourceDetail) -> Option<(Location, Vec<SourceLine>)> {
    let line = |position: &Option<Position>| position.as_ref().map(|position| position.line);
    let first_line = detail.ranges.iter().filter_map(|range| line(&range.start)).min()?;
    let last_line = detail.ranges.iter().filter_map(|range| line(&range.end)).max()?;
    let info = detail.info?;
    let file = truncated(&info.filename, MAX_NAME_BYTES);
    let location = Location { file, first_line, last_line: last_line.max(first_line) };
    let text = STANDARD.decode(&info.data).unwrap_or_default();
    let excerpt = excerpt(&String::from_utf8_lossy(&text), &location);
    Some((location, excerpt))
}

/// Returns the location's lines and their margin, at most `MAX_EXCERPT_LINES`.
fn excerpt(text: &str, location: &Location) -> Vec<SourceLine> {
    let from = location.first_line.saturating_sub(EXCERPT_MARGIN_LINES).max(1);
    let to = location.last_line.saturating_add(EXCERPT_MARGIN_LINES);
    let lines = (1..).zip(text.lines());
    let wanted = lines.filter(|(number, _)| (from..=to).contains(number)).take(MAX_EXCERPT_LINES);
    wanted
        .map(|(number, text)| SourceLine {
            number,
            text: truncated(text, MAX_EXCERPT_LINE_BYTES),
            is_failed: (location.first_line..=location.last_line).contains(&number),
        })
        .collect()
}

/// Truncates a text at a character boundary.
pub(super) fn truncated(text: &str, limit: usize) -> String {
    text[..text.floor_char_boundary(limit)].to_owned()
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use serde_json::{Value, json};
    use tonic::{Code, Status};

    use super::{Engine, Location, STANDARD, SolveError, SolveFailure, SourceLine, rpc};

    fn status(message: &str, details: &[(&str, Value)]) -> Status {
        let details = details.iter().map(|(name, json)| prost_types::Any {
            type_url: format!("github.com/moby/buildkit/{name}+json"),
            value: json.to_string().into_bytes(),
        });
        let details = rpc::Status { details: details.collect(), ..rpc::Status::default() };
        Status::with_details(Code::Unknown, message, details.encode_to_vec().into())
    }

    #[test]
    fn the_details_of_an_error_become_types() {
        let position = |line: u32| json!({ "line": line });
        let text = "FROM scratch\nCOPY a /\nRUN exit 3\n# end\n";
        let source = json!({
            "info": { "filename": "Dockerfile", "data": STANDARD.encode(text) },
            "ranges": [{ "start": position(3), "end": position(3) }],
        });
        let failure = SolveFailure::of(&status(
            "process did not complete successfully: exit code: 3",
            &[
                ("stack.Stack", json!({ "frames": [] })),
                ("errdefs.Source", source),
                ("errdefs.Vertex", json!({ "digest": "sha256:1" })),
                ("gatewayapi.ExitMessage", json!({ "Code": 3 })),
                ("errdefs.Solve", json!({ "op": { "source": { "identifier": "git://x" } } })),
            ],
        ));
        let file = "Dockerfile".to_owned();
        assert_eq!(failure.location, Some(Location { file, first_line: 3, last_line: 3 }));
        let line =
            |number, text: &str, is_failed| SourceLine { number, text: text.to_owned(), is_failed };
        let excerpt = [
            line(1, "FROM scratch", false),
            line(2, "COPY a /", false),
            line(3, "RUN exit 3", true),
            line(4, "# end", false),
        ];
        assert_eq!(failure.excerpt, excerpt);
        assert_eq!(failure.vertex.map(|vertex| vertex.digest).as_deref(), Some("sha256:1"));
        assert_eq!((failure.exit_code, failure.is_frontend), (Some(3), false));
        assert_eq!(failure.source_identifier.as_deref(), Some("git://x"));
    }

    #[test]
    fn damaged_and_unknown_details_are_skipped() {
        let failure = SolveFailure::of(&status(
            "odd",
            &[
                ("errdefs.Source", json!("text")),
                ("errdefs.Vertex", json!({ "digest": 7 })),
                ("gatewayapi.ExitMessage", json!({ "Code": -1 })),
                ("something.Else", json!({})),
            ],
        ));
        assert_eq!((failure.location, failure.vertex, failure.exit_code), (None, None, None));
        let damaged = Status::with_details(Code::Internal, "odd", b"\xff".to_vec().into());
        assert_eq!(SolveFailure::of(&damaged).message, "odd");
    }

    #[test]
    fn a_status_with_an_error_source_is_a_lost_connection() {
        let broken = Status::from_error(Box::new(std::io::Error::other("broken pipe")));
        let error = SolveError::of(&broken);
        assert!(matches!(error, SolveError::ConnectionLost(_)), "{error:?}");
        let refused = SolveError::of(&Status::unavailable("the worker is busy"));
        assert!(matches!(refused, SolveError::Failed(_)), "{refused:?}");
    }
}
