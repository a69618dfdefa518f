//! Cancelled builds.

use std::{sync::Arc, time::Duration};

use ocibuild::buildkit::SolveError;

use crate::{
    build::{Build, printed},
    context::Context,
    daemon::connect,
    processes::Sleeper,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_build_ends_its_step_within_a_second() {
    let sleeper = Arc::new(Sleeper::new());
    let context = Context::with_shell(&format!("RUN {}\n", sleeper.command()));
    let (observe, asleep) = printed("asleep now");
    let (cancel, cancelled) = tokio::sync::oneshot::channel();
    let watched = sleeper.clone();
    let gone = tokio::spawn(async move {
        asleep.await;
        let watch = move || {
            watched.wait(true);
            cancel.send(()).unwrap();
            watched.wait(false)
        };
        tokio::task::spawn_blocking(watch).await.unwrap()
    });
    let cancelled = async { cancelled.await.unwrap() };
    let built = Build::of(context.path()).run_until(&connect().await, cancelled, observe).await;
    let gone = gone.await.unwrap();
    assert!(gone < Duration::from_secs(1), "the step ran on for {gone:?}");
    let step = built.vertices().filter(|vertex| vertex.name.contains(&sleeper.command())).last();
    let step = step.expect("the events name the interrupted step");
    assert!(step.completed.is_none() || step.error.contains("canceled"), "{step:?}");
    assert!(matches!(built.error(), SolveError::Cancelled));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_cancelled_before_it_starts_asks_nothing_of_the_daemon() {
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let build = Build::of(context.path());
    let progress = build.solve.services.progress.clone();
    let built = build.run_until(&connect().await, async {}, |_| ()).await;
    assert!(matches!(built.error(), SolveError::Cancelled));
    assert_eq!(progress.sent().entries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_serves_other_builds_after_a_cancel() {
    let sleeper = Sleeper::new();
    let context = Context::with_shell(&format!("RUN {}\n", sleeper.command()));
    let connection = connect().await;
    let (observe, asleep) = printed("asleep now");
    let built = Build::of(context.path()).run_until(&connection, asleep, observe).await;
    assert!(matches!(built.error(), SolveError::Cancelled));
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    Build::of(context.path()).export("tar", &[]).run(&connection).await.tree().file("Dockerfile");
}
