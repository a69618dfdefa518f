//! Fits a result into the termination message: half a JSON would be no result. Pure.

use super::result::{BuildResult, MESSAGE_LIMIT, Outcome};
use crate::text::{shortened, shortened_to_end};

/// The result as compact JSON below the kubelet's limit: texts are shortened step by step until it fits.
pub fn fit(result: &BuildResult) -> String {
    let mut result = result.clone();
    for limit in [1500, 1000, 600, 300, 100, 30, 0] {
        let text = serde_json::to_string(&result).expect("a result is made of texts and numbers");
        if text.len() < MESSAGE_LIMIT {
            return text;
        }
        shorten(&mut result, limit);
    }
    serde_json::to_string(&result).expect("a result is made of texts and numbers")
}

fn shorten(result: &mut BuildResult, limit: usize) {
    result.warnings.truncate(limit / 150);
    for warning in &mut result.warnings {
        *warning = shortened(warning, 150);
    }
    if let Some(current) = result.progress.as_mut().and_then(|progress| progress.current.as_mut()) {
        *current = shortened(current, limit);
    }
    if let Outcome::Failed(failure) = &mut result.outcome {
        failure.message = shortened(&failure.message, limit);
        if let Some(step) = &mut failure.step {
            *step = shortened(step, limit);
        }
        if let Some(excerpt) = &mut failure.log_excerpt {
            *excerpt = shortened_to_end(excerpt, limit);
        }
    }
    if let Outcome::Succeeded(image) = &mut result.outcome {
        image.platforms.truncate(limit / 50);
        // What is left out here stands in result.json beside the tar.
        for additional in &mut image.additional {
            additional.tar = additional.tar.take().filter(|_| limit >= 1000);
            additional.config_digest = additional.config_digest.take().filter(|_| limit >= 600);
        }
        if limit < 100 {
            image.additional.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BuildResult, MESSAGE_LIMIT, Outcome, fit};
    use crate::{
        api::{FailureReason, Progress},
        runner::result::BuildFailure,
    };

    fn result(message: &str, step: &str, excerpt: &str, warnings: Vec<String>) -> BuildResult {
        let failure = BuildFailure {
            step: Some(step.to_owned()),
            exit_code: Some(1),
            log_excerpt: Some(excerpt.to_owned()),
            ..BuildFailure::new(FailureReason::StepFailed, message)
        };
        let progress = Some(Progress { current: Some(step.to_owned()), ..Progress::default() });
        BuildResult { progress, warnings, ..BuildResult::failed(failure) }
    }

    #[test]
    fn what_fits_is_not_touched() {
        let small = result("words", "RUN x", "last words", vec!["careful".to_owned()]);
        assert_eq!(serde_json::from_str::<BuildResult>(&fit(&small)).unwrap(), small);
    }

    #[test]
    fn the_end_of_a_long_log_is_kept() {
        let long =
            result("words", "RUN x", &format!("{}the very end", "x".repeat(9000)), Vec::new());
        let Outcome::Failed(failure) =
            serde_json::from_str::<BuildResult>(&fit(&long)).unwrap().outcome
        else {
            panic!()
        };
        assert!(failure.log_excerpt.unwrap().ends_with("the very end"));
        assert_eq!(failure.message, "words");
    }

    proptest! {
        #[test]
        fn whatever_a_build_says_its_result_fits_and_can_be_read(
            message in "\\PC{0,6000}", step in "[\\x00-\\x7f]{0,6000}", excerpt in "\\PC{0,6000}",
            warnings in prop::collection::vec("\\PC{0,800}", 0..30),
        ) {
            let text = fit(&result(&message, &step, &excerpt, warnings));
            prop_assert!(text.len() < MESSAGE_LIMIT, "{} bytes", text.len());
            let read: BuildResult = serde_json::from_str(&text).unwrap();
            let is_named = matches!(read.outcome, Outcome::Failed(failure) if failure.reason == FailureReason::StepFailed);
            prop_assert!(is_named);
        }
    }
}
