//! What Prometheus reads.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::api::{OciBuildStatus, Phase};

/// Upper bounds of the duration histogram: builds take seconds to an hour.
const BUILD_SECONDS: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];

/// The operator's metrics. Labels come from closed lists, never from users' texts.
pub struct Metrics {
    registry: Registry,
    builds: Family<ResultLabels, Counter>,
    build_seconds: Family<OutcomeLabels, Histogram>,
    reconciles: Counter,
    reconcile_errors: Family<ErrorLabels, Counter>,
    writes: Family<WriteLabels, Counter>,
    leader: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WriteLabels {
    what: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ocibuild");
        let builds = Family::<ResultLabels, Counter>::default();
        let build_seconds = Family::<OutcomeLabels, Histogram>::new_with_constructor(|| Histogram::new(BUILD_SECONDS));
        let reconciles = Counter::default();
        let reconcile_errors = Family::<ErrorLabels, Counter>::default();
        let writes = Family::<WriteLabels, Counter>::default();
        let leader = Gauge::default();
        registry.register("builds", "Builds that ended, by result and reason", builds.clone());
        registry.register("build_duration_seconds", "From a build's begin to its end", build_seconds.clone());
        registry.register("reconciles", "Reconciles", reconciles.clone());
        registry.register("reconcile_errors", "Reconciles that failed and are tried again, by kind", reconcile_errors.clone());
        registry.register(
            "api_writes",
            "Writes to the API server but for events and the lease, by what was written",
            writes.clone(),
        );
        registry.register("leader", "Whether this replica is the leader", leader.clone());
        Self { registry, builds, build_seconds, reconciles, reconcile_errors, writes, leader }
    }
}

impl Metrics {
    /// A build ended.
    pub fn build_ended(&self, status: &OciBuildStatus) {
        let result = if status.phase == Some(Phase::Succeeded) { "succeeded" } else { "failed" };
        let reason = status.failure.as_ref().map_or("", |failure| failure.reason.as_str());
        self.builds.get_or_create(&ResultLabels { result, reason }).inc();
        if let (Some(start), Some(end)) = (&status.start_time, &status.completion_time) {
            let took = Duration::try_from(end.0.duration_since(start.0)).unwrap_or_default();
            self.build_seconds.get_or_create(&OutcomeLabels { result }).observe(took.as_secs_f64());
        }
    }

    /// A reconcile began.
    pub fn reconcile(&self) {
        self.reconciles.inc();
    }

    /// A reconcile failed.
    pub fn reconcile_error(&self, kind: &'static str) {
        self.reconcile_errors.get_or_create(&ErrorLabels { kind }).inc();
    }

    /// The API server is asked to change something.
    pub fn write(&self, what: &'static str) {
        self.writes.get_or_create(&WriteLabels { what }).inc();
    }

    /// This replica became the leader.
    pub fn lead(&self) {
        self.leader.set(1);
    }

    /// All metrics in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
