//! Turns events into `docker build` log lines and tracks steps, times and the failed step. Pure;
//! memory is bounded.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use super::{confidential::Confidential, deadlines::RunPhase};
use crate::{
    api::Progress,
    buildkit::{Event, LogOutput, Transfer, Vertex as VertexState, VertexKind},
    text::without_secrets,
};

/// Vertices that are kept; a Dockerfile has dozens.
const MAX_VERTICES: usize = 10_000;
/// Lines of a step's output that are kept for a failure.
const MAX_TAIL_LINES: usize = 10;
/// Bytes of a line that are kept for a failure, or of a name.
const MAX_TEXT_BYTES: usize = 512;
/// Bytes of a line of output that are printed as one.
const MAX_LINE_BYTES: usize = 64 * 1024;
const MAX_WARNINGS: usize = 10;
/// Maximum open transfers of an export.
const MAX_OPEN_TRANSFERS: usize = 100;
/// The same of all exports together.
const MAX_ALL_OPEN_TRANSFERS: usize = 1000;
/// Bytes of the unfinished lines of all vertices together; what exceeds them is not printed.
const MAX_ALL_OPEN_BYTES: usize = 16 << 20;
const PUSHING: &str = "pushing ";
/// Bytes of a digest: `sha256:` and 64 digits.
const MAX_DIGEST_BYTES: usize = 128;

struct Vertex {
    number: usize,
    name: String,
    kind: VertexKind,
    started: Option<SystemTime>,
    completed: Option<SystemTime>,
    is_cached: bool,
    is_failed: bool,
    is_announced: bool,
    is_closed: bool,
    tail: VecDeque<String>,
    open_line: Vec<u8>,
    /// Of an export: what it is about, and since when.
    open_transfers: BTreeMap<String, SystemTime>,
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
    from: Option<SystemTime>,
    to: Option<SystemTime>,
}

impl Span {
    fn cover(&mut self, from: Option<SystemTime>, to: Option<SystemTime>) {
        self.from = [self.from, from].into_iter().flatten().min();
        self.to = [self.to, to].into_iter().flatten().max();
    }

    fn milliseconds(self) -> Option<u64> {
        let (from, to) = (self.from?, self.to?);
        u64::try_from(to.duration_since(from).ok()?.as_millis()).ok()
    }
}

/// State of a solve.
#[derive(Default)]
pub struct Tracker {
    vertices: HashMap<String, Vertex>,
    order: Vec<String>,
    failed: Option<FailedStep>,
    interrupted: Option<String>,
    waited_for: Option<String>,
    warnings: Vec<String>,
    confidential: Confidential,
    open_transfers: usize,
    open_bytes: usize,
    build: Span,
    export: Span,
    push: Span,
}

/// The tracker of the running solve, shared with those who report progress.
#[derive(Clone, Default)]
pub struct SharedTracker(Arc<Mutex<Tracker>>);

impl SharedTracker {
    /// Locks the tracker and calls `use_it`.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Tracker) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Resets the tracker for another solve.
    pub fn reset(&self) {
        self.with(Tracker::reset);
    }
}

impl Tracker {
    /// Takes an event and returns the lines to print.
    pub fn event(&mut self, event: Event) -> Vec<String> {
        let mut printed = Vec::new();
        match event {
            Event::Vertex(vertex) => self.vertex(vertex, &mut printed),
            Event::Transfer(transfer) => self.transfer(&transfer),
            Event::Log(log) => self.log(&log, &mut printed),
            Event::Warning(warning) => {
                let text = self.redact(&warning.short, MAX_TEXT_BYTES);
                if self.warn(&text) {
                    printed.push(format!("WARNING: {text}"));
                }
            }
        }
        printed
    }

    /// Removes confidential values and control characters from a text.
    pub fn redact(&self, text: &str, limit: usize) -> String {
        readable(&self.confidential.hide(text), limit)
    }

    /// Says none of these values, whatever BuildKit says.
    pub fn keep_back(&mut self, values: impl IntoIterator<Item = String>) {
        self.confidential.add(values);
    }

    /// Keeps a warning, if there is room; whether it is new.
    pub fn warn(&mut self, warning: &str) -> bool {
        let is_new = self.warnings.len() < MAX_WARNINGS
            && !self.warnings.iter().any(|other| other == warning);
        if is_new {
            self.warnings.push(warning.to_owned());
        }
        is_new
    }

    /// How far the build is.
    pub fn progress(&self) -> Progress {
        let steps = || self.in_order().filter(|vertex| vertex.kind == VertexKind::Step);
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
            current: running(VertexKind::Step)
                .or_else(|| running(VertexKind::Export))
                .map(|vertex| vertex.name.clone()),
            summary: format!("{done}/{total}"),
        }
    }

    /// What BuildKit is doing. Exports run beside each other; while a push is among them, that is what counts.
    pub fn phase(&self) -> RunPhase {
        let mut exports = self
            .in_order()
            .filter(|vertex| vertex.kind == VertexKind::Export && vertex.is_open())
            .peekable();
        if exports.peek().is_none() {
            return RunPhase::Build;
        }
        let is_pushing = exports
            .any(|export| export.open_transfers.keys().any(|part| part.starts_with(PUSHING)));
        if is_pushing { RunPhase::Push } else { RunPhase::Export }
    }

    /// BuildKit is told to stop now: what was begun last and has not ended is what it waited for.
    pub fn stop(&mut self) {
        let last =
            self.in_order().filter(|vertex| vertex.is_open()).max_by_key(|vertex| vertex.started);
        self.waited_for = last.map(|last| {
            let part = last.open_transfers.iter().max_by_key(|(_, since)| **since);
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

    /// Takes a part of an export: `pushing layers`, `exporting manifest sha256:…`.
    fn transfer(&mut self, report: &Transfer) {
        let Some(vertex) = self.vertices.get_mut(&report.vertex) else { return };
        let name = readable(&report.id, MAX_TEXT_BYTES);
        if name.starts_with(PUSHING) {
            self.push.cover(report.started, report.completed);
        }
        if vertex.kind != VertexKind::Export {
            return;
        }
        match (report.started, report.completed) {
            (Some(started), None)
                if vertex.open_transfers.len() < MAX_OPEN_TRANSFERS
                    && self.open_transfers < MAX_ALL_OPEN_TRANSFERS =>
            {
                let is_new = vertex.open_transfers.insert(name, started).is_none();
                self.open_transfers += usize::from(is_new);
            }
            (_, Some(_)) => {
                let was_open = vertex.open_transfers.remove(&name).is_some();
                self.open_transfers -= usize::from(was_open);
            }
            _ => {}
        }
    }

    fn vertex(&mut self, report: VertexState, printed: &mut Vec<String>) {
        if !self.vertices.contains_key(&report.digest) {
            if self.vertices.len() == MAX_VERTICES || report.digest.len() > MAX_DIGEST_BYTES {
                return;
            }
            let kind = VertexKind::of(&report.name);
            let vertex = Vertex {
                number: self.order.len() + 1,
                name: readable(&self.confidential.hide(&report.name), MAX_TEXT_BYTES),
                kind,
                started: None,
                completed: None,
                is_cached: false,
                is_failed: false,
                is_announced: false,
                is_closed: false,
                tail: VecDeque::new(),
                open_line: Vec::new(),
                open_transfers: BTreeMap::new(),
            };
            self.order.push(report.digest.clone());
            self.vertices.insert(report.digest.clone(), vertex);
        }
        let Some(vertex) = self.vertices.get_mut(&report.digest) else { return };
        // A vertex can start again; then it is open until it completes again.
        vertex.started = report.started.or(vertex.started);
        vertex.completed = report.completed;
        // A step that several targets share is done by the first and cached for the others.
        vertex.is_cached |= report.is_cached && !vertex.is_closed;
        vertex.is_failed |= !report.error.is_empty();
        match vertex.kind {
            VertexKind::Step => self.build.cover(report.started, report.completed),
            VertexKind::Export => self.export.cover(report.started, report.completed),
            VertexKind::Internal => {}
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
            self.open_bytes -= vertex.open_line.len();
            close_line(vertex, Some(completed), &self.confidential, printed);
        }
        let number = vertex.number;
        if !report.error.is_empty() {
            let error = readable(&self.confidential.hide(&report.error), 4 * MAX_TEXT_BYTES);
            printed.push(format!("#{number} ERROR: {}", without_secrets(&error)));
            let is_collateral = report.error.ends_with("context canceled");
            if is_collateral && vertex.kind == VertexKind::Step && self.interrupted.is_none() {
                self.interrupted = Some(vertex.name.clone());
            }
            if self.failed.is_none() && !is_collateral {
                self.failed = Some(FailedStep {
                    name: vertex.name.clone(),
                    error,
                    tail: vertex.tail.iter().cloned().collect(),
                });
            }
        } else if report.is_cached {
            printed.push(format!("#{number} CACHED"));
        } else {
            let took = seconds_between(vertex.started, Some(completed));
            printed.push(format!("#{number} DONE {took:.1}s"));
        }
    }

    fn log(&mut self, report: &LogOutput, printed: &mut Vec<String>) {
        let Some(vertex) = self.vertices.get_mut(&report.vertex) else { return };
        announce(vertex, printed);
        let of_others = self.open_bytes - vertex.open_line.len();
        let limit = MAX_LINE_BYTES.min(MAX_ALL_OPEN_BYTES - of_others);
        let mut rest = report.data.as_ref();
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let room = limit.saturating_sub(vertex.open_line.len());
            vertex.open_line.extend_from_slice(&rest[..end.min(room)]);
            close_line(vertex, report.time, &self.confidential, printed);
            rest = &rest[end + 1..];
        }
        let room = limit.saturating_sub(vertex.open_line.len());
        vertex.open_line.extend_from_slice(&rest[..rest.len().min(room)]);
        self.open_bytes = of_others + vertex.open_line.len();
    }
}

/// Returns the seconds between two times, or 0 if one is unknown.
fn seconds_between(from: Option<SystemTime>, to: Option<SystemTime>) -> f64 {
    let between = from.zip(to).and_then(|(from, to)| to.duration_since(from).ok());
    between.unwrap_or_default().as_secs_f64()
}

fn announce(vertex: &mut Vertex, printed: &mut Vec<String>) {
    if !vertex.is_announced {
        vertex.is_announced = true;
        printed.push(format!("#{} {}", vertex.number, vertex.name));
    }
}

fn close_line(
    vertex: &mut Vertex,
    at: Option<SystemTime>,
    confidential: &Confidential,
    printed: &mut Vec<String>,
) {
    let bytes = std::mem::take(&mut vertex.open_line);
    let text = String::from_utf8_lossy(&bytes);
    // A progress bar overwrites its line; only its last state is worth keeping.
    let last = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    let line = readable(&confidential.hide(last), MAX_LINE_BYTES);
    let since = seconds_between(vertex.started, at);
    printed.push(format!("#{} {since:.3} {line}", vertex.number));
    if vertex.tail.len() == MAX_TAIL_LINES {
        vertex.tail.pop_front();
    }
    vertex.tail.push_back(readable(&line, MAX_TEXT_BYTES));
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
