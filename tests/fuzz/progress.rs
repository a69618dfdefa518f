//! The events of a solve. Names, errors and output in them are of the tenant's Dockerfile, and a
//! daemon can send any of them in any order.

use std::time::{Duration, SystemTime};

use ocibuild::{
    buildkit::{Event, LogOutput, Transfer, Vertex, Warning},
    runner::progress::Tracker,
};
use proptest::prelude::*;

use crate::{hold, made_of};

/// Seconds since 1970 that the clock of a daemon may show.
const TIMES: &[i64] = &[1_767_225_600, 1_767_225_601, -62_135_596_800, 253_402_300_799, 0];
/// Pieces of names and errors.
pub const NAMES: &[&str] = &[
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
    "https://u:p@h/?q ",
];
pub const DIGESTS: &[&str] = &["sha256:1", "sha256:2", "sha256:3", ""];

fn time(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
}

fn a_time() -> impl Strategy<Value = Option<SystemTime>> {
    prop_oneof![1 => Just(None), 6 => prop::sample::select(TIMES).prop_map(time)]
}

fn an_event() -> impl Strategy<Value = Event> {
    let digest = || prop::sample::select(DIGESTS).prop_map(str::to_owned);
    let vertex =
        (digest(), made_of(NAMES, 4), a_time(), a_time(), any::<bool>(), made_of(NAMES, 3));
    let vertex = vertex.prop_map(|(digest, name, started, completed, is_cached, error)| {
        let vertex =
            Vertex { digest, name, started, completed, is_cached, error, ..Vertex::default() };
        Event::Vertex(vertex)
    });
    let log = (digest(), prop::collection::vec(any::<u8>(), 0..60), a_time())
        .prop_map(|(vertex, data, time)| Event::Log(LogOutput { vertex, data: data.into(), time }));
    let transfer = (digest(), a_time(), a_time()).prop_map(|(vertex, started, completed)| {
        let id = "pushing layers".to_owned();
        Event::Transfer(Transfer { id, vertex, started, completed, ..Transfer::default() })
    });
    let warning =
        any::<String>().prop_map(|short| Event::Warning(Warning { short, ..Warning::default() }));
    prop_oneof![4 => vertex, 2 => log, 1 => transfer, 1 => warning]
}

pub fn is_readable(text: &str) -> bool {
    text.chars().all(|character| character == '\t' || !character.is_control())
}

/// Checks that the texts that a tracker keeps are short and readable.
pub fn check_texts(tracker: &Tracker) -> Result<(), TestCaseError> {
    let failed = tracker
        .failed()
        .into_iter()
        .flat_map(|failed| failed.tail.iter().chain([&failed.name, &failed.error]));
    let texts = failed
        .chain(tracker.warnings())
        .map(String::as_str)
        .chain(tracker.interrupted())
        .chain(tracker.waited_for());
    for text in texts {
        prop_assert!(is_readable(text) && text.len() <= 4096, "{text:?}");
    }
    let current = tracker.progress().current.unwrap_or_default();
    prop_assert!(is_readable(&current) && current.len() <= 512, "{current:?}");
    let _ = (tracker.spans(), tracker.phase());
    Ok(())
}

#[test]
fn events_in_any_order_leave_a_progress_that_can_be_read() {
    hold(1, prop::collection::vec(an_event(), 0..8), |events| {
        let mut tracker = Tracker::default();
        for event in events {
            for printed in tracker.event(event) {
                prop_assert!(is_readable(&printed), "{printed:?}");
            }
            let progress = tracker.progress();
            prop_assert!(
                progress.cached <= progress.done && progress.done <= progress.total,
                "{progress:?}"
            );
        }
        check_texts(&tracker)?;
        Ok(())
    });
}

#[test]
fn a_daemon_that_never_stops_talking_takes_little_memory() {
    let mut tracker = Tracker::default();
    let noise = "x".repeat(1 << 20);
    for number in 0..600 {
        for digest in [format!("sha256:{number}"), format!("{number}{noise}")] {
            let vertex = Vertex {
                digest,
                name: format!("[{number}] {noise}"),
                started: time(TIMES[0]),
                ..Vertex::default()
            };
            tracker.event(Event::Vertex(vertex));
        }
    }
    assert!(tracker.progress().current.is_some_and(|current| current.len() <= 512));
}
