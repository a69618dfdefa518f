//! The build's own lines as they come, each once, over broken connections.

use std::{convert::Infallible, time::Duration};

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::{
    api::core::v1::Pod,
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, api::LogParams};
use tokio::time::timeout;

use crate::plan::layout;

const PAUSE: Duration = Duration::from_millis(500);
/// After so long without a line the connection is made again: it may have died without a word.
const QUIET: Duration = Duration::from_mins(1);
/// How long the last lines may take.
const REST: Duration = Duration::from_secs(5);

/// The log of a pod's build. Lines carry the kubelet's time, by which those that were printed already are known.
pub struct Log<'a, Print> {
    pods: &'a Api<Pod>,
    pod: &'a str,
    print: Print,
    last: Option<Timestamp>,
}

impl<'a, Print: AsyncFn(String)> Log<'a, Print> {
    /// The log of a pod, of which nothing was printed yet. `print` takes a line when it can; one that is dropped before has not
    /// printed it.
    pub fn new(pods: &'a Api<Pod>, pod: &'a str, print: Print) -> Self {
        Self { pods, pod, print, last: None }
    }

    /// Prints lines as they come, for as long as it is polled.
    pub async fn follow(&mut self) -> Infallible {
        loop {
            let _ = self.read(true).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Prints what was written and not printed yet.
    pub async fn rest(&mut self) {
        let _ = timeout(REST, self.read(false)).await;
    }

    async fn read(&mut self, follow: bool) -> Result<(), kube::Error> {
        let parameters = LogParams {
            container: Some(layout::BUILD_CONTAINER.to_owned()),
            follow,
            timestamps: true,
            since_time: self.last.map(|last| last - SignedDuration::from_secs(1)),
            ..LogParams::default()
        };
        let Ok(lines) = timeout(QUIET, self.pods.log_stream(self.pod, &parameters)).await else {
            return Ok(());
        };
        let mut lines = lines?.lines();
        // The clock of a node may be set back: only the first lines of a new connection can be old ones.
        let mut is_new = self.last.is_none();
        while let Ok(Ok(Some(line))) = timeout(QUIET, lines.try_next()).await {
            let (time, text) = line.split_once(' ').unwrap_or((&line, ""));
            let time = time.parse::<Timestamp>().ok();
            is_new |= time > self.last;
            if !is_new {
                continue;
            }
            (self.print)(text.to_owned()).await;
            // Not before: whoever stops following while a line waits to be printed gets it with the rest.
            self.last = time.or(self.last);
        }
        Ok(())
    }
}
