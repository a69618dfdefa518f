//! Builds during which nothing moves for a long time.

use std::{io::Read, sync::mpsc, time::Duration};

use ocibuild::buildkit::Consumer;

use crate::{
    build::Build,
    context::{Context, noise},
    daemon::connect,
    image::Tree,
};

/// Longer than the daemon waits for two health checks of a session, which it makes every 5 s.
const STALL: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn an_export_goes_on_after_its_disk_stalled_for_a_minute() {
    let context = Context::new("FROM scratch\nCOPY large /\n");
    let large = noise(3, 64 << 20);
    context.write("large", &large);
    let (sender, received) = mpsc::channel();
    let consumer: Consumer = Box::new(move |mut reader| {
        let mut bytes = vec![0; 1 << 20];
        reader.read_exact(&mut bytes)?;
        std::thread::sleep(STALL);
        reader.read_to_end(&mut bytes)?;
        sender.send(bytes).map_err(std::io::Error::other)
    });
    let build = Build::of(context.path()).consume("tar", &[], Some(consumer));
    build.run(&connect().await).await.response();
    let tree = Tree::read(&received.recv().unwrap());
    assert!(tree.file("large").content == large, "the bytes of the large file differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_may_be_silent_for_longer_than_health_checks_and_pings_wait() {
    let context = Context::with_shell("RUN sleep 40 && echo slept > /result\n");
    let built = Build::of(context.path()).export("tar", &[]).run(&connect().await).await;
    assert_eq!(built.tree().text("result"), "slept\n");
}
