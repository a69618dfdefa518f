//! Header lists beyond 16 KiB, the default limit of HTTP/2 libraries.

use crate::{
    build::{Build, build_tree},
    context::{Context, SHELL_LINES},
    daemon::connect,
};

/// The daemon's error carries the whole Dockerfile in its trailers.
#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_of_290_kb_that_fails_has_its_location() {
    let comment = format!("# {}\n", "x".repeat(97));
    let context = Context::with_shell(&format!("{}RUN exit 7\n", comment.repeat(2900)));
    let failure = Build::of(context.path()).run(&connect().await).await.failure();
    assert_eq!(failure.exit_code, Some(7), "{failure:?}");
    let location = failure.location.unwrap();
    assert_eq!(location.first_line, SHELL_LINES + 2901);
    let failed = failure.excerpt.iter().find(|line| line.is_failed).unwrap();
    assert_eq!(failed.text, "RUN exit 7");
}

/// The daemon asks for the context with one header for each pattern.
#[tokio::test(flavor = "multi_thread")]
async fn a_dockerignore_of_5000_lines_is_followed() {
    let context = Context::new("FROM scratch\nCOPY . /\n");
    let ignored = (0..5000).map(|number| format!("some/longer/path/ignored-{number}"));
    let patterns: Vec<_> =
        ["Dockerfile", ".dockerignore"].map(str::to_owned).into_iter().chain(ignored).collect();
    context.write(".dockerignore", patterns.join("\n"));
    for number in [0, 2500, 4999, 5000] {
        context.write(format!("some/longer/path/ignored-{number}"), "x");
    }
    let tree = build_tree(&connect().await, context.path()).await;
    let expected = ["some", "some/longer", "some/longer/path", "some/longer/path/ignored-5000"];
    assert_eq!(tree.names(), expected);
}
