//! BuildKit's progress, line by line. Pure: a line of `buildctl --progress=rawjson` in, plain log lines as `docker build` prints
//! them out; beside them what is known so far: steps, times, the step that failed. Memory is bounded whatever comes.

use std::collections::{BTreeMap, HashMap, VecDeque};

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::{confidential::Confidential, deadlines::RunPhase};
use crate::{api::Progress, text::without_secrets};

/// Vertices that are kept; a Dockerfile has dozens.
const VERTICES_LIMIT: usize = 10_000;
/// Lines of a step's output that are kept for a failure.
const TAIL_LINES: usize = 10;
/// Bytes of a line that are kept for a failure, or of a name.
const TEXT_LIMIT: usize = 512;
/// Bytes of a line of output that are printed as one.
const LINE_LIMIT: usize = 64 * 1024;
/// Lines that are not progress, kept for the diagnosis.
const REMARKS_LIMIT: usize = 40;
const WARNINGS_LIMIT: usize = 10;
/// Parts of an export that are open at a time: pushes, and what goes before them.
const PARTS_LIMIT: usize = 100;
const PUSHING: &str = "pushing ";
/// Bytes of a digest: `sha256:` and 64 digits.
const DIGEST_LIMIT: usize = 128;

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    vertexes: Vec<VertexReport>,
    #[serde(default)]
    statuses: Vec<StatusReport>,
    #[serde(default)]
    logs: Vec<LogReport>,
    #[serde(default)]
    warnings: Vec<WarningReport>,
}

#[derive(Deserialize)]
struct VertexReport {
    digest: String,
    #[serde(default)]
    name: String,
    started: Option<Timestamp>,
    completed: Option<Timestamp>,
    #[serde(default)]
    cached: bool,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct StatusReport {
    #[serde(default)]
    id: String,
    vertex: String,
    started: Option<Timestamp>,
    completed: Option<Timestamp>,
}

#[derive(Deserialize)]
struct LogReport {
    vertex: String,
    #[serde(default)]
    data: String,
    timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
struct WarningReport {
    #[serde(default)]
    short: String,
}

/// What kind of work a vertex is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A step of the Dockerfile.
    Step,
    /// Making layers, writing the tar, pushing.
    Export,
    /// BuildKit's own business.
    Internal,
}

struct Vertex {
    number: usize,
    name: String,
    kind: Kind,
    started: Option<Timestamp>,
    completed: Option<Timestamp>,
    is_cached: bool,
    is_failed: bool,
    is_announced: bool,
    is_closed: bool,
    tail: VecDeque<String>,
    open_line: Vec<u8>,
    /// Of an export: what it is about, and since when.
    open_parts: BTreeMap<String, Timestamp>,
}

impl Vertex {
    fn is_open(&self) -> bool {
        self.started.is_some() && self.completed.is_none()
    }

    fn is_done(&self) -> bool {
        self.completed.is_some() && !self.is_failed
    }
}

/// The step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedStep {
    /// Its name, for example `[2/3] RUN make`.
    pub name: String,
    /// BuildKit's words.
    pub error: String,
    /// The last lines that it printed.
    pub tail: Vec<String>,
}

/// Where the time went, in milliseconds by the daemon's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// The steps of the Dockerfile.
    pub build: Option<u64>,
    /// Making the layers and writing the tar.
    pub export: Option<u64>,
    /// Pushing.
    pub push: Option<u64>,
}

#[derive(Clone, Copy, Default)]
struct Span {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

impl Span {
    fn cover(&mut self, from: Option<Timestamp>, to: Option<Timestamp>) {
        self.from = [self.from, from].into_iter().flatten().min();
        self.to = [self.to, to].into_iter().flatten().max();
    }

    fn milliseconds(self) -> Option<u64> {
        let (from, to) = (self.from?, self.to?);
        u64::try_from(to.duration_since(from).as_millis()).ok()
    }
}

/// All that is known of one run of buildctl.
#[derive(Default)]
pub struct Tracker {
    vertices: HashMap<String, Vertex>,
    order: Vec<String>,
    failed: Option<FailedStep>,
    interrupted: Option<String>,
    waited_for: Option<String>,
    remarks: VecDeque<String>,
    warnings: Vec<String>,
    confidential: Confidential,
    build: Span,
    export: Span,
    push: Span,
}

impl Tracker {
    /// Takes a line of buildctl's stderr; what is to be printed comes back.
    pub fn line(&mut self, line: &[u8]) -> Vec<String> {
        let Ok(report) = serde_json::from_slice::<Report>(line) else { return self.remark(line) };
        let mut printed = Vec::new();
        for vertex in report.vertexes {
            self.vertex(vertex, &mut printed);
        }
        for status in &report.statuses {
            self.part(status);
        }
        for log in report.logs {
            self.log(&log, &mut printed);
        }
        for warning in report.warnings {
            let text = STANDARD.decode(warning.short).unwrap_or_default();
            let text =
                readable(&self.confidential.hide(&String::from_utf8_lossy(&text)), TEXT_LIMIT);
            if self.warn(&text) {
                printed.push(format!("WARNING: {text}"));
            }
        }
        printed
    }

    /// Says none of these values, whatever BuildKit says.
    pub fn keep_back(&mut self, values: impl IntoIterator<Item = String>) {
        self.confidential.add(values);
    }

    /// Keeps a warning, if there is room; whether it is new.
    pub fn warn(&mut self, warning: &str) -> bool {
        let is_new = self.warnings.len() < WARNINGS_LIMIT
            && !self.warnings.iter().any(|other| other == warning);
        if is_new {
            self.warnings.push(warning.to_owned());
        }
        is_new
    }

    /// How far the build is.
    pub fn progress(&self) -> Progress {
        let steps = || self.in_order().filter(|vertex| vertex.kind == Kind::Step);
        let count = |filter: fn(&Vertex) -> bool| {
            i32::try_from(steps().filter(|vertex| filter(vertex)).count()).unwrap_or(i32::MAX)
        };
        let total = count(|_| true);
        let done = count(Vertex::is_done);
        let running = |kind| {
            let open =
                self.in_order().filter(move |vertex| vertex.kind == kind && vertex.is_open());
            open.max_by_key(|vertex| vertex.started)
        };
        Progress {
            total,
            done,
            cached: count(|vertex| vertex.is_cached && vertex.is_done()),
            current: running(Kind::Step)
                .or_else(|| running(Kind::Export))
                .map(|vertex| vertex.name.clone()),
            summary: format!("{done}/{total}"),
        }
    }

    /// What BuildKit is doing. Exports run beside each other; while a push is among them, that is what counts.
    pub fn phase(&self) -> RunPhase {
        let mut exports = self
            .in_order()
            .filter(|vertex| vertex.kind == Kind::Export && vertex.is_open())
            .peekable();
        if exports.peek().is_none() {
            return RunPhase::Build;
        }
        let is_pushing =
            exports.any(|export| export.open_parts.keys().any(|part| part.starts_with(PUSHING)));
        if is_pushing { RunPhase::Push } else { RunPhase::Export }
    }

    /// BuildKit is told to stop now: what was begun last and has not ended is what it waited for.
    pub fn stop(&mut self) {
        let last =
            self.in_order().filter(|vertex| vertex.is_open()).max_by_key(|vertex| vertex.started);
        self.waited_for = last.map(|last| {
            let part = last.open_parts.iter().max_by_key(|(_, since)| **since);
            part.map_or_else(|| last.name.clone(), |(part, _)| format!("{}: {part}", last.name))
        });
    }

    /// What was waited for when the build was told to stop.
    pub fn waited_for(&self) -> Option<&str> {
        self.waited_for.as_deref()
    }

    /// Begins anew for another run; why one was stopped stays known.
    pub fn reset(&mut self) {
        let (waited_for, confidential) =
            (self.waited_for.take(), std::mem::take(&mut self.confidential));
        *self = Self { waited_for, confidential, ..Self::default() };
    }

    /// The step that failed first, if one did.
    pub fn failed(&self) -> Option<&FailedStep> {
        self.failed.as_ref()
    }

    /// The step that was running when the build was told to stop.
    pub fn interrupted(&self) -> Option<&str> {
        self.interrupted.as_deref()
    }

    /// The last lines that were no progress: the daemon's messages, the excerpt of the Dockerfile, the final `error: …`.
    pub fn remarks(&self) -> impl Iterator<Item = &str> {
        self.remarks.iter().map(String::as_str)
    }

    /// BuildKit's warnings.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where the time went.
    pub fn spans(&self) -> Spans {
        let push = self.push.milliseconds();
        Spans {
            build: self.build.milliseconds(),
            export: self
                .export
                .milliseconds()
                .map(|export| export.saturating_sub(push.unwrap_or(0))),
            push,
        }
    }

    fn in_order(&self) -> impl Iterator<Item = &Vertex> {
        self.order.iter().filter_map(|digest| self.vertices.get(digest))
    }

    fn remark(&mut self, line: &[u8]) -> Vec<String> {
        let line = String::from_utf8_lossy(line);
        let text = self.confidential.hide(line.trim_end());
        let text = readable(&text, 8 * TEXT_LIMIT);
        if text.is_empty() {
            return Vec::new();
        }
        if self.remarks.len() == REMARKS_LIMIT {
            self.remarks.pop_front();
        }
        let printed = without_secrets(&text);
        self.remarks.push_back(text);
        vec![printed]
    }

    /// A part of an export: `pushing layers`, `exporting manifest sha256:…`.
    fn part(&mut self, report: &StatusReport) {
        let Some(vertex) = self.vertices.get_mut(&report.vertex) else { return };
        let name = readable(&report.id, TEXT_LIMIT);
        if name.starts_with(PUSHING) {
            self.push.cover(report.started, report.completed);
        }
        if vertex.kind != Kind::Export {
            return;
        }
        match (report.started, report.completed) {
            (Some(started), None) if vertex.open_parts.len() < PARTS_LIMIT => {
                vertex.open_parts.insert(name, started);
            }
            (_, Some(_)) => {
                vertex.open_parts.remove(&name);
            }
            _ => {}
        }
    }

    fn vertex(&mut self, report: VertexReport, printed: &mut Vec<String>) {
        if !self.vertices.contains_key(&report.digest) {
            if self.vertices.len() == VERTICES_LIMIT || report.digest.len() > DIGEST_LIMIT {
                return;
            }
            let kind = kind(&report.name);
            let vertex = Vertex {
                number: self.order.len() + 1,
                name: readable(&self.confidential.hide(&report.name), TEXT_LIMIT),
                kind,
                started: None,
                completed: None,
                is_cached: false,
                is_failed: false,
                is_announced: false,
                is_closed: false,
                tail: VecDeque::new(),
                open_line: Vec::new(),
                open_parts: BTreeMap::new(),
            };
            self.order.push(report.digest.clone());
            self.vertices.insert(report.digest.clone(), vertex);
        }
        let Some(vertex) = self.vertices.get_mut(&report.digest) else { return };
        // A vertex can start again; then it is open until it completes again.
        vertex.started = report.started.or(vertex.started);
        vertex.completed = report.completed;
        // A step that several targets share is done by the first and cached for the others.
        vertex.is_cached |= report.cached && !vertex.is_closed;
        vertex.is_failed |= !report.error.is_empty();
        match vertex.kind {
            Kind::Step => self.build.cover(report.started, report.completed),
            Kind::Export => self.export.cover(report.started, report.completed),
            Kind::Internal => {}
        }
        if report.started.is_none() && report.completed.is_none() {
            return;
        }
        announce(vertex, printed);
        // Of the several ends of a vertex that starts again the first is printed, and a failure.
        let is_news = !vertex.is_closed || !report.error.is_empty();
        let Some(completed) = report.completed.filter(|_| is_news) else { return };
        vertex.is_closed = true;
        if !vertex.open_line.is_empty() {
            close_line(vertex, Some(completed), &self.confidential, printed);
        }
        let number = vertex.number;
        if !report.error.is_empty() {
            let error = readable(&self.confidential.hide(&report.error), 4 * TEXT_LIMIT);
            printed.push(format!("#{number} ERROR: {}", without_secrets(&error)));
            let is_collateral = report.error.ends_with("context canceled");
            if is_collateral && vertex.kind == Kind::Step && self.interrupted.is_none() {
                self.interrupted = Some(vertex.name.clone());
            }
            if self.failed.is_none() && !is_collateral {
                self.failed = Some(FailedStep {
                    name: vertex.name.clone(),
                    error,
                    tail: vertex.tail.iter().cloned().collect(),
                });
            }
        } else if report.cached {
            printed.push(format!("#{number} CACHED"));
        } else {
            let took = vertex
                .started
                .map_or(0.0, |started| completed.duration_since(started).as_secs_f64());
            printed.push(format!("#{number} DONE {took:.1}s"));
        }
    }

    fn log(&mut self, report: &LogReport, printed: &mut Vec<String>) {
        let Some(vertex) = self.vertices.get_mut(&report.vertex) else { return };
        let Ok(data) = STANDARD.decode(&report.data) else { return };
        announce(vertex, printed);
        let mut rest = data.as_slice();
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let room = LINE_LIMIT.saturating_sub(vertex.open_line.len());
            vertex.open_line.extend_from_slice(&rest[..end.min(room)]);
            close_line(vertex, report.timestamp, &self.confidential, printed);
            rest = &rest[end + 1..];
        }
        let room = LINE_LIMIT.saturating_sub(vertex.open_line.len());
        vertex.open_line.extend_from_slice(&rest[..rest.len().min(room)]);
    }
}

fn kind(name: &str) -> Kind {
    if name.starts_with("exporting ") || name.starts_with("pushing ") {
        Kind::Export
    } else if name.starts_with('[')
        && !name.starts_with("[internal]")
        && !name.starts_with("[auth]")
    {
        Kind::Step
    } else {
        Kind::Internal
    }
}

fn announce(vertex: &mut Vertex, printed: &mut Vec<String>) {
    if !vertex.is_announced {
        vertex.is_announced = true;
        printed.push(format!("#{} {}", vertex.number, vertex.name));
    }
}

fn close_line(
    vertex: &mut Vertex,
    at: Option<Timestamp>,
    confidential: &Confidential,
    printed: &mut Vec<String>,
) {
    let bytes = std::mem::take(&mut vertex.open_line);
    let text = String::from_utf8_lossy(&bytes);
    // A progress bar overwrites its line; only its last state is worth keeping.
    let last = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    let line = readable(&confidential.hide(last), LINE_LIMIT);
    let since = at
        .zip(vertex.started)
        .map_or(0.0, |(at, started)| at.duration_since(started).as_secs_f64());
    printed.push(format!("#{} {since:.3} {line}", vertex.number));
    if vertex.tail.len() == TAIL_LINES {
        vertex.tail.pop_front();
    }
    vertex.tail.push_back(readable(&line, TEXT_LIMIT));
}

/// A text of a bounded length without control characters but tabs: it ends in terminals, events and JSON.
fn readable(text: &str, limit: usize) -> String {
    let mut readable = String::new();
    for character in text.chars() {
        if readable.len() + character.len_utf8() > limit {
            break;
        }
        if character == '\n' {
            readable.push(' ');
        } else if character == '\t' || !character.is_control() {
            readable.push(character);
        }
    }
    readable
}

#[cfg(test)]
mod tests;
