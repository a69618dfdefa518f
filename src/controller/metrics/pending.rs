//! Builds that began and wait for their pod: counted in the cache when the metrics are read, so that they cannot drift.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Formatter},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::Store;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};
use serde::{Deserialize, de::value::StrDeserializer};

use super::{ReasonLabels, WatchedBuild};
use crate::api::{FailureReason, OciBuildStatus, Phase};

/// The caches in which pending builds are counted.
#[derive(Clone, Default)]
pub struct Pending(Arc<Mutex<Vec<Store<WatchedBuild>>>>);

impl Pending {
    /// Counts in this cache too.
    pub fn watch(&self, builds: Store<WatchedBuild>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(builds);
    }

    fn count(&self) -> Count {
        let stores = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let builds: Vec<_> = stores.iter().flat_map(Store::state).collect();
        Count::of(builds.iter().filter_map(|build| build.open_status()), Timestamp::now())
    }
}

impl Debug for Pending {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pending")
    }
}

impl Collector for Pending {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Count { by_reason, longest } = self.count();
        let help =
            "Builds that began and wait for their pod, by what is wrong; Pending while nothing is";
        let mut family =
            encoder.encode_descriptor("builds_pending", help, None, MetricType::Gauge)?;
        for (reason, builds) in by_reason {
            ConstGauge::new(builds).encode(family.encode_family(&ReasonLabels { reason })?)?;
        }
        let help = "Age of the oldest build that waits for its pod";
        let gauge = encoder.encode_descriptor(
            "longest_pending",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(longest.as_secs_f64()).encode(gauge)
    }
}

/// How many builds wait for their pods, and for how long.
#[derive(Debug, PartialEq)]
pub struct Count {
    /// By the name of what is wrong.
    by_reason: BTreeMap<&'static str, i64>,
    /// The time since the begin of the oldest.
    longest: Duration,
}

/// The reason while nothing is wrong.
const NOTHING_WRONG: &str = "Pending";

impl Count {
    /// Counts what waits among all builds.
    fn of<'a>(builds: impl Iterator<Item = &'a OciBuildStatus>, now: Timestamp) -> Self {
        // Always there: a gauge that vanishes is hard to read.
        let mut count =
            Self { by_reason: BTreeMap::from([(NOTHING_WRONG, 0)]), longest: Duration::ZERO };
        for status in builds.filter(|status| status.phase == Some(Phase::Pending)) {
            *count.by_reason.entry(reason(status)).or_default() += 1;
            let waited = status.start_time.as_ref().map(|start| now.duration_since(start.0));
            count.longest = count
                .longest
                .max(waited.and_then(|waited| waited.try_into().ok()).unwrap_or_default());
        }
        count
    }
}

/// A name of the closed list, whatever somebody has written into the status.
fn reason(status: &OciBuildStatus) -> &'static str {
    let written = status.conditions.first().map_or("", |condition| condition.reason.as_str());
    let text: StrDeserializer<'_, serde::de::value::Error> = StrDeserializer::new(written);
    FailureReason::deserialize(text).map_or(NOTHING_WRONG, FailureReason::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pending_builds_are_counted_by_a_closed_list_of_reasons() {
        let status = |phase: &str, reason: &str, start: &str| -> OciBuildStatus {
            let ready = json!({
                "type": "Ready", "status": "False", "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            serde_json::from_value(
                json!({ "phase": phase, "conditions": [ready], "startTime": start }),
            )
            .unwrap()
        };
        let builds = [
            status("Pending", "Pending", "2026-01-01T00:00:50.000000Z"),
            status("Pending", "Retrying", "2026-01-01T00:00:59.000000Z"),
            status("Pending", "Unschedulable", "2026-01-01T00:00:30.000000Z"),
            status("Pending", "a tenant wrote this", "2027-01-01T00:00:00.000000Z"),
            status("Running", "Building", "2026-01-01T00:00:00.000000Z"),
            status("Failed", "Unschedulable", "2026-01-01T00:00:00.000000Z"),
        ];
        let count = Count::of(builds.iter(), "2026-01-01T00:01:00Z".parse().unwrap());
        let by_reason = BTreeMap::from([(NOTHING_WRONG, 3), ("Unschedulable", 1)]);
        assert_eq!(count, Count { by_reason, longest: Duration::from_secs(30) });
    }

    #[test]
    fn without_builds_nothing_waits() {
        let count = Count::of(std::iter::empty(), Timestamp::now());
        assert_eq!(
            count,
            Count { by_reason: BTreeMap::from([(NOTHING_WRONG, 0)]), longest: Duration::ZERO }
        );
    }
}
