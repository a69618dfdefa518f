//! The lines that buildctl prints. Names, errors and output in them are of the tenant's Dockerfile.

use base64::{Engine, engine::general_purpose::STANDARD};
use ocibuild::runner::progress::Tracker;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{hold, made_of};

const TIMES: &[&str] = &[
    "2026-01-01T00:00:00Z",
    "2026-01-01T00:00:01.5Z",
    "-009999-01-02T01:59:59Z",
    "9999-12-30T22:00:00Z",
    "1970-01-01T00:00:00Z",
    "yesterday",
];
const NAMES: &[&str] = &[
    "[1/2] RUN ",
    "[internal] load",
    "[auth] ",
    "exporting ",
    "pushing ",
    "\r",
    "\n",
    "\u{1b}[2J",
    "ä",
    "\0",
    " context canceled",
];
const DIGESTS: &[&str] = &["sha256:1", "sha256:2", "sha256:3", ""];

fn a_time() -> impl Strategy<Value = Value> {
    prop_oneof![1 => Just(Value::Null), 6 => prop::sample::select(TIMES).prop_map(Value::from)]
}

fn a_line() -> impl Strategy<Value = Vec<u8>> {
    let digest = || prop::sample::select(DIGESTS);
    let vertex = (digest(), made_of(NAMES, 4), a_time(), a_time(), any::<bool>(), made_of(NAMES, 3)).prop_map(
        |(digest, name, started, completed, cached, error)| {
            json!({ "vertexes": [{
                "digest": digest, "name": name, "started": started, "completed": completed, "cached": cached, "error": error,
            }] })
        },
    );
    let log = (digest(), prop::collection::vec(any::<u8>(), 0..60), a_time())
        .prop_map(|(vertex, data, at)| json!({ "logs": [{ "vertex": vertex, "data": STANDARD.encode(data), "timestamp": at }] }));
    let status = (digest(), a_time(), a_time())
        .prop_map(|(vertex, started, completed)| json!({ "statuses": [{ "id": "pushing layers", "vertex": vertex, "started": started, "completed": completed }] }));
    let warning = any::<String>()
        .prop_map(|text| json!({ "warnings": [{ "short": STANDARD.encode(text) }] }));
    let right = prop_oneof![4 => vertex, 2 => log, 1 => status, 1 => warning]
        .prop_map(|line| line.to_string().into_bytes());
    let cut = (right, any::<prop::sample::Index>(), prop::bool::weighted(0.1)).prop_map(
        |(mut line, length, is_cut)| {
            if is_cut {
                line.truncate(length.index(line.len()));
            }
            line
        },
    );
    prop_oneof![6 => cut, 1 => prop::collection::vec(any::<u8>(), 0..60)]
}

fn is_readable(text: &str) -> bool {
    text.chars().all(|character| character == '\t' || !character.is_control())
}

#[test]
fn lines_in_any_order_leave_a_progress_that_can_be_read() {
    hold(1, prop::collection::vec(a_line(), 0..8), |lines| {
        let mut tracker = Tracker::default();
        for line in &lines {
            for printed in tracker.line(line) {
                prop_assert!(is_readable(&printed), "{printed:?}");
            }
            let progress = tracker.progress();
            prop_assert!(
                progress.cached <= progress.done && progress.done <= progress.total,
                "{progress:?}"
            );
        }
        let failed = tracker
            .failed()
            .into_iter()
            .flat_map(|failed| failed.tail.iter().chain([&failed.name, &failed.error]));
        for text in failed
            .map(String::as_str)
            .chain(tracker.remarks())
            .chain(tracker.warnings().iter().map(String::as_str))
        {
            prop_assert!(is_readable(text) && text.len() <= 4096, "{text:?}");
        }
        let _ = (tracker.spans(), tracker.interrupted());
        Ok(())
    });
}

#[test]
fn a_daemon_that_never_stops_talking_takes_little_memory() {
    let mut tracker = Tracker::default();
    let noise = "x".repeat(1 << 20);
    for number in 0..600 {
        for digest in [format!("sha256:{number}"), format!("{number}{noise}")] {
            let vertex = format!(
                r#"{{"vertexes":[{{"digest":"{digest}","name":"[{number}] {noise}","started":"{}"}}]}}"#,
                TIMES[0]
            );
            tracker.line(vertex.as_bytes());
        }
        tracker.line(noise.as_bytes());
    }
    assert!(tracker.progress().current.is_some_and(|current| current.len() <= 512));
}
