use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{InvalidParameter, SecretText, TaskParameters};

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(pairs: &[(&str, &str)]) -> Result<TaskParameters, InvalidParameter> {
    TaskParameters::read(&variables(pairs))
}

/// The parameters, on top of those of an empty environment.
fn with(change: impl FnOnce(&mut TaskParameters)) -> TaskParameters {
    let mut parameters = TaskParameters { context: ".".to_owned(), ..TaskParameters::default() };
    change(&mut parameters);
    parameters
}

/// Not tested by the peer: env parsing.
#[expect(clippy::too_many_lines, reason = "a row for each parameter")]
#[test]
fn every_parameter_is_read_as_the_task_reads_it() {
    let text = |value: &str| Some(value.to_owned());
    let texts =
        |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    let cases: Vec<(Vec<(&str, &str)>, TaskParameters)> = vec![
        (vec![], with(|_| {})),
        (vec![("CONTEXT", ""), ("PUSH", ""), ("TARGET", "")], with(|_| {})),
        (
            vec![("CONTEXT", "source"), ("DOCKERFILE", "x/Dockerfile")],
            with(|p| {
                p.context = "source".to_owned();
                p.dockerfile = text("x/Dockerfile");
            }),
        ),
        (
            vec![
                ("BUILD_ARG_a", "1"),
                ("BUILD_ARG_B", "x\ny"),
                ("BUILD_ARG_empty", ""),
                ("BUILD_ARG_", "nameless"),
            ],
            with(|p| {
                p.build_args = variables(&[("a", "1"), ("B", "x\ny"), ("empty", "")]);
            }),
        ),
        (
            vec![("BUILD_ARGS", "a=1,b=x=y"), ("BUILD_ARG_a", "2")],
            with(|p| p.build_args = variables(&[("a", "2"), ("b", "x=y")])),
        ),
        (vec![("BUILD_ARGS_FILE", "ci/args")], with(|p| p.build_args_file = text("ci/args"))),
        (vec![("build_args_file", "ci/args")], with(|p| p.build_args_file = text("ci/args"))),
        (vec![("BUILDARGSFILE", "ci/args")], with(|p| p.build_args_file = text("ci/args"))),
        (vec![("buildargsfile", "ci/args")], with(|p| p.build_args_file = text("ci/args"))),
        (vec![("context", "ignored"), ("push", "true")], with(|_| {})),
        (
            vec![("LABEL_some.key", "v"), ("LABELS", "a={b,c}")],
            with(|p| p.labels = variables(&[("some.key", "v"), ("a", "{b,c}")])),
        ),
        (
            vec![("IMAGE_ARG_base", "base/image.tar")],
            with(|p| p.image_args = variables(&[("base", "base/image.tar")])),
        ),
        (vec![("ADDITIONAL_TARGETS", "a, b")], with(|p| p.additional_targets = texts(&["a", "b"]))),
        (vec![("IMAGE_PLATFORM", "linux/arm64")], with(|p| p.platforms = texts(&["linux/arm64"]))),
        (
            vec![("IMAGE_PLATFORM", "linux/arm64,linux/amd64")],
            with(|p| {
                p.platforms = texts(&["linux/arm64", "linux/amd64"]);
                p.output_oci = true;
            }),
        ),
        (
            vec![("OUTPUT_OCI", "T"), ("UNPACK_ROOTFS", "1"), ("DEBUG", "False")],
            with(|p| {
                p.output_oci = true;
                p.unpack_rootfs = true;
            }),
        ),
        (
            vec![("BUILDKIT_SECRET_file", "path"), ("BUILDKIT_SECRETTEXT_text", "value")],
            with(|p| {
                p.secret_files = variables(&[("file", "path")]);
                p.secret_texts =
                    BTreeMap::from([("text".to_owned(), SecretText("value".to_owned()))]);
            }),
        ),
        (
            vec![("BUILDKIT_SSH", "default=one,two")],
            with(|p| p.ssh = Some(("default".to_owned(), texts(&["one", "two"])))),
        ),
        (
            vec![("BUILDKIT_ADD_HOSTS", "a=10.0.0.1,b=::1")],
            with(|p| {
                p.add_hosts = variables(&[("a", "10.0.0.1"), ("b", "::1")]);
            }),
        ),
        (
            vec![("REGISTRY_MIRRORS", "a:5000,b")],
            with(|p| p.registry_mirrors = texts(&["a:5000", "b"])),
        ),
        (
            vec![("BUILDKIT_EXTRA_CONFIG", "[a]\nb = 1\n")],
            with(|p| p.extra_config = text("[a]\nb = 1\n")),
        ),
        (
            vec![
                ("PUSH", "true"),
                ("REGISTRY", "docker.io/t"),
                ("IMAGE_NAME", "a"),
                ("IMAGE_TAG", "v1"),
            ],
            with(|p| {
                p.push = true;
                p.registry = text("docker.io/t");
                p.image_name = text("a");
                p.image_tag = text("v1");
            }),
        ),
        (vec![("DOCKER_CONFIG", "credentials")], with(|p| p.docker_config = text("credentials"))),
    ];
    for (pairs, expected) in cases {
        assert_eq!(read(&pairs).unwrap(), expected, "{pairs:?}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_to_write() {
    for (pairs, words) in [
        (vec![("PUSH", "yes")], "PUSH: \"yes\" is neither true nor false"),
        (vec![("OUTPUT_OCI", "on")], "OUTPUT_OCI: \"on\" is neither true nor false"),
        (
            vec![("ADDITIONAL_TARGETS", r#"["a","b"]"#)],
            "ADDITIONAL_TARGETS: Concourse makes the text",
        ),
        (vec![("BUILD_ARGS", "a")], "BUILD_ARGS: \"a\" has no '='"),
        (vec![("BUILDKIT_SECRETS", "x")], "BUILDKIT_SECRETS is not a parameter"),
        (vec![("BUILDKIT_SSH", "default")], "BUILDKIT_SSH: \"default\" names no key"),
        (
            vec![("BUILDKIT_ADD_HOSTS", "a=b")],
            "BUILDKIT_ADD_HOSTS: \"b\" of a is not an IP address",
        ),
        (vec![("BUILDKIT_ADD_HOSTS", "a")], "BUILDKIT_ADD_HOSTS: \"a\" has no '='"),
        (vec![("PUSH", "true"), ("IMAGE_NAME", "a")], "PUSH is true, so REGISTRY is needed"),
        (vec![("PUSH", "true"), ("REGISTRY", "a.b")], "PUSH is true, so IMAGE_NAME is needed"),
        (
            vec![("ADDITIONAL_TARGETS", "test,../../etc")],
            "ADDITIONAL_TARGETS: \"../../etc\" is no name of a stage",
        ),
        (
            vec![("ADDITIONAL_TARGETS", "/tmp")],
            "ADDITIONAL_TARGETS: \"/tmp\" is no name of a stage",
        ),
        (
            vec![("ADDITIONAL_TARGETS", "image")],
            "ADDITIONAL_TARGETS: \"image\" is no name of a stage",
        ),
        (
            vec![("IMAGE_PLATFORM", "a/b,c/d"), ("UNPACK_ROOTFS", "true")],
            "UNPACK_ROOTFS: only for one platform",
        ),
    ] {
        let words_found = read(&pairs).unwrap_err().to_string();
        assert!(words_found.starts_with(words), "{pairs:?}: {words_found}");
    }
}

#[test]
fn paths_are_made_relative_to_the_tasks_folder_and_none_leaves_it() {
    let folder = std::path::Path::new("/tmp/build/1a2b3c4d");
    let below = |context: &str| read(&[("CONTEXT", context)]).unwrap().below(folder);
    for (written, expected) in [
        (".", "."),
        ("source", "source"),
        ("./a//b/../c/", "a/c"),
        ("/tmp/build/1a2b3c4d/source", "source"),
        ("/tmp/build/1a2b3c4d", "."),
    ] {
        assert_eq!(below(written).unwrap().context, expected, "{written}");
    }
    for path in ["..", "a/../..", "/etc", "/tmp/build/other"] {
        assert!(
            below(path)
                .unwrap_err()
                .to_string()
                .starts_with(&format!("CONTEXT: {path:?} is outside")),
            "{path}"
        );
    }
    let parameters = read(&[
        ("DOCKERFILE", "./x"),
        ("IMAGE_ARG_a", "./b.tar"),
        ("DOCKER_CONFIG", "/root/.docker"),
    ])
    .unwrap();
    let parameters = parameters.below(folder).unwrap();
    assert_eq!(
        (parameters.dockerfile.as_deref(), parameters.image_args["a"].as_str()),
        (Some("x"), "b.tar")
    );
    assert_eq!(
        parameters.docker_config.as_deref(),
        Some("/root/.docker"),
        "secrets are read here, wherever they are"
    );
}

#[test]
fn a_secret_text_is_never_printed() {
    let parameters = read(&[("BUILDKIT_SECRETTEXT_token", "hunter2")]).unwrap();
    assert!(!format!("{parameters:?}").contains("hunter2"));
    assert_eq!(parameters.secret_texts["token"].reveal(), "hunter2");
}

proptest! {
    #[test]
    fn no_environment_makes_it_panic(values in prop::collection::vec("\\PC{0,40}", 8)) {
        let names = ["BUILD_ARGS", "LABELS", "IMAGE_PLATFORM", "BUILDKIT_SSH", "BUILDKIT_ADD_HOSTS", "PUSH", "ADDITIONAL_TARGETS", "IMAGE_ARGS"];
        let pairs = names.iter().zip(&values).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let _ = TaskParameters::read(&pairs);
    }
}
