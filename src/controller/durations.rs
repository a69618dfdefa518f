//! How long each part of a build took. Pure: the status before its end, and the runner's result, in.

use std::time::Duration;

use crate::{api::OciBuildStatus, runner::result::BuildResult};

/// No build takes longer: the most that a timeout may be.
const LONGEST: Duration = Duration::from_hours(7 * 24);

/// How long each part of a build took; none for what did not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// From the build's begin to the start of its container.
    pub pod_start: Option<Duration>,
    /// Until the daemon answered.
    pub daemon: Option<Duration>,
    /// Fetching and checking the source.
    pub source: Option<Duration>,
    /// The steps of the Dockerfile.
    pub build: Option<Duration>,
    /// Making the layers and writing the tar.
    pub export: Option<Duration>,
    /// Pushing.
    pub push: Option<Duration>,
}

impl Durations {
    /// Of a build that ended with this result.
    pub fn of(before: &OciBuildStatus, result: &BuildResult) -> Self {
        // Two clocks: the operator's and the node's. A negative difference is only their skew.
        let pod_start =
            result.started_at.zip(before.start_time.as_ref()).and_then(|(started, begun)| {
                u64::try_from(started.saturating_sub(begun.0.as_millisecond())).ok()
            });
        // A pod may say anything, and one absurd number would spoil the metrics of all.
        let taken = |milliseconds: Option<u64>| {
            milliseconds.map(Duration::from_millis).filter(|taken| *taken <= LONGEST)
        };
        Self {
            pod_start: taken(pod_start),
            daemon: taken(result.timings.daemon),
            source: taken(result.timings.source),
            build: taken(result.timings.build),
            export: taken(result.timings.export),
            push: taken(result.timings.push),
        }
    }
}
