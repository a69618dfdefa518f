use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{RunPhase, Spans, Tracker};

fn at(seconds: f64) -> String {
    format!("2026-01-01T00:00:{seconds:012.9}Z")
}

fn vertex(number: u32, name: &str, started: Option<f64>, completed: Option<f64>) -> Value {
    json!({ "vertexes": [{ "digest": format!("sha256:{number}"), "name": name, "started": started.map(at), "completed": completed.map(at) }] })
}

fn log(number: u32, seconds: f64, text: &str) -> Value {
    json!({ "logs": [{ "vertex": format!("sha256:{number}"), "stream": 1, "data": STANDARD.encode(text), "timestamp": at(seconds) }] })
}

fn printed(tracker: &mut Tracker, lines: &[Value]) -> Vec<String> {
    lines.iter().flat_map(|line| tracker.line(line.to_string().as_bytes())).collect()
}

#[test]
fn a_build_reads_as_docker_build_prints_it() {
    let mut tracker = Tracker::default();
    let mut cached = vertex(3, "[2/4] RUN apt-get update", Some(1.0), Some(1.0));
    cached["vertexes"][0]["cached"] = json!(true);
    let mut failed = vertex(5, "[4/4] RUN make", Some(3.0), Some(4.5));
    failed["vertexes"][0]["error"] =
        json!("process \"/bin/sh -c make\" did not complete successfully: exit code: 2");
    let lines = printed(
        &mut tracker,
        &[
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
fn what_is_kept_back_is_in_nothing_that_is_said() {
    let mut tracker = Tracker::default();
    tracker.keep_back(["hunter22".to_owned()]);
    tracker.reset();
    let mut failed = vertex(1, "[1/1] RUN echo hunter22", Some(0.0), Some(2.0));
    failed["vertexes"][0]["error"] =
        json!("denied to hunter22 at https://r/token?access_token=x: 403");
    let warning = json!({ "warnings": [{ "short": STANDARD.encode("hunter22 is weak") }] });
    let mut lines = printed(
        &mut tracker,
        &[
            vertex(1, "[1/1] RUN echo hunter22", Some(0.0), None),
            log(1, 1.0, "it is hunt"),
            log(1, 1.0, "er22\n"),
            failed,
            warning,
        ],
    );
    lines.extend(tracker.line(b"error: denied to hunter22"));
    let failed = tracker.failed().unwrap();
    let said = [
        lines.join("\n"),
        format!("{failed:?}"),
        tracker.remarks().collect(),
        tracker.warnings().join(" "),
    ]
    .join("\n");
    assert!(!said.contains("hunter22") && said.matches("***").count() >= 7, "{said}");
    assert!(lines.join("\n").contains("https://r/token?…: 403"), "{lines:?}");
}

#[test]
fn progress_counts_the_steps_of_the_dockerfile_and_names_the_latest_open_one() {
    let mut tracker = Tracker::default();
    printed(
        &mut tracker,
        &[
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
    printed(&mut tracker, &[vertex(4, "[test 1/2] RUN later", Some(2.0), Some(3.0))]);
    assert_eq!(tracker.progress().current.as_deref(), Some("[build 1/2] RUN slow"));
    printed(&mut tracker, &[vertex(4, "[test 1/2] RUN later", Some(4.0), None)]);
    assert_eq!(tracker.progress().done, 0, "a step that starts again is not done");
}

#[test]
fn the_time_of_pushing_is_not_the_time_of_exporting() {
    let mut tracker = Tracker::default();
    let pushing = json!({ "statuses": [{ "id": "pushing layers", "vertex": "sha256:2", "started": at(4.0), "completed": at(6.0) }] });
    printed(
        &mut tracker,
        &[
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
    let mut collateral = vertex(1, "[a 1/1] RUN a", Some(1.0), Some(2.0));
    collateral["vertexes"][0]["error"] =
        json!("process \"a\" did not complete successfully: context canceled");
    let mut guilty = vertex(2, "[b 1/1] RUN b", Some(1.0), Some(2.0));
    guilty["vertexes"][0]["error"] =
        json!("process \"b\" did not complete successfully: exit code: 1");
    printed(&mut tracker, &[collateral, guilty]);
    assert_eq!(tracker.interrupted(), Some("[a 1/1] RUN a"));
    assert_eq!(tracker.failed().unwrap().name, "[b 1/1] RUN b");
}

#[test]
fn what_is_no_progress_is_kept_for_the_diagnosis() {
    let mut tracker = Tracker::default();
    for number in 0..100 {
        tracker.line(format!("remark {number}\n").as_bytes());
    }
    tracker.line(b"error: failed to solve: nope");
    let remarks: Vec<&str> = tracker.remarks().collect();
    assert_eq!(
        (remarks.len(), remarks[0], remarks[39]),
        (40, "remark 61", "error: failed to solve: nope")
    );
}

#[test]
fn control_characters_of_a_build_reach_neither_terminal_nor_status() {
    let mut tracker = Tracker::default();
    let lines = printed(
        &mut tracker,
        &[vertex(1, "[1/1] RUN x", Some(1.0), None), log(1, 1.5, "\u{1b}[2Jgone\u{7}\n")],
    );
    assert_eq!(lines, ["#1 [1/1] RUN x", "#1 0.500 [2Jgone"]);
}

proptest! {
    #[test]
    fn no_line_makes_it_panic_and_memory_stays_bounded(lines in prop::collection::vec(".{0,200}", 0..50)) {
        let mut tracker = Tracker::default();
        for line in lines {
            tracker.line(line.as_bytes());
        }
        tracker.progress();
        prop_assert!(tracker.remarks().count() <= 40);
    }

    #[test]
    fn progress_never_counts_more_than_there_is(
        reports in prop::collection::vec((0u32..6, prop::option::of(0.0..50.0f64), prop::option::of(0.0..50.0f64)), 0..60),
    ) {
        let mut tracker = Tracker::default();
        for (number, started, completed) in reports {
            tracker.line(vertex(number, "[1/1] RUN x", started, completed).to_string().as_bytes());
            let progress = tracker.progress();
            prop_assert!(progress.cached <= progress.done && progress.done <= progress.total);
        }
    }
}

#[test]
fn a_push_is_told_from_the_export_and_the_export_from_the_build() {
    let mut tracker = Tracker::default();
    let mut at = 0;
    let mut phase = |report: serde_json::Value| {
        at += 1;
        let text = report.to_string().replace("NOW", &format!("2026-01-01T00:00:{at:02}Z"));
        tracker.line(text.as_bytes());
        tracker.phase()
    };
    let vertex = |name: &str| json!({ "digest": name, "name": name, "started": "NOW" });
    let ended =
        |name: &str| json!({ "digest": name, "name": name, "started": "NOW", "completed": "NOW" });
    let open = |vertex: &str, id: &str| json!({ "id": id, "vertex": vertex, "started": "NOW" });
    let done = |vertex: &str, id: &str| json!({ "id": id, "vertex": vertex, "started": "NOW", "completed": "NOW" });
    let (image, tar) = ("exporting to image", "exporting to docker image format");
    for (report, expected) in [
        (json!({ "vertexes": [vertex("[internal] load metadata for r/x")] }), RunPhase::Build),
        (
            json!({ "vertexes": [ended("[internal] load metadata for r/x"), vertex("[1/2] RUN make")] }),
            RunPhase::Build,
        ),
        (
            json!({ "vertexes": [ended("[1/2] RUN make"), vertex(image), vertex(tar)] }),
            RunPhase::Export,
        ),
        (
            json!({ "statuses": [open(image, "exporting layers"), open(tar, "sending tarball")] }),
            RunPhase::Export,
        ),
        (
            json!({ "statuses": [done(image, "exporting layers"), open(image, "pushing layers")] }),
            RunPhase::Push,
        ),
        (json!({ "vertexes": [ended(tar)] }), RunPhase::Push),
        (
            json!({ "statuses": [done(image, "pushing layers"), open(image, "pushing manifest for r/x")] }),
            RunPhase::Push,
        ),
    ] {
        assert_eq!(phase(report.clone()), expected, "{report}");
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
