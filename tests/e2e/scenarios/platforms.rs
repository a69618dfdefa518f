//! Images for other platforms than the node's. Their Dockerfiles only copy, so no emulation is needed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Scenario,
    image::{Image, digest_of},
    skopeo_inspect,
};
use crate::cluster::{REGISTRY, raw_manifest_in_registry};

const DOCKERFILE: &str =
    "FROM scratch\nARG TARGETARCH\nCOPY of-$TARGETARCH /file\nLABEL for=$TARGETARCH\n";
const FILES: [(&str, &str); 4] = [
    ("Dockerfile", DOCKERFILE),
    ("of-arm64", "arm64\n"),
    ("of-amd64", "amd64\n"),
    ("of-arm", "arm\n"),
];

fn architectures(index: &Value) -> BTreeSet<String> {
    let manifests = index["manifests"].as_array().unwrap_or_else(|| panic!("an index: {index}"));
    let platform = |manifest: &Value| {
        let platform = &manifest["platform"];
        format!(
            "{}/{}",
            platform["os"].as_str().unwrap(),
            platform["architecture"].as_str().unwrap()
        )
    };
    let all: Vec<_> = manifests.iter().map(platform).collect();
    let set: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!(all.len(), set.len(), "each once: {all:?}");
    set
}

/// Scenarios: image platform. It is arm64.
#[test]
fn an_image_for_arm64_says_so_in_its_configuration() {
    let scenario = Scenario::new("arm64");
    scenario.build("foreign", &FILES, json!({ "platforms": ["linux/arm64"] }));
    scenario.build(
        "variant",
        &FILES,
        json!({ "platforms": ["linux/arm/v7"], "unpackRootfs": true, "outputFormat": "oci" }),
    );
    let foreign = scenario.succeeded("foreign");
    let variant = scenario.succeeded("variant");
    assert_eq!(foreign["image"]["platforms"], json!(["linux/arm64"]));
    assert_eq!(variant["image"]["platforms"], json!(["linux/arm/v7"]));
    assert_eq!(foreign["tar"]["format"], "docker", "one platform needs no index");
    let outputs = scenario.outputs();
    let image = outputs.image("foreign");
    assert_eq!(image.config()["architecture"], "arm64");
    assert_eq!(image.config()["os"], "linux");
    assert_eq!(image.file("file"), "arm64\n");
    assert_eq!(
        outputs.text("foreign/digest"),
        image.manifest()["config"]["digest"].as_str().unwrap()
    );
    let config = skopeo_inspect("--config", "docker-archive", &outputs.path("foreign/image.tar"));
    assert_eq!(config["architecture"], "arm64");
    let image = outputs.image("variant");
    assert_eq!(
        (&image.config()["architecture"], &image.config()["variant"]),
        (&json!("arm"), &json!("v7"))
    );
    assert_eq!(outputs.text("variant/rootfs/file"), "arm\n");
}

/// Scenarios: OCI index. It lists arm64 and amd64. Attestations, had nobody asked for them, would stand in it too.
#[test]
fn an_image_for_two_platforms_is_an_index_of_exactly_those() {
    let scenario = Scenario::new("index");
    let platforms = json!(["linux/arm64", "linux/amd64"]);
    let registry = format!("{REGISTRY}/{}", scenario.name);
    scenario.build(
        "index",
        &FILES,
        json!({ "platforms": platforms, "push": true, "registry": registry }),
    );
    let status = scenario.succeeded("index");
    assert_eq!(status["tar"]["format"], "oci", "a docker tar cannot hold it: {status}");
    assert!(status["image"]["configDigest"].is_null(), "there is not one configuration: {status}");
    let shown: BTreeSet<String> =
        serde_json::from_value(status["image"]["platforms"].clone()).unwrap();
    assert_eq!(shown, serde_json::from_value(platforms).unwrap());

    let outputs = scenario.outputs();
    for image in [outputs.image("index"), Image::of_layout(&outputs.path("index/image"))] {
        let index = image.root();
        assert_eq!(architectures(&index), super::names(&["linux/amd64", "linux/arm64"]));
        for manifest in index["manifests"].as_array().unwrap() {
            let config = image.document(&image.document(&manifest["digest"])["config"]["digest"]);
            assert_eq!(config["architecture"], manifest["platform"]["architecture"]);
            assert_eq!(config["config"]["Labels"]["for"], manifest["platform"]["architecture"]);
        }
        let digest = image.descriptor()["digest"].as_str().unwrap().to_owned();
        assert_eq!(outputs.text("index/digest"), digest, "the digest of the index");
        assert_eq!(status["image"]["digest"], digest);
        assert_eq!(status["image"]["mediaType"], "application/vnd.oci.image.index.v1+json");
    }
    let raw = skopeo_inspect("--raw", "oci", &outputs.path("index/image"));
    assert_eq!(architectures(&raw), super::names(&["linux/amd64", "linux/arm64"]));
    let pushed = raw_manifest_in_registry(&format!("{}/index:latest", scenario.name));
    assert_eq!(
        status["image"]["digest"],
        digest_of(pushed.as_bytes()),
        "a registry serves it by this digest"
    );
}
