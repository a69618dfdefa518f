//! What the client knows of a build that failed.

use std::sync::Arc;

use axum::{Router, http::StatusCode};
use ocibuild::buildkit::{Input, SolveError, SolveFailure, VertexKind, llb};
use rustix::process::{Signal, kill_process};
use tonic::Code;

use crate::{
    build::{Build, printed},
    context::{Context, SHELL_LINES},
    daemon::connect,
    processes::Sleeper,
};

async fn failure_of(context: &Context) -> SolveFailure {
    Build::of(context.path()).run(&connect().await).await.failure()
}

/// Checks where a build failed, and that the excerpt marks these lines.
#[track_caller]
fn assert_location(failure: &SolveFailure, first_line: u32, last_line: u32) {
    let location = failure.location.as_ref().unwrap_or_else(|| panic!("{failure:?}"));
    assert_eq!(location.file, "Dockerfile");
    assert_eq!((location.first_line, location.last_line), (first_line, last_line), "{failure:?}");
    let failed = failure.excerpt.iter().filter(|line| line.is_failed).map(|line| line.number);
    assert_eq!(failed.collect::<Vec<_>>(), (first_line..=last_line).collect::<Vec<_>>());
}

#[track_caller]
fn assert_step(failure: &SolveFailure, name: &str) {
    let vertex = failure.vertex.as_ref().unwrap_or_else(|| panic!("{failure:?}"));
    assert!(vertex.digest.starts_with("sha256:"), "{vertex:?}");
    assert_eq!(vertex.name.as_deref(), Some(name));
    assert_eq!(vertex.kind(), Some(VertexKind::Step));
}

/// Starts an HTTP server that has nothing, and returns its host and port.
async fn empty_server() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let router = Router::new().fallback(async || StatusCode::NOT_FOUND);
    tokio::spawn(async move { axum::serve(listener, router).await });
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_exits_has_its_code_its_lines_and_its_vertex() {
    let context = Context::with_shell("# a comment\nRUN echo words && \\\n    exit 3\n# the end\n");
    let failure = failure_of(&context).await;
    assert_eq!(
        (failure.code, failure.exit_code, failure.is_frontend),
        (Code::Unknown, Some(3), false)
    );
    assert!(
        failure.message.ends_with("did not complete successfully: exit code: 3"),
        "{failure:?}"
    );
    assert_location(&failure, SHELL_LINES + 2, SHELL_LINES + 3);
    assert_step(&failure, "[2/2] RUN echo words &&     exit 3");
    let excerpt: Vec<_> = failure.excerpt.iter().map(|line| line.text.as_str()).collect();
    let expected = ["COPY busybox /bin/busybox", "SHELL [\"/bin/busybox\", \"sh\", \"-c\"]"];
    assert_eq!(excerpt[..2], expected);
    assert_eq!(excerpt[2..], ["# a comment", "RUN echo words && \\", "    exit 3", "# the end"]);
    assert_eq!(failure.source_identifier, None);
}

/// The first process of a container ignores signals from within, so the test sends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_a_signal_ends_has_128_and_the_signals_number() {
    let sleeper = Arc::new(Sleeper::new());
    let context = Context::with_shell(&format!("RUN {}\n", sleeper.command_without_shell()));
    let (observe, asleep) = printed("asleep now");
    let step = sleeper.clone();
    tokio::spawn(async move {
        asleep.await;
        tokio::task::spawn_blocking(move || {
            step.wait(true);
            kill_process(step.process().unwrap(), Signal::KILL).unwrap();
        })
        .await
        .unwrap();
    });
    let build = Build::of(context.path());
    let built = build.run_until(&connect().await, std::future::pending(), observe).await;
    let failure = built.failure();
    assert_eq!(failure.exit_code, Some(137), "{failure:?}");
    assert_location(&failure, SHELL_LINES + 1, SHELL_LINES + 1);
    assert_step(&failure, &format!("[2/2] RUN {}", sleeper.command_without_shell()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_exist_has_an_exit_code_too() {
    let failure = failure_of(&Context::with_shell("RUN [\"/not-there\"]\n")).await;
    assert!(failure.exit_code.is_some_and(|code| code != 0), "{failure:?}");
    assert_location(&failure, SHELL_LINES + 1, SHELL_LINES + 1);
    assert_step(&failure, "[2/2] RUN [\"/not-there\"]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_copy_does_not_find_is_named() {
    let context = Context::new("FROM scratch\n\nCOPY not-there.txt /\n");
    let failure = failure_of(&context).await;
    assert!(failure.message.contains("\"/not-there.txt\": not found"), "{failure:?}");
    assert_location(&failure, 3, 3);
    assert_step(&failure, "[1/1] COPY not-there.txt /");
    assert_eq!((failure.exit_code, failure.is_frontend), (None, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_instruction_is_an_error_of_the_frontend() {
    let failure = failure_of(&Context::new("FROM scratch\n\nRUNN x\n")).await;
    assert!(failure.is_frontend, "{failure:?}");
    assert!(failure.message.contains("unknown instruction: RUNN"), "{failure:?}");
    assert_location(&failure, 3, 3);
    assert_eq!((failure.code, failure.vertex, failure.exit_code), (Code::Unknown, None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_dockerfile_and_an_unknown_stage_are_errors_of_the_frontend() {
    let failure = failure_of(&Context::new("")).await;
    assert!(failure.is_frontend, "{failure:?}");
    assert!(failure.message.contains("cannot be empty"), "{failure:?}");
    let context = Context::new("FROM scratch AS app\n");
    let build = Build::of(context.path()).attribute("target", "nope");
    let failure = build.run(&connect().await).await.failure();
    assert!(failure.is_frontend, "{failure:?}");
    assert!(failure.message.contains("\"nope\" could not be found"), "{failure:?}");
    assert_eq!((failure.location, failure.excerpt), (None, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_that_is_missing_is_named() {
    let failure = failure_of(&Context::empty()).await;
    assert!(failure.message.contains("failed to read dockerfile"), "{failure:?}");
    assert!(failure.message.contains("no such file or directory"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_answers_404_fails_its_step() {
    let host = empty_server().await;
    let context = Context::new(&format!("FROM scratch\nADD http://{host}/file /\n"));
    let failure = failure_of(&context).await;
    assert!(failure.message.contains("invalid response status 404"), "{failure:?}");
    assert!(!failure.is_frontend, "{failure:?}");
    let vertex = failure.vertex.as_ref().unwrap();
    let name = vertex.name.as_deref().unwrap();
    assert!(name.contains(&format!("http://{host}/file")), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_that_is_missing_is_an_error_of_the_frontend() {
    let host = empty_server().await;
    let context = Context::new(&format!("FROM {host}/team/app:v1\n"));
    let failure = failure_of(&context).await;
    assert!(failure.is_frontend, "{failure:?}");
    let expected = format!("failed to resolve source metadata for {host}/team/app:v1");
    assert!(failure.message.contains(&expected), "{failure:?}");
    assert!(failure.message.ends_with("not found"), "{failure:?}");
    assert_location(&failure, 1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_image_that_is_missing_has_the_line_that_names_it() {
    let host = empty_server().await;
    let context = Context::new(&format!("# syntax={host}/front/end:1\nFROM scratch\n"));
    let failure = failure_of(&context).await;
    assert!(failure.is_frontend, "{failure:?}");
    assert!(failure.message.contains(&format!("{host}/front/end:1")), "{failure:?}");
    assert_location(&failure, 1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_subrequests_and_capabilities_are_errors_of_the_frontend() {
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    for (key, value, code) in [
        ("requestid", "frontend.nope", Code::Unknown),
        ("frontend.caps", "moby.buildkit.nope", Code::Unimplemented),
    ] {
        let build = Build::of(context.path()).attribute(key, value);
        let failure = build.run(&connect().await).await.failure();
        assert!(failure.is_frontend, "{failure:?}");
        assert!(failure.message.contains("unsupported"), "{failure:?}");
        assert_eq!(failure.code, code, "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_llb_source_that_fails_has_its_vertex() {
    let host = empty_server().await;
    let context = Context::empty();
    let definition = llb::http(&format!("http://{host}/archive"), "archive");
    let build = Build::of(context.path()).input(Input::Definition(definition)).export("tar", &[]);
    let failure = build.run(&connect().await).await.failure();
    assert!(failure.message.contains("404"), "{failure:?}");
    let vertex = failure.vertex.as_ref().unwrap();
    assert_eq!(vertex.name.as_deref(), Some("fetch the archive"), "{failure:?}");
    assert_eq!((failure.source_identifier, failure.location), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_fails_is_an_error_of_its_exporter() {
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let full = Box::new(|_| Err(std::io::Error::from(std::io::ErrorKind::StorageFull)));
    let build = Build::of(context.path()).export("oci", &[]).consume("tar", &[], Some(full));
    match build.run(&connect().await).await.error() {
        SolveError::Export { exporter: 1, source } => {
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
}
