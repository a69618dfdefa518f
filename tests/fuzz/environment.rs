//! The environment of a Concourse task.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use ocibuild::concourse::params::TaskParameters;
use proptest::prelude::*;

use crate::{hold, made_of};

const NAMES: &[&str] = &[
    "CONTEXT",
    "context",
    "DOCKERFILE",
    "BUILD_ARGS",
    "BUILD_ARG_",
    "BUILD_ARG_A",
    "BUILD_ARGS_FILE",
    "buildargsfile",
    "LABELS",
    "LABEL_a.b",
    "LABELS_FILE",
    "IMAGE_ARGS",
    "IMAGE_ARG_base",
    "TARGET",
    "TARGET_FILE",
    "ADDITIONAL_TARGETS",
    "IMAGE_PLATFORM",
    "OUTPUT_OCI",
    "UNPACK_ROOTFS",
    "BUILDKIT_SECRET_a",
    "BUILDKIT_SECRETTEXT_a",
    "BUILDKIT_SECRETS",
    "BUILDKIT_SSH",
    "BUILDKIT_ADD_HOSTS",
    "buildkitaddhosts",
    "REGISTRY_MIRRORS",
    "BUILDKIT_EXTRA_CONFIG",
    "DEBUG",
    "DOCKER_CONFIG",
    "IMAGE_NAME",
    "IMAGE_TAG",
    "PUSH",
    "REGISTRY",
];
const PIECES: &[&str] = &[
    "",
    "a",
    "b",
    "=",
    ",",
    "{",
    "}",
    "[",
    "]",
    "/",
    "..",
    ".",
    "/task",
    "/task/a",
    "true",
    "False",
    "1",
    "10.0.0.1",
    "::1",
    "\n",
    "ä",
    "\0",
    "\u{feff}",
    "-",
    ":",
    "linux/amd64",
    "\"",
    "\\",
];

fn is_inside(path: &str) -> bool {
    Path::new(path)
        .components()
        .all(|component| matches!(component, Component::Normal(_) | Component::CurDir))
}

fn reads_safely(variables: &BTreeMap<String, String>) -> Result<(), TestCaseError> {
    let Ok(parameters) = TaskParameters::read(variables) else { return Ok(()) };
    let Ok(below) = parameters.below(Path::new("/task")) else { return Ok(()) };
    let files = [&below.dockerfile, &below.build_args_file, &below.labels_file, &below.target_file];
    for path in files.into_iter().flatten().chain(below.image_args.values()).chain([&below.context])
    {
        prop_assert!(is_inside(path), "{path:?} leaves the task's folder");
    }
    Ok(())
}

#[test]
fn parameters_with_values_that_are_almost_right_stay_inside_the_folder() {
    let variables = prop::collection::btree_map(
        prop::sample::select(NAMES).prop_map(str::to_owned),
        made_of(PIECES, 6),
        0..8,
    );
    hold(2, variables, |variables| reads_safely(&variables));
}

#[test]
fn any_text_may_be_the_value_of_a_parameter() {
    let name =
        prop_oneof![3 => prop::sample::select(NAMES).prop_map(str::to_owned), 1 => any::<String>()];
    let variables = prop::collection::btree_map(name, any::<String>(), 0..4);
    hold(2, variables, |variables| reads_safely(&variables));
}
