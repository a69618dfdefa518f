//! What `Control.Status` sends, from the bytes of a message to the progress of a build.

use ocibuild::{
    buildkit::{
        Event, Vertex, events,
        proto::{moby::buildkit::v1 as api, pb},
    },
    runner::progress::Tracker,
};
use proptest::prelude::*;
use prost::Message;

use crate::{
    hold, large_input, made_of,
    progress::{DIGESTS, NAMES, check_texts, is_readable},
    wire::{damage, noise},
};

fn a_digest() -> impl Strategy<Value = String> {
    prop_oneof![
        30 => prop::sample::select(DIGESTS).prop_map(str::to_owned),
        1 => Just("long".repeat(100)),
    ]
}

fn a_text() -> impl Strategy<Value = String> {
    prop_oneof![20 => made_of(NAMES, 4), 1 => Just("ä\n".repeat(3000)), 2 => any::<String>()]
}

fn a_time() -> impl Strategy<Value = Option<prost_types::Timestamp>> {
    let seconds = prop_oneof![
        4 => 1_767_225_600..1_767_225_700_i64,
        1 => any::<i64>(),
        1 => prop::sample::select(vec![0, i64::MIN, i64::MAX, -62_135_596_801, 253_402_300_800]),
    ];
    let nanos = prop_oneof![3 => 0..1_000_000_000_i32, 1 => any::<i32>()];
    prop::option::weighted(
        0.8,
        (seconds, nanos).prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }),
    )
}

fn a_vertex() -> impl Strategy<Value = api::Vertex> {
    let inputs = prop::collection::vec(a_digest(), 0..3);
    let group = prop::option::weighted(0.1, a_text());
    (a_digest(), inputs, a_text(), any::<bool>(), a_time(), a_time(), a_text(), group).prop_map(
        |(digest, inputs, name, cached, started, completed, error, group)| api::Vertex {
            digest,
            inputs,
            name,
            cached,
            started,
            completed,
            error,
            progress_group: group
                .map(|name| pb::ProgressGroup { name, ..pb::ProgressGroup::default() }),
        },
    )
}

fn a_transfer() -> impl Strategy<Value = api::VertexStatus> {
    let count = || prop_oneof![0..100_i64, any::<i64>()];
    (a_text(), a_digest(), count(), count(), a_time(), a_time()).prop_map(
        |(id, vertex, current, total, started, completed)| api::VertexStatus {
            id,
            vertex,
            current,
            total,
            started,
            completed,
            ..api::VertexStatus::default()
        },
    )
}

fn a_log() -> impl Strategy<Value = api::VertexLog> {
    let text = prop_oneof![
        4 => prop::collection::vec(prop::sample::select(b"a\n\r\x1b\xff\xc3\xa4".as_slice()), 0..40),
        1 => a_text().prop_map(String::into_bytes),
    ];
    (a_digest(), a_time(), any::<i64>(), text).prop_map(|(vertex, timestamp, stream, msg)| {
        api::VertexLog { vertex, timestamp, stream, msg }
    })
}

fn a_warning() -> impl Strategy<Value = api::VertexWarning> {
    let line = || prop::option::weighted(0.8, prop_oneof![0..9_i32, any::<i32>()]);
    let range = (line(), line()).prop_map(|(start, end)| {
        let position = |line| pb::Position { line, character: 0 };
        pb::Range { start: start.map(position), end: end.map(position) }
    });
    (a_digest(), a_text(), a_text(), prop::collection::vec(range, 0..3)).prop_map(
        |(vertex, short, filename, ranges)| api::VertexWarning {
            vertex,
            short: short.into_bytes(),
            info: Some(pb::SourceInfo { filename, ..pb::SourceInfo::default() }),
            ranges,
            ..api::VertexWarning::default()
        },
    )
}

fn a_response() -> impl Strategy<Value = api::StatusResponse> {
    (
        prop::collection::vec(a_vertex(), 0..4),
        prop::collection::vec(a_transfer(), 0..2),
        prop::collection::vec(a_log(), 0..3),
        prop::collection::vec(a_warning(), 0..2),
    )
        .prop_map(|(vertexes, statuses, logs, warnings)| api::StatusResponse {
            vertexes,
            statuses,
            logs,
            warnings,
        })
}

fn follow<'a>(messages: impl Iterator<Item = &'a [u8]>) -> Result<(), TestCaseError> {
    let mut tracker = Tracker::default();
    for message in messages {
        let Ok(response) = api::StatusResponse::decode(message) else { continue };
        for event in events(response) {
            if let Event::Warning(warning) = &event
                && let Some(location) = &warning.location
            {
                prop_assert!(location.first_line <= location.last_line, "{location:?}");
            }
            for printed in tracker.event(event) {
                prop_assert!(is_readable(&printed) && printed.len() < 70_000, "{printed:?}");
            }
            let progress = tracker.progress();
            prop_assert!(
                progress.cached <= progress.done && progress.done <= progress.total,
                "{progress:?}"
            );
        }
        tracker.stop();
        check_texts(&tracker)?;
    }
    Ok(())
}

#[test]
fn messages_that_are_almost_valid_leave_a_consistent_progress() {
    let message = (a_response(), damage())
        .prop_map(|(response, damage)| damage.apply(response.encode_to_vec()));
    hold(2, prop::collection::vec(message, 1..4), |messages| {
        follow(messages.iter().map(Vec::as_slice))
    });
}

#[test]
fn arbitrary_bytes_leave_a_consistent_progress() {
    hold(2, noise(200), |message| follow([message.as_slice()].into_iter()));
}

fn feed(tracker: &mut Tracker, response: api::StatusResponse) {
    for event in events(response) {
        drop(tracker.event(event));
    }
}

fn vertex(number: usize, name: &str) -> api::Vertex {
    api::Vertex {
        digest: format!("sha256:{number}"),
        name: name.to_owned(),
        started: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..api::Vertex::default()
    }
}

#[test]
fn one_message_of_nothing_but_line_breaks_takes_little_memory() {
    let _alone = large_input();
    let mut tracker = Tracker::default();
    let log = api::VertexLog {
        vertex: "sha256:1".to_owned(),
        msg: vec![b'\n'; 9 << 20],
        ..api::VertexLog::default()
    };
    let vertexes = vec![vertex(1, "[1/1] RUN")];
    feed(
        &mut tracker,
        api::StatusResponse { vertexes, logs: vec![log], ..api::StatusResponse::default() },
    );
}

#[test]
fn thousands_of_vertices_with_unfinished_lines_take_little_memory() {
    let _alone = large_input();
    let mut tracker = Tracker::default();
    let line = vec![b'x'; 64 << 10];
    for number in 0..12_000 {
        let vertexes = vec![vertex(number, "[1/1] RUN")];
        let digest = vertexes[0].digest.clone();
        let log = api::VertexLog { vertex: digest, msg: line.clone(), ..api::VertexLog::default() };
        let logs = vec![log];
        feed(&mut tracker, api::StatusResponse { vertexes, logs, ..Default::default() });
    }
    let vertex = Vertex { digest: "sha256:1".to_owned(), ..Vertex::default() };
    assert!(tracker.event(Event::Vertex(vertex)).is_empty());
}

#[test]
fn thousands_of_exports_with_open_transfers_take_little_memory() {
    let _alone = large_input();
    let mut tracker = Tracker::default();
    for number in 0..12_000 {
        let vertexes = vec![vertex(number, "exporting to image")];
        let transfers = (0..100).map(|part| api::VertexStatus {
            id: format!("pushing {part} {}", "x".repeat(260)),
            vertex: vertexes[0].digest.clone(),
            started: vertexes[0].started,
            ..api::VertexStatus::default()
        });
        let statuses = transfers.collect();
        feed(&mut tracker, api::StatusResponse { vertexes, statuses, ..Default::default() });
    }
}
