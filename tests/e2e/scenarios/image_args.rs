//! Images of the source as base images.

use std::fs;

use serde_json::{Value, json};

use super::{Outputs, Scenario};
use crate::cluster::run;

const FIRST: &str =
    "FROM scratch\nCOPY first.txt /first.txt\nENV FIRST=yes\nLABEL inherited=first\n";
const SECOND: &str = "FROM scratch\nCOPY second.txt /second.txt\nLABEL inherited=second\n";

/// The claim holds both images as docker tars and as OCI ones, and a Dockerfile that uses them.
fn scenario_with_images(purpose: &str, dockerfile: &str) -> Scenario {
    let scenario = Scenario::new(purpose);
    for (name, dockerfile) in [("first", FIRST), ("second", SECOND)] {
        let files =
            [("Dockerfile", dockerfile), ("first.txt", "first\n"), ("second.txt", "second\n")];
        scenario.build(name, &files, json!({}));
        scenario.build(&format!("{name}-oci"), &files, json!({ "outputFormat": "oci" }));
    }
    scenario.write("source/Dockerfile", dockerfile.as_bytes());
    for name in ["first", "second", "first-oci", "second-oci"] {
        scenario.succeeded(name);
    }
    scenario
}

fn build(scenario: &Scenario, name: &str, image_args: Value, more: Value) {
    let mut spec = json!({ "context": "source", "imageArgs": image_args });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    scenario.build_from_claim(name, spec);
}

const BOTH: &str = "ARG first_image
ARG second_image=scratch
FROM ${first_image} AS first-target
FROM ${second_image} AS second
FROM ${first_image}
COPY --from=second /second.txt /copied.txt
";

fn check_both(outputs: &Outputs, name: &str) {
    let image = outputs.image(name);
    assert_eq!(image.file("copied.txt"), "second\n", "{name}");
    assert_eq!(image.file("first.txt"), "first\n", "{name}");
    assert_eq!(
        image.labels()["inherited"],
        "first",
        "{name}: the base image's configuration counts"
    );
    assert!(
        image.config()["config"]["Env"].as_array().unwrap().contains(&json!("FIRST=yes")),
        "{name}"
    );
}

/// Scenarios: image args from two tars, with an additional target. The layers of the base are in the image as they are.
#[test]
fn docker_tars_of_the_source_are_base_images() {
    let scenario = scenario_with_images("image-tars", BOTH);
    // Not only what BuildKit writes: the tar of `docker save`, which holds no OCI layout.
    let saved = {
        let outputs = scenario.outputs();
        let saved = outputs.path("saved.tar");
        let from = format!("oci-archive:{}", outputs.path("second/image.tar").display());
        let to = format!("docker-archive:{}:second:latest", saved.display());
        run("skopeo", &["copy", "--insecure-policy", &from, &to], b"").ok();
        fs::read(saved).unwrap()
    };
    scenario.write("inputs/second-image.tar", &saved);
    let args =
        json!({ "first_image": "first/image.tar", "second_image": "inputs/second-image.tar" });
    build(
        &scenario,
        "from-tars",
        args,
        json!({ "additionalTargets": ["first-target"], "buildArgs": { "first_image": "registry.invalid/not/this:one" } }),
    );
    build(
        &scenario,
        "without",
        json!({}),
        json!({ "buildArgs": { "first_image": "registry.invalid/not/this:one" } }),
    );
    scenario.succeeded("from-tars");
    scenario.failed("without", "NameResolution");
    let outputs = scenario.outputs();
    check_both(&outputs, "from-tars");
    let (first, target) = (outputs.image("first"), outputs.image("from-tars/targets/first-target"));
    assert_eq!(target.file("first.txt"), "first\n");
    assert_eq!(target.config()["rootfs"], first.config()["rootfs"], "the same layers");
    assert_eq!(target.labels()["inherited"], "first");
}

/// Scenarios: image args from two OCI layouts. And from an OCI tar, which the peer does not take.
#[test]
fn oci_layouts_and_oci_tars_of_the_source_are_base_images() {
    let scenario = scenario_with_images("image-layouts", BOTH);
    // The image whose tar or layout is the base, by name of the build.
    let cases = [
        ("from-layouts", "first-oci", "image", "second-oci/image"),
        ("from-oci-tars", "first-oci", "image.tar", "second-oci/image.tar"),
        ("from-both", "first", "image.tar", "second-oci/image"),
    ];
    for (name, base, form, second) in cases {
        build(
            &scenario,
            name,
            json!({ "first_image": format!("{base}/{form}"), "second_image": second }),
            json!({}),
        );
    }
    for (name, ..) in cases {
        scenario.succeeded(name);
    }
    let outputs = scenario.outputs();
    for (name, base, ..) in cases {
        check_both(&outputs, name);
        let base = outputs.image(base).config()["rootfs"]["diff_ids"][0].clone();
        assert_eq!(
            outputs.image(name).config()["rootfs"]["diff_ids"][0],
            base,
            "{name}: the layer of the base"
        );
    }
    assert_eq!(
        outputs.image("from-layouts").layer_digests()[0],
        outputs.image("first-oci").layer_digests()[0]
    );
}

/// Scenarios: image args with an upper-case name; image args with an unpacked root file system.
#[test]
fn an_image_argument_may_be_upper_case_and_its_files_are_unpacked() {
    let dockerfile = "ARG FIRST_IMAGE\nARG Second_Image\nFROM ${Second_Image} AS second\nFROM ${FIRST_IMAGE}\nCOPY --from=second / /\n";
    let scenario = scenario_with_images("image-upper", dockerfile);
    let args = json!({ "FIRST_IMAGE": "first/image.tar", "Second_Image": "second-oci/image" });
    build(&scenario, "upper", args, json!({ "unpackRootfs": true }));
    scenario.succeeded("upper");
    let outputs = scenario.outputs();
    assert_eq!(outputs.text("upper/rootfs/first.txt"), "first\n");
    assert_eq!(outputs.text("upper/rootfs/second.txt"), "second\n");
    let env = outputs.json("upper/metadata.json")["env"].clone();
    assert!(env.as_array().unwrap().contains(&json!("FIRST=yes")), "{env}");
}
