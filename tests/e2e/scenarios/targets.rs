//! Which stages are built, and what becomes of each.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Outputs, Scenario, names, secrets::ed25519_key};
use crate::cluster::REGISTRY;

const BETWEEN_FAILING_STAGES: &str = "FROM busybox:1.37 AS broken-before
RUN false
FROM busybox:1.37 AS working-target
RUN echo working > /stage
FROM busybox:1.37 AS broken-after
RUN false
";

/// Scenarios: target; target file.
#[test]
fn a_target_is_built_without_the_failing_stages_around_it() {
    let scenario = Scenario::new("target");
    let files = [("Dockerfile", BETWEEN_FAILING_STAGES), ("ci/target_file", "\n working-target\n")];
    let cases = [
        ("target", json!({ "target": "working-target" })),
        ("target-file", json!({ "targetFile": "ci/target_file" })),
        ("the-file-wins", json!({ "target": "broken-after", "targetFile": "ci/target_file" })),
    ];
    for (name, more) in &cases {
        scenario.build(name, &files, more.clone());
    }
    scenario.build("no-target", &files, json!({}));
    for (name, _) in &cases {
        scenario.succeeded(name);
    }
    scenario.failed("no-target", "StepFailed");
    let outputs = scenario.outputs();
    for (name, _) in cases {
        assert_eq!(outputs.image(name).file("stage"), "working\n", "{name}");
    }
}

const LABELLED: &str = "FROM scratch AS additional-target
COPY additional /file
ENV STAGE=additional
LABEL target=additional-target
FROM scratch AS final-target
COPY final /file
ENV STAGE=final
USER 7
LABEL target=final-target
FROM scratch
COPY final /file
LABEL target=last
";

fn target_of(outputs: &Outputs, folder: &str) -> BTreeMap<String, String> {
    outputs.image(folder).labels()
}

fn only_label(target: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("target".to_owned(), target.to_owned())])
}

/// Scenarios: multiple targets; multiple targets with an explicit target; multiple targets with digests.
/// Scenarios: multiple targets with unpacked root file systems.
#[test]
fn each_target_has_an_image_a_digest_and_a_root_file_system_of_its_own() {
    let scenario = Scenario::new("targets");
    let files = [
        ("Dockerfile", LABELLED),
        ("additional", "of the additional\n"),
        ("final", "of the final\n"),
    ];
    let additional = json!({ "additionalTargets": ["additional-target"] });
    let with = |more: Value| {
        let mut spec = additional.clone();
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    scenario.build(
        "several",
        &files,
        json!({ "additionalTargets": ["additional-target", "final-target"] }),
    );
    scenario.build("explicit", &files, with(json!({ "target": "final-target" })));
    scenario.build(
        "unpacked",
        &files,
        with(json!({ "target": "final-target", "unpackRootfs": true })),
    );
    scenario.build("oci", &files, with(json!({ "target": "final-target", "outputFormat": "oci" })));
    let statuses: BTreeMap<_, _> = ["several", "explicit", "unpacked", "oci"]
        .map(|name| (name, scenario.succeeded(name)))
        .into_iter()
        .collect();
    let outputs = scenario.outputs();

    assert_eq!(target_of(&outputs, "several"), only_label("last"));
    assert_eq!(outputs.names("several/targets"), names(&["additional-target", "final-target"]));
    for target in ["additional-target", "final-target"] {
        assert_eq!(target_of(&outputs, &format!("several/targets/{target}")), only_label(target));
    }
    for name in ["explicit", "unpacked", "oci"] {
        assert_eq!(target_of(&outputs, name), only_label("final-target"), "{name}");
        assert_eq!(
            target_of(&outputs, &format!("{name}/targets/additional-target")),
            only_label("additional-target"),
            "{name}"
        );
    }

    for name in ["explicit", "unpacked"] {
        for folder in [name.to_owned(), format!("{name}/targets/additional-target")] {
            let config = outputs.image(&folder).manifest()["config"]["digest"].clone();
            assert_eq!(
                outputs.text(&format!("{folder}/digest")),
                config.as_str().unwrap(),
                "{folder}"
            );
        }
        let status = &statuses[name]["additionalImages"];
        assert_eq!(status.as_array().unwrap().len(), 1, "{status}");
        let image = outputs.image(&format!("{name}/targets/additional-target"));
        assert_eq!(status[0]["target"], "additional-target");
        assert_eq!(status[0]["digest"], image.descriptor()["digest"]);
        assert_eq!(status[0]["configDigest"], image.manifest()["config"]["digest"]);
        assert_eq!(status[0]["tar"]["path"], format!("{name}/targets/additional-target/image.tar"));
        assert_eq!(status[0]["tar"]["claimName"], "images");
        assert_eq!(status[0]["tar"]["format"], "docker");
    }

    let files_of_a_target = names(&["digest", "image.tar", "metadata.json", "rootfs"]);
    assert_eq!(outputs.names("unpacked/targets/additional-target"), files_of_a_target);
    assert_eq!(outputs.text("unpacked/rootfs/file"), "of the final\n");
    assert_eq!(
        outputs.text("unpacked/targets/additional-target/rootfs/file"),
        "of the additional\n"
    );
    for (folder, stage, user) in [
        ("unpacked", "STAGE=final", "7"),
        ("unpacked/targets/additional-target", "STAGE=additional", ""),
    ] {
        let metadata = outputs.json(&format!("{folder}/metadata.json"));
        assert!(metadata["env"].as_array().unwrap().contains(&json!(stage)), "{metadata}");
        assert_eq!(metadata["user"], user, "{metadata}");
    }

    let layout = super::Image::of_layout(&outputs.path("oci/targets/additional-target/image"));
    assert_eq!(layout.labels(), only_label("additional-target"));
    assert_eq!(
        outputs.text("oci/targets/additional-target/digest"),
        layout.descriptor()["digest"].as_str().unwrap()
    );
}

/// Not tested by the peer: additional targets with platform, ssh and hosts. There they get none.
#[test]
fn additional_targets_get_platform_keys_hosts_and_secrets_too() {
    let scenario = Scenario::new("equal-targets");
    scenario.secret("key", &[("id", &ed25519_key().private)]);
    scenario.secret("token", &[("token", "of-all-targets")]);
    let asking = "RUN --mount=type=ssh --mount=type=secret,id=token test -S \"$SSH_AUTH_SOCK\" && grep '10.0.0.7' /etc/hosts \
                  && test \"$(cat /run/secrets/token)\" = of-all-targets && echo \"$greeting\" > /greeting\n";
    let dockerfile = format!(
        "FROM busybox:1.37 AS additional\nARG greeting\n{asking}FROM busybox:1.37\nARG greeting\n{asking}"
    );
    scenario.build(
        "asking",
        &[("Dockerfile", &dockerfile)],
        json!({
            "additionalTargets": ["additional"],
            "buildArgs": { "greeting": "hello" },
            "ssh": [{ "secret": { "name": "key", "key": "id" } }],
            "secrets": [{ "id": "token", "secret": { "name": "token", "key": "token" } }],
            "addHosts": { "git.internal": "10.0.0.7" },
        }),
    );
    let foreign =
        json!({ "additionalTargets": ["additional-target"], "platforms": ["linux/arm64"] });
    scenario.build(
        "foreign",
        &[("Dockerfile", LABELLED), ("additional", "a"), ("final", "f")],
        foreign,
    );
    scenario.succeeded("asking");
    scenario.succeeded("foreign");
    let outputs = scenario.outputs();
    for folder in ["asking", "asking/targets/additional"] {
        assert_eq!(outputs.image(folder).file("greeting"), "hello\n", "{folder}");
    }
    for folder in ["foreign", "foreign/targets/additional-target"] {
        assert_eq!(outputs.image(folder).config()["architecture"], "arm64", "{folder}");
    }
}

/// Scenarios: no output. For us that is an image that is only pushed. Its additional targets are built all the same.
#[test]
fn without_an_output_nothing_is_left_but_additional_targets_are_built() {
    let scenario = Scenario::new("no-output");
    let push = |target: &str| {
        json!({
            "push": true,
            "registry": format!("{REGISTRY}/{}", scenario.name),
            "output": { "none": {} },
            "target": "working-target",
            "additionalTargets": [target],
        })
    };
    let dockerfile = format!("FROM busybox:1.37 AS other\nRUN true\n{BETWEEN_FAILING_STAGES}");
    scenario.build("good", &[("Dockerfile", &dockerfile)], push("other"));
    scenario.build("bad", &[("Dockerfile", &dockerfile)], push("broken-after"));
    let status = scenario.succeeded("good");
    assert!(status["tar"].is_null() && status["image"]["pushed"] == true, "{status}");
    let manifest = crate::cluster::manifest_in_registry(&format!("{}/good:latest", scenario.name));
    assert_eq!(manifest["config"]["digest"], status["image"]["configDigest"]);
    scenario.failed("bad", "StepFailed");
    assert_eq!(
        scenario.in_claim("ls -A | grep -v lost+found || true"),
        "",
        "nothing is on the claim that neither names"
    );
}
