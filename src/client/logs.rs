//! The build's own lines as they come, each once, over broken connections.

use std::{
    io::{self, Write},
    time::Duration,
};

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::{
    api::core::v1::Pod,
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, api::LogParams};

use crate::plan::layout;

const PAUSE: Duration = Duration::from_millis(500);

/// Prints the log of a pod's build until the container has ended. What was printed before a connection broke is not printed
/// again: lines carry the kubelet's time.
pub async fn follow(pods: &Api<Pod>, pod: &str) {
    let mut last: Option<Timestamp> = None;
    loop {
        let parameters = LogParams {
            container: Some(layout::BUILD_CONTAINER.to_owned()),
            follow: true,
            timestamps: true,
            since_time: last.map(|last| last - SignedDuration::from_secs(1)),
            ..LogParams::default()
        };
        match print(pods, pod, &parameters, &mut last).await {
            // The end of the stream is the end of the container, or of a connection: the pod knows.
            Ok(()) if has_ended(pods, pod).await => return,
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn print(pods: &Api<Pod>, pod: &str, parameters: &LogParams, last: &mut Option<Timestamp>) -> Result<(), kube::Error> {
    let mut lines = pods.log_stream(pod, parameters).await?.lines();
    loop {
        let Ok(Some(line)) = lines.try_next().await else { return Ok(()) };
        let (time, text) = line.split_once(' ').unwrap_or((&line, ""));
        let time = time.parse::<Timestamp>().ok();
        if time.is_some() && time <= *last {
            continue;
        }
        *last = time.or(*last);
        // A reader that is gone is no reason to end the build.
        let _ = writeln!(io::stdout().lock(), "{text}");
    }
}

async fn has_ended(pods: &Api<Pod>, pod: &str) -> bool {
    let Ok(found) = pods.get_opt(pod).await else { return false };
    let Some(status) = found.and_then(|pod| pod.status) else { return true };
    let containers = status.container_statuses.unwrap_or_default();
    let build = containers.iter().find(|container| container.name == layout::BUILD_CONTAINER);
    build.and_then(|build| build.state.as_ref()).is_some_and(|state| state.terminated.is_some())
}
