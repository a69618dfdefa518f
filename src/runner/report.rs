//! What a person reads at the end of the log. Pure.

use std::{fmt::Write, path::Path};

use super::result::{BuildResult, Milliseconds, Outcome};

/// The last lines of the log: the image, its tar and the time, or why there is none.
pub fn report(result: &BuildResult, output: Option<&Path>) -> String {
    let mut text = String::from("\n");
    // Writing to a String cannot fail.
    let _ = match &result.outcome {
        Outcome::Succeeded(image) => {
            let pushed = if image.pushed { ", pushed" } else { "" };
            let _ = writeln!(text, "digest  {}{pushed}", image.digest);
            if let (Some(tar), Some(output)) = (&image.tar, output) {
                let _ = writeln!(
                    text,
                    "tar     {} ({} bytes, sha256 {})",
                    output.join(&tar.path).display(),
                    tar.size,
                    tar.sha256
                );
            }
            writeln!(text, "time    {}", times(&result.timings))
        }
        Outcome::Failed(failure) => {
            let _ = writeln!(text, "failed  {}: {}", failure.reason, failure.message);
            if let Some(step) = &failure.step {
                let _ = writeln!(text, "step    {step}");
            }
            for line in failure.log_excerpt.iter().flat_map(|excerpt| excerpt.lines()) {
                let _ = writeln!(text, "      | {line}");
            }
            writeln!(text, "hint    {}", failure.reason.hint())
        }
    };
    text
}

fn times(timings: &Milliseconds) -> String {
    let parts = [
        ("daemon", timings.daemon),
        ("source", timings.source),
        ("build", timings.build),
        ("export", timings.export),
        ("push", timings.push),
    ];
    let shown = parts.into_iter().filter_map(|(name, milliseconds)| {
        let milliseconds = milliseconds?;
        Some(format!("{name} {}.{:03}s", milliseconds / 1000, milliseconds % 1000))
    });
    shown.collect::<Vec<_>>().join(", ")
}
