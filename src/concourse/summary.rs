//! What the task says of a build besides the build's own lines. Pure.

use std::{fmt::Write, time::Duration};

use crate::{
    api::{ConditionType, Failure, FailureReason, OciBuild, Phase},
    plan::duration::format_duration,
    runner::result::{BuildResult, BuiltImage},
};

/// How long the parts took that the pod does not know of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spans {
    /// From the task's start until the build's pod answered.
    pub start: Duration,
    /// Bringing the files.
    pub download: Duration,
    /// The whole task.
    pub total: Duration,
}

/// What a build waits for, if it waits.
pub fn waiting(build: &OciBuild) -> Option<String> {
    let status = build.status.as_ref()?;
    let phase = status
        .phase
        .filter(|phase| !phase.is_final() && !matches!(phase, Phase::Running | Phase::Suspended))?;
    let condition = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == ConditionType::Reconciling.as_str())?;
    Some(format!("{}: {}", format!("{phase:?}").to_lowercase(), condition.message))
}

/// The last lines of a task that succeeded.
pub fn success(image: &BuiltImage, result: &BuildResult, reference: &str, spans: &Spans) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<8}{value}");
    };
    for warning in &result.warnings {
        line("warning", warning.clone());
    }
    line("image", format!("{reference}{}", if image.pushed { ", pushed" } else { "" }));
    line("digest", image.digest.to_string());
    if let Some(id) = &image.config_digest {
        line("id", id.to_string());
    }
    if let Some(size) = image.size.or(image.tar.as_ref().map(|tar| tar.size)) {
        line("size", bytes(u64::try_from(size).unwrap_or_default()));
    }
    if let Some(progress) = &result.progress {
        line("steps", format!("{} of {} cached", progress.cached, progress.total));
    }
    line("time", times(result, spans));
    text
}

fn times(result: &BuildResult, spans: &Spans) -> String {
    let of_pod = |milliseconds: Option<u64>| milliseconds.map(Duration::from_millis);
    let parts = [
        ("start", Some(spans.start)),
        ("source", of_pod(result.timings.source)),
        ("build", of_pod(result.timings.build)),
        ("export", of_pod(result.timings.export)),
        ("push", of_pod(result.timings.push)),
        ("download", Some(spans.download).filter(|span| !span.is_zero())),
    ];
    let parts = parts
        .into_iter()
        .filter_map(|(name, span)| Some(format!("{name} {}", format_duration(span?))));
    format!("{} ({})", format_duration(spans.total), parts.collect::<Vec<_>>().join(", "))
}

/// The last lines of a task whose build failed.
pub fn failure(failure: Option<&Failure>, namespace: &str, name: &str) -> String {
    let Some(failure) = failure else {
        return format!(
            "failed  the build ended without a reason\nbuild   kubectl -n {namespace} describe ocibuild {name}\n"
        );
    };
    let mut text = format!("failed  {}: {}\n", failure.reason, failure.message);
    // Writing to a String cannot fail.
    if let Some(step) = &failure.step {
        let _ = writeln!(text, "step    {step}");
    }
    for line in failure.log_excerpt.iter().flat_map(|excerpt| excerpt.lines()) {
        let _ = writeln!(text, "      | {line}");
    }
    // What says how to build an unchanged manifest again is nothing for a build whose source only the task can send.
    let hint = if failure.reason == FailureReason::Cancelled {
        "Run the task again."
    } else {
        failure.reason.hint()
    };
    let _ = writeln!(
        text,
        "hint    {hint}\nbuild   {name}; it is kept for a while: kubectl -n {namespace} describe ocibuild {name}"
    );
    text
}

/// `12.3 MiB`: short enough to be read.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{}.{} KiB", bytes >> 10, ((bytes & 0x3ff) * 10) >> 10),
        _ => format!("{}.{} MiB", bytes >> 20, (((bytes >> 10) & 0x3ff) * 10) >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_shown_short() {
        for (size, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (1_048_576, "1.0 MiB"),
            (13_002_342, "12.3 MiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }
}
