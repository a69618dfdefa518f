//! Every reason of a failure is produced for real, on a real node or by a real BuildKit. By which test, stands here.

use std::{collections::BTreeSet, fs, path::Path};

use ocibuild::api::FailureReason;

/// Reason, file below `tests`, and the test.
const PRODUCED: &[(&str, &str, &str)] = &[
    (
        "InvalidSpec",
        "e2e/scenarios/mirrors.rs",
        "the_daemons_configuration_is_generated_and_merged_with_that_of_the_spec",
    ),
    ("ClaimMissing", "e2e/failures.rs", "a_missing_claim_is_waited_for_and_then_named"),
    ("ClaimUnbound", "e2e/faults/pods.rs", "a_pod_that_does_not_come_up_has_a_name"),
    (
        "SecretMissing",
        "e2e/scenarios/misuse.rs",
        "a_secret_that_is_missing_or_unusable_is_named_and_not_shown",
    ),
    (
        "SecretInvalid",
        "e2e/scenarios/misuse.rs",
        "a_secret_that_is_missing_or_unusable_is_named_and_not_shown",
    ),
    (
        "ConfigMapMissing",
        "e2e/world.rs",
        "a_registry_with_an_authority_of_its_own_is_trusted_when_the_spec_says_so",
    ),
    ("SourceNotFound", "e2e/faults/sources.rs", "a_server_that_fails_a_source_has_a_name"),
    ("SourceUnauthorized", "e2e/faults/sources.rs", "a_server_that_fails_a_source_has_a_name"),
    ("SourceUnavailable", "e2e/faults/sources.rs", "a_server_that_fails_a_source_has_a_name"),
    ("SourceChecksumMismatch", "e2e/faults/sources.rs", "a_server_that_fails_a_source_has_a_name"),
    ("SourceInvalid", "e2e/faults/sources.rs", "an_archive_that_is_none_has_a_name"),
    (
        "SourceUnreadable",
        "e2e/failures.rs",
        "a_file_that_the_runner_cannot_read_is_named_if_the_build_asks_for_it",
    ),
    ("ContextMissing", "e2e/failures.rs", "what_is_missing_has_a_name"),
    ("DockerfileMissing", "e2e/failures.rs", "what_is_missing_has_a_name"),
    ("DockerfileInvalid", "e2e/failures.rs", "what_is_missing_has_a_name"),
    (
        "StepFailed",
        "e2e/failures.rs",
        "a_failing_step_is_named_with_its_exit_code_and_its_last_lines",
    ),
    (
        "FileNotFound",
        "e2e/scenarios/misuse.rs",
        "a_file_that_the_spec_names_and_that_is_missing_or_wrong_is_named",
    ),
    (
        "FileInvalid",
        "e2e/scenarios/misuse.rs",
        "a_file_that_the_spec_names_and_that_is_missing_or_wrong_is_named",
    ),
    (
        "BaseImageNotFound",
        "e2e/faults/registries.rs",
        "a_registry_that_fails_a_base_image_has_a_name",
    ),
    (
        "RegistryUnauthorized",
        "e2e/faults/registries.rs",
        "a_registry_that_fails_a_base_image_has_a_name",
    ),
    (
        "RegistryPaymentRequired",
        "e2e/faults/registries.rs",
        "a_mirror_that_fails_has_a_name_and_is_passed_over_where_the_registry_answers",
    ),
    (
        "RegistryForbidden",
        "e2e/faults/registries.rs",
        "a_registry_that_fails_a_base_image_has_a_name",
    ),
    ("RegistryNotFound", "e2e/faults/registries.rs", "a_registry_that_fails_a_push_has_a_name"),
    (
        "RegistryRateLimited",
        "e2e/faults/registries.rs",
        "a_registry_that_fails_a_base_image_has_a_name",
    ),
    (
        "RegistryUnavailable",
        "e2e/faults/registries.rs",
        "a_registry_that_fails_a_base_image_has_a_name",
    ),
    (
        "RegistryContentMismatch",
        "e2e/faults/registries.rs",
        "a_registry_that_fails_a_base_image_has_a_name",
    ),
    ("NameResolution", "e2e/failures.rs", "what_is_missing_has_a_name"),
    (
        "TlsFailure",
        "e2e/world.rs",
        "a_registry_with_an_authority_of_its_own_is_trusted_when_the_spec_says_so",
    ),
    ("RegistryNotV2", "e2e/faults/registries.rs", "a_registry_that_fails_a_base_image_has_a_name"),
    ("PushRefused", "e2e/faults/registries.rs", "a_registry_that_fails_a_push_has_a_name"),
    ("OutOfMemory", "e2e/faults/pods.rs", "a_build_that_needs_more_than_it_may_have_has_a_name"),
    ("StorageFull", "e2e/faults/pods.rs", "a_build_that_needs_more_than_it_may_have_has_a_name"),
    ("OutputInvalid", "e2e/faults/pods.rs", "an_output_that_cannot_take_the_files_has_a_name"),
    ("Evicted", "e2e/faults/pods.rs", "a_build_that_has_to_make_room_has_a_name"),
    ("Preempted", "e2e/faults/pods.rs", "a_build_that_has_to_make_room_has_a_name"),
    (
        "NodeLost",
        "restart/nodes.rs",
        "a_build_whose_node_goes_away_says_so_and_a_taint_keeps_others_off",
    ),
    ("RunnerKilled", "e2e/failures.rs", "a_runner_that_is_killed_is_replaced_by_another_attempt"),
    ("PodDeleted", "e2e/failures.rs", "a_pod_that_somebody_deletes_is_replaced_by_another_attempt"),
    ("BuilderImagePull", "e2e/faults/pods.rs", "a_pod_that_does_not_come_up_has_a_name"),
    ("Unschedulable", "e2e/faults/pods.rs", "a_pod_that_does_not_come_up_has_a_name"),
    ("QuotaExceeded", "e2e/faults/pods.rs", "who_refuses_a_pod_is_quoted"),
    ("AdmissionRefused", "e2e/faults/pods.rs", "who_refuses_a_pod_is_quoted"),
    ("DaemonDied", "e2e/faults/pods.rs", "a_daemon_that_does_not_start_has_a_name"),
    ("Timeout", "e2e/faults/registries.rs", "a_registry_that_fails_a_push_has_a_name"),
    (
        "Cancelled",
        "e2e/lifecycle.rs",
        "a_build_whose_lease_nobody_renews_is_cancelled_and_one_that_is_renewed_goes_on",
    ),
    ("Internal", "e2e/faults/pods.rs", "a_pod_without_a_result_is_told_as_it_ended"),
];

#[test]
fn every_reason_is_produced_for_real_by_a_test() {
    let schema = serde_json::to_value(schemars::schema_for!(FailureReason)).unwrap();
    let reasons: BTreeSet<_> = schema["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|reason| reason["const"].as_str().unwrap())
        .collect();
    let produced: BTreeSet<_> = PRODUCED.iter().map(|(reason, ..)| *reason).collect();
    assert_eq!(produced, reasons);
    for (reason, file, test) in PRODUCED {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let (_, body) = text
            .split_once(&format!("#[test]\nfn {test}()"))
            .unwrap_or_else(|| panic!("{file} has no test {test}"));
        // A table stands before its test.
        assert!(
            body.contains(reason) || text.contains(&format!("\"{reason}\"")),
            "{test} of {file} does not name {reason}"
        );
    }
}
