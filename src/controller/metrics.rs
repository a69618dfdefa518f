//! What Prometheus reads. docs/observing.md has the table.

mod pending;

use std::{fmt::Write, time::Duration};

use kube::runtime::reflector::Store;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use self::pending::Pending;
use super::{durations::Durations, watched_build::WatchedBuild};
use crate::api::{FailureReason, OciBuildStatus, Phase};

/// Upper bounds for what a build does: parts of it take moments, the whole of it up to an hour.
const BUILD_SECONDS: [f64; 14] =
    [0.1, 0.3, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0];
/// Upper bounds for reconciles: most write nothing, none may take longer than 30 seconds.
const RECONCILE_SECONDS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];

/// Failures that are the platform's and not of the one who wrote the build. They are counted from zero, so that an alert sees
/// the first one.
pub const PLATFORM_FAILURES: [FailureReason; 6] = [
    FailureReason::Internal,
    FailureReason::DaemonDied,
    FailureReason::BuilderImagePull,
    FailureReason::NodeLost,
    FailureReason::Unschedulable,
    FailureReason::AdmissionRefused,
];

/// The operator's metrics. Labels come from closed lists, never from users' texts.
pub struct Metrics {
    registry: Registry,
    builds: Family<ResultLabels, Counter>,
    build_seconds: Family<OutcomeLabels, Histogram, Buckets>,
    part_seconds: Family<PartLabels, Histogram, Buckets>,
    attempts_lost: Family<ReasonLabels, Counter>,
    running: Gauge,
    queued: Gauge,
    pending: Pending,
    reconciles: Counter,
    reconcile_seconds: Histogram,
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
struct PartLabels {
    phase: Part,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WriteLabels {
    what: &'static str,
}

/// A part of a build's time.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Part {
    Queued,
    PodStart,
    Daemon,
    Source,
    Build,
    Export,
    Push,
}

impl EncodeLabelValue for Part {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Queued => "queued",
            Self::PodStart => "pod_start",
            Self::Daemon => "daemon",
            Self::Source => "source",
            Self::Build => "build",
            Self::Export => "export",
            Self::Push => "push",
        })
    }
}

/// Makes the histograms of builds.
#[derive(Clone, Copy)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUILD_SECONDS)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("ocibuild"),
            builds: Family::default(),
            build_seconds: Family::new_with_constructor(Buckets),
            part_seconds: Family::new_with_constructor(Buckets),
            attempts_lost: Family::default(),
            running: Gauge::default(),
            queued: Gauge::default(),
            pending: Pending::default(),
            reconciles: Counter::default(),
            reconcile_seconds: Histogram::new(RECONCILE_SECONDS),
            reconcile_errors: Family::default(),
            writes: Family::default(),
            leader: Gauge::default(),
        };
        for reason in PLATFORM_FAILURES {
            let _ = metrics
                .builds
                .get_or_create(&ResultLabels { result: "failed", reason: reason.as_str() });
        }
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("builds", "Builds that ended, by result and reason", self.builds.clone());
        let of_builds = self.build_seconds.clone();
        registry.register_with_unit(
            "build_duration",
            "From a build's begin to its end",
            Unit::Seconds,
            of_builds,
        );
        let of_parts = self.part_seconds.clone();
        registry.register_with_unit(
            "phase_duration",
            "Where the time of builds that ended went",
            Unit::Seconds,
            of_parts,
        );
        registry.register(
            "attempts_lost",
            "Attempts that were lost and tried again, by reason",
            self.attempts_lost.clone(),
        );
        registry.register(
            "builds_running",
            "Builds that take a place of the queue's limit",
            self.running.clone(),
        );
        registry.register("builds_queued", "Builds that wait for a place", self.queued.clone());
        registry.register_collector(Box::new(self.pending.clone()));
        registry.register("reconciles", "Reconciles", self.reconciles.clone());
        let of_reconciles = self.reconcile_seconds.clone();
        registry.register_with_unit(
            "reconcile_duration",
            "How long reconciles take",
            Unit::Seconds,
            of_reconciles,
        );
        let errors = self.reconcile_errors.clone();
        registry.register(
            "reconcile_errors",
            "Reconciles that failed and are tried again, by kind",
            errors,
        );
        let writes = "Writes to the API server but for events and the lease, by what was written";
        registry.register("api_writes", writes, self.writes.clone());
        registry.register("leader", "Whether this replica is the leader", self.leader.clone());
        self
    }

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

    /// Where the time of a build went that ended.
    pub fn time_spent(&self, durations: &Durations) {
        let Durations { pod_start, daemon, source, build, export, push } = *durations;
        for (part, taken) in [
            (Part::PodStart, pod_start),
            (Part::Daemon, daemon),
            (Part::Source, source),
            (Part::Build, build),
            (Part::Export, export),
            (Part::Push, push),
        ] {
            if let Some(taken) = taken {
                self.spent(part, taken);
            }
        }
    }

    /// A build left the queue after this time.
    pub fn left_queue(&self, waited: Duration) {
        self.spent(Part::Queued, waited);
    }

    fn spent(&self, phase: Part, taken: Duration) {
        self.part_seconds.get_or_create(&PartLabels { phase }).observe(taken.as_secs_f64());
    }

    /// An attempt was lost, and another one begins.
    pub fn attempt_lost(&self, reason: FailureReason) {
        self.attempts_lost.get_or_create(&ReasonLabels { reason: reason.as_str() }).inc();
    }

    /// How many builds take a place of the queue's limit, and how many wait for one.
    pub fn queue(&self, running: usize, waiting: usize) {
        let count = |builds: usize| i64::try_from(builds).unwrap_or(i64::MAX);
        self.running.set(count(running));
        self.queued.set(count(waiting));
    }

    /// Counts the pending builds of a cache whenever the metrics are read.
    pub fn watch(&self, builds: Store<WatchedBuild>) {
        self.pending.watch(builds);
    }

    /// A reconcile began.
    pub fn reconcile(&self) {
        self.reconciles.inc();
    }

    /// A reconcile ended, well or not.
    pub fn reconciled(&self, took: Duration) {
        self.reconcile_seconds.observe(took.as_secs_f64());
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

#[cfg(test)]
mod tests;
