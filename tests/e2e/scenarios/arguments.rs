//! Build arguments, labels and hosts.

use std::collections::BTreeMap;

use serde_json::json;

use super::Scenario;

/// The image tells what it was given.
const DOCKERFILE: &str = "FROM busybox:1.37
ARG some_arg=unset
ARG some_other_arg=unset
RUN printf '%s|%s' \"$some_arg\" \"$some_other_arg\" > /given
";

/// Scenarios: build args; build args file; build args YAML file; static and file build args.
#[test]
fn build_arguments_come_from_the_spec_and_from_files_and_the_file_wins() {
    let scenario = Scenario::new("arguments");
    let files = [
        ("Dockerfile", DOCKERFILE),
        ("ci/args", "some_arg=from file\n\nsome_other_arg=a=b=c\n"),
        ("ci/args.yml", "some_arg: 1.10\nsome_other_arg: |\n  two\n  lines\n"),
        ("ci/args.yaml", "some_arg: 007\nsome_other_arg: yes\n"),
        ("ci/one-arg", "some_arg=from file\n"),
    ];
    let cases = [
        ("none", json!({}), "unset|unset"),
        (
            "static",
            json!({ "buildArgs": { "some_arg": "some_value", "some_other_arg": "a, b=\"c\"" } }),
            "some_value|a, b=\"c\"",
        ),
        (
            "lines-and-empty",
            json!({ "buildArgs": { "some_arg": "two\nlines", "some_other_arg": "" } }),
            "two\nlines|",
        ),
        ("file", json!({ "buildArgsFile": "ci/args" }), "from file|a=b=c"),
        ("yml", json!({ "buildArgsFile": "ci/args.yml" }), "1.10|two\nlines\n"),
        ("yaml", json!({ "buildArgsFile": "ci/args.yaml" }), "007|yes"),
        (
            "static-and-file",
            json!({ "buildArgs": { "some_arg": "static", "some_other_arg": "static" }, "buildArgsFile": "ci/one-arg" }),
            "from file|static",
        ),
    ];
    for (name, more, _) in &cases {
        scenario.build(name, &files, more.clone());
    }
    for (name, ..) in &cases {
        scenario.succeeded(name);
    }
    let outputs = scenario.outputs();
    for (name, _, given) in cases {
        assert_eq!(outputs.image(name).file("given"), given, "{name}");
    }
}

/// Scenarios: labels; labels file; static, file and inherited labels.
#[test]
fn labels_are_exactly_those_of_base_image_spec_and_file() {
    let scenario = Scenario::new("labels");
    let plain = "FROM scratch\nCOPY Dockerfile /\n";
    let inheriting = "FROM scratch AS base
COPY Dockerfile /
LABEL inherited_label=inherited_value overridden_label=inherited_value
FROM base
";
    let files = |dockerfile| {
        [
            ("Dockerfile", dockerfile),
            ("ci/labels", "some_label=file=value\n\nsome_file_label=some_value\n"),
        ]
    };
    let cases = [
        ("none", plain, json!({}), &[][..]),
        (
            "static",
            plain,
            json!({ "labels": { "some_label": "a \"quoted\", one", "org.example/other": "" } }),
            &[("some_label", "a \"quoted\", one"), ("org.example/other", "")],
        ),
        (
            "file",
            plain,
            json!({ "labelsFile": "ci/labels" }),
            &[("some_label", "file=value"), ("some_file_label", "some_value")],
        ),
        (
            "all-three",
            inheriting,
            json!({
                "labels": { "some_label": "static", "static_label": "some_value", "overridden_label": "static" },
                "labelsFile": "ci/labels",
            }),
            &[
                ("inherited_label", "inherited_value"),
                ("overridden_label", "static"),
                ("static_label", "some_value"),
                ("some_label", "file=value"),
                ("some_file_label", "some_value"),
            ],
        ),
    ];
    for (name, dockerfile, more, _) in &cases {
        scenario.build(name, &files(dockerfile), more.clone());
    }
    for (name, ..) in &cases {
        scenario.succeeded(name);
    }
    let outputs = scenario.outputs();
    for (name, _, _, labels) in cases {
        let expected: BTreeMap<_, _> = labels
            .iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(outputs.image(name).labels(), expected, "{name}");
    }
}

/// Scenarios: add hosts.
#[test]
fn steps_find_added_hosts_and_the_image_does_not() {
    let scenario = Scenario::new("hosts");
    let dockerfile = "FROM busybox:1.37\nRUN cat /etc/hosts > /seen\n";
    let hosts = json!({ "addHosts": { "test-host": "1.2.3.4", "git.internal": "2001:db8::7" } });
    scenario.build("hosts", &[("Dockerfile", dockerfile)], hosts);
    scenario.succeeded("hosts");
    let image = scenario.outputs().image("hosts");
    let seen: Vec<Vec<String>> = image
        .file("seen")
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    for host in [["1.2.3.4", "test-host"], ["2001:db8::7", "git.internal"]] {
        assert!(seen.iter().any(|line| line.as_slice() == host), "{host:?} is not in {seen:?}");
    }
    let hosts = image
        .layers()
        .into_iter()
        .flatten()
        .filter(|entry| entry.path == "etc/hosts")
        .map(|entry| entry.content);
    assert!(
        hosts
            .map(|hosts| String::from_utf8(hosts).unwrap())
            .all(|hosts| !hosts.contains("1.2.3.4"))
    );
}
