//! Daemons and sessions that are lost while a step runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ocibuild::buildkit::{Connection, SolveError};
use tokio::sync::oneshot;

use crate::{
    build::{Build, printed},
    context::Context,
    daemon::{Daemon, shared},
    processes::Sleeper,
    proxy::Proxy,
};

/// Runs a step that sleeps and does something to the daemon meanwhile. Returns how the build ended
/// and how long after that.
async fn build_and(
    connection: &Connection,
    sleeper: Arc<Sleeper>,
    act: impl FnOnce() + Send + 'static,
) -> (SolveError, Duration) {
    let context = Context::with_shell(&format!("RUN {}\n", sleeper.command()));
    let (observe, asleep) = printed("asleep now");
    let (done, at) = oneshot::channel();
    tokio::spawn(async move {
        asleep.await;
        let acting = tokio::task::spawn_blocking(move || {
            sleeper.wait(true);
            let start = Instant::now();
            act();
            start
        });
        let _ = done.send(acting.await.unwrap());
    });
    let build = Build::of(context.path());
    let built = build.run_until(connection, std::future::pending(), observe).await;
    let end = Instant::now();
    (built.error(), end.saturating_duration_since(at.await.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_is_noticed_at_once() {
    let mut daemon = Daemon::start();
    let connection = daemon.connect().await;
    let sleeper = Arc::new(Sleeper::new());
    let (error, elapsed) = build_and(&connection, sleeper.clone(), move || daemon.kill()).await;
    assert!(matches!(error, SolveError::ConnectionLost(_)), "{error:?}");
    assert!(error.to_string().starts_with("lost the connection to BuildKit: "), "{error}");
    assert!(elapsed < Duration::from_secs(2), "noticed after {elapsed:?}");
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let error = Build::of(context.path()).run(&connection).await.error();
    assert!(matches!(error, SolveError::ConnectionLost(_)), "the next build: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_hangs_is_noticed_within_20_seconds() {
    let daemon = Arc::new(Daemon::start());
    let connection = daemon.connect().await;
    let sleeper = Arc::new(Sleeper::new());
    let freezing = daemon.clone();
    let (error, elapsed) = build_and(&connection, sleeper, move || freezing.freeze()).await;
    assert!(matches!(error, SolveError::ConnectionLost(_)), "{error:?}");
    assert!(elapsed < Duration::from_secs(20), "noticed after {elapsed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_ends_with_its_session_and_so_does_its_step() {
    let _ = shared().connect().await;
    let proxy = Arc::new(Proxy::start(shared().socket()).await);
    let sleeper = Arc::new(Sleeper::new());
    let ending = proxy.clone();
    let (error, elapsed) =
        build_and(&proxy.connection, sleeper.clone(), move || ending.end_session()).await;
    assert!(matches!(error, SolveError::SessionLost(_)), "{error:?}");
    assert!(error.to_string().starts_with("lost the BuildKit session: "), "{error}");
    assert!(elapsed < Duration::from_secs(3), "noticed after {elapsed:?}");
    let elapsed = tokio::task::block_in_place(|| sleeper.wait(false));
    assert!(elapsed < Duration::from_secs(1), "the step ran on for {elapsed:?}");
}
