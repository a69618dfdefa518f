use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::{Event, LogOutput, RunPhase, Spans, Tracker, Transfer, VertexState};
use crate::buildkit::Warning;

fn at(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1e9 + seconds)
}

fn vertex(number: u32, name: &str, started: Option<f64>, completed: Option<f64>) -> Event {
    Event::Vertex(state(number, name, started, completed))
}

fn state(number: u32, name: &str, started: Option<f64>, completed: Option<f64>) -> VertexState {
    VertexState {
        digest: format!("sha256:{number}"),
        name: name.to_owned(),
        started: started.map(at),
        completed: completed.map(at),
        ..VertexState::default()
    }
}

fn failed(number: u32, name: &str, started: f64, completed: f64, error: &str) -> Event {
    let state = state(number, name, Some(started), Some(completed));
    Event::Vertex(VertexState { error: error.to_owned(), ..state })
}

fn log(number: u32, seconds: f64, text: &str) -> Event {
    Event::Log(LogOutput {
        vertex: format!("sha256:{number}"),
        time: Some(at(seconds)),
        data: text.to_owned().into(),
    })
}

fn transfer(number: u32, id: &str, started: f64, completed: Option<f64>) -> Event {
    Event::Transfer(Transfer {
        id: id.to_owned(),
        vertex: format!("sha256:{number}"),
        started: Some(at(started)),
        completed: completed.map(at),
        ..Transfer::default()
    })
}

fn warning(text: &str) -> Event {
    Event::Warning(Warning { short: text.to_owned(), ..Warning::default() })
}

fn printed(tracker: &mut Tracker, events: Vec<Event>) -> Vec<String> {
    events.into_iter().flat_map(|event| tracker.event(event)).collect()
}

#[test]
fn a_build_reads_as_docker_build_prints_it() {
    let mut tracker = Tracker::default();
    let cached = state(3, "[2/4] RUN apt-get update", Some(1.0), Some(1.0));
    let cached = Event::Vertex(VertexState { is_cached: true, ..cached });
    let error = "process \"/bin/sh -c make\" did not complete successfully: exit code: 2";
    let failed = failed(5, "[4/4] RUN make", 3.0, 4.5, error);
    let lines = printed(
        &mut tracker,
        vec![
            vertex(1, "[internal] load build definition from Dockerfile", Some(0.0), Some(0.1)),
            vertex(5, "[4/4] RUN make", None, None),
            vertex(2, "[1/4] FROM docker.io/library/busybox:1.37", Some(0.5), Some(1.0)),
            cached,
            vertex(4, "[3/4] RUN ./configure", Some(1.0), None),
            log(4, 1.25, "checking for cc... "),
            log(4, 1.5, "yes\nchecking for ld... no\n"),
            log(4, 1.75, "10%\r20%\r30%\n\n"),
            log(4, 2.0, "no newline at the end"),
            vertex(4, "[3/4] RUN ./configure", Some(1.0), Some(3.0)),
            vertex(5, "[4/4] RUN make", Some(3.0), None),
            log(5, 4.0, "make: *** No targets specified.  Stop.\n"),
            failed,
        ],
    );
    insta::assert_snapshot!(lines.join("\n"));
    let progress = tracker.progress();
    assert_eq!((progress.total, progress.done, progress.cached, progress.current), (4, 3, 1, None));
    let failed = tracker.failed().unwrap();
    assert_eq!(failed.name, "[4/4] RUN make");
    assert_eq!(failed.tail, ["make: *** No targets specified.  Stop."]);
}

#[test]
fn confidential_values_are_redacted_everywhere() {
    let mut tracker = Tracker::default();
    tracker.keep_back(["hunter22".to_owned()]);
    tracker.reset();
    let error = "denied to hunter22 at https://r/token?access_token=x: 403";
    let failed = failed(1, "[1/1] RUN echo hunter22", 0.0, 2.0, error);
    let warning = warning("hunter22 is weak");
    let lines = printed(
        &mut tracker,
        vec![
            vertex(1, "[1/1] RUN echo hunter22", Some(0.0), None),
            log(1, 1.0, "it is hunt"),
            log(1, 1.0, "er22\n"),
            failed,
            warning,
        ],
    );
    let failed = tracker.failed().unwrap();
    let said = [
        lines.join("\n"),
        format!("{failed:?}"),
        tracker.redact("denied to hunter22", 512),
        tracker.warnings().join(" "),
    ]
    .join("\n");
    assert!(!said.contains("hunter22") && said.matches("***").count() >= 6, "{said}");
    assert!(lines.join("\n").contains("https://r/token?…: 403"), "{lines:?}");
}

#[test]
fn progress_counts_the_steps_of_the_dockerfile_and_names_the_latest_open_one() {
    let mut tracker = Tracker::default();
    printed(
        &mut tracker,
        vec![
            vertex(1, "[internal] load metadata for docker.io/library/busybox", Some(0.0), None),
            vertex(2, "[auth] library/busybox:pull token", Some(0.0), None),
            vertex(3, "[build 1/2] RUN slow", Some(1.0), None),
            vertex(4, "[test 1/2] RUN later", Some(2.0), None),
            vertex(5, "[build 2/2] RUN last", None, None),
        ],
    );
    let progress = tracker.progress();
    assert_eq!((progress.total, progress.done, progress.summary.as_str()), (3, 0, "0/3"));
    assert_eq!(progress.current.as_deref(), Some("[test 1/2] RUN later"));
    printed(&mut tracker, vec![vertex(4, "[test 1/2] RUN later", Some(2.0), Some(3.0))]);
    assert_eq!(tracker.progress().current.as_deref(), Some("[build 1/2] RUN slow"));
    printed(&mut tracker, vec![vertex(4, "[test 1/2] RUN later", Some(4.0), None)]);
    assert_eq!(tracker.progress().done, 0, "a step that starts again is not done");
}

#[test]
fn the_time_of_pushing_is_not_the_time_of_exporting() {
    let mut tracker = Tracker::default();
    let pushing = transfer(2, "pushing layers", 4.0, Some(6.0));
    printed(
        &mut tracker,
        vec![
            vertex(1, "[1/1] RUN true", Some(1.0), Some(3.5)),
            vertex(2, "exporting to image", Some(3.5), None),
            pushing,
            vertex(2, "exporting to image", Some(3.5), Some(6.5)),
        ],
    );
    assert_eq!(tracker.spans(), Spans { build: Some(2500), export: Some(1000), push: Some(2000) });
}

#[test]
fn a_step_that_only_others_cancelled_is_not_the_one_that_failed() {
    let mut tracker = Tracker::default();
    let error = "process \"a\" did not complete successfully: context canceled";
    let collateral = failed(1, "[a 1/1] RUN a", 1.0, 2.0, error);
    let error = "process \"b\" did not complete successfully: exit code: 1";
    let guilty = failed(2, "[b 1/1] RUN b", 1.0, 2.0, error);
    printed(&mut tracker, vec![collateral, guilty]);
    assert_eq!(tracker.interrupted(), Some("[a 1/1] RUN a"));
    assert_eq!(tracker.failed().unwrap().name, "[b 1/1] RUN b");
}

#[test]
fn control_characters_of_a_build_reach_neither_terminal_nor_status() {
    let mut tracker = Tracker::default();
    let lines = printed(
        &mut tracker,
        vec![vertex(1, "[1/1] RUN x", Some(1.0), None), log(1, 1.5, "\u{1b}[2Jgone\u{7}\n")],
    );
    assert_eq!(lines, ["#1 [1/1] RUN x", "#1 0.500 [2Jgone"]);
}

proptest! {
    #[test]
    fn progress_never_counts_more_than_there_is(
        reports in prop::collection::vec((0u32..6, prop::option::of(0.0..50.0f64), prop::option::of(0.0..50.0f64)), 0..60),
    ) {
        let mut tracker = Tracker::default();
        for (number, started, completed) in reports {
            tracker.event(vertex(number, "[1/1] RUN x", started, completed));
            let progress = tracker.progress();
            prop_assert!(progress.cached <= progress.done && progress.done <= progress.total);
        }
    }
}

#[test]
fn a_push_is_told_from_the_export_and_the_export_from_the_build() {
    let mut tracker = Tracker::default();
    let (image, tar) = (2, 3);
    for (events, expected) in [
        (vec![vertex(0, "[internal] load metadata for r/x", Some(1.0), None)], RunPhase::Build),
        (
            vec![
                vertex(0, "[internal] load metadata for r/x", Some(1.0), Some(2.0)),
                vertex(1, "[1/2] RUN make", Some(2.0), None),
            ],
            RunPhase::Build,
        ),
        (
            vec![
                vertex(1, "[1/2] RUN make", Some(2.0), Some(3.0)),
                vertex(image, "exporting to image", Some(3.0), None),
                vertex(tar, "exporting to docker image format", Some(3.0), None),
            ],
            RunPhase::Export,
        ),
        (
            vec![
                transfer(image, "exporting layers", 4.0, None),
                transfer(tar, "sending tarball", 4.0, None),
            ],
            RunPhase::Export,
        ),
        (
            vec![
                transfer(image, "exporting layers", 4.0, Some(5.0)),
                transfer(image, "pushing layers", 5.0, None),
            ],
            RunPhase::Push,
        ),
        (
            vec![vertex(tar, "exporting to docker image format", Some(3.0), Some(6.0))],
            RunPhase::Push,
        ),
        (
            vec![
                transfer(image, "pushing layers", 5.0, Some(7.0)),
                transfer(image, "pushing manifest for r/x", 7.0, None),
            ],
            RunPhase::Push,
        ),
    ] {
        printed(&mut tracker, events.clone());
        assert_eq!(tracker.phase(), expected, "{events:?}");
    }
    tracker.stop();
    assert_eq!(tracker.waited_for(), Some("exporting to image: pushing manifest for r/x"));
    tracker.reset();
    assert_eq!(
        tracker.waited_for(),
        Some("exporting to image: pushing manifest for r/x"),
        "why it stopped is not forgotten"
    );
}
