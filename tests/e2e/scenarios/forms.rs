//! The form of an image: its tags, annotations, compression, attestations and times. The peer has none of these.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Scenario,
    image::{Image, digest_of},
};
use crate::cluster::{REGISTRY, manifest_in_registry, raw_manifest_in_registry, run};

const DOCKERFILE: &str = "FROM scratch\nCOPY content /content\n";
const FILES: [(&str, &str); 2] = [("Dockerfile", DOCKERFILE), ("content", "some content\n")];

fn digest_in_registry(image: &str) -> String {
    digest_of(raw_manifest_in_registry(image).as_bytes())
}

#[test]
fn an_image_is_pushed_under_each_of_its_tags() {
    let scenario = Scenario::new("tags");
    let tags = json!({
        "push": true, "registry": format!("{REGISTRY}/{}", scenario.name), "imageTag": "v1.2.3", "extraTags": ["v1.2", "v1"],
    });
    scenario.build("tagged", &FILES, tags);
    let status = scenario.succeeded("tagged");
    for tag in ["v1.2.3", "v1.2", "v1"] {
        let digest = digest_in_registry(&format!("{}/tagged:{tag}", scenario.name));
        assert_eq!(digest, status["image"]["digest"].as_str().unwrap(), "{tag}");
    }
    let tar = scenario.fetch_tar(&status);
    let names = run("tar", &["-xOf", tar.to_str().unwrap(), "manifest.json"], b"").ok();
    for tag in ["v1.2.3", "v1.2", "v1"] {
        assert!(names.contains(&format!("/tagged:{tag}\"")), "docker load gives each tag: {names}");
    }
}

#[test]
fn annotations_stand_in_the_manifest_and_in_the_index() {
    let scenario = Scenario::new("annotations");
    let annotations = json!({ "org.opencontainers.image.source": "https://example.com/a,b=\"c\"", "org.example.empty": "" });
    scenario.build("docker", &FILES, json!({ "annotations": annotations }));
    scenario.build("oci", &FILES, json!({ "annotations": annotations, "outputFormat": "oci" }));
    scenario.build(
        "index",
        &FILES,
        json!({ "annotations": annotations, "platforms": ["linux/arm64", "linux/amd64"] }),
    );
    for name in ["docker", "oci", "index"] {
        scenario.succeeded(name);
    }
    let outputs = scenario.outputs();
    for name in ["docker", "oci"] {
        assert_eq!(outputs.image(name).manifest()["annotations"], annotations, "{name}");
        assert!(outputs.image(name).labels().is_empty(), "{name}: annotations are no labels");
    }
    let image = outputs.image("index");
    assert_eq!(image.root()["annotations"], annotations);
    for manifest in image.root()["manifests"].as_array().unwrap() {
        assert_eq!(image.document(&manifest["digest"])["annotations"], annotations);
    }
}

#[test]
fn layers_are_compressed_as_asked_for() {
    let scenario = Scenario::new("compression");
    let cases = [
        ("default", json!({}), "application/vnd.oci.image.layer.v1.tar+gzip"),
        (
            "gzip",
            json!({ "compression": "gzip", "compressionLevel": 9 }),
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ),
        (
            "zstd",
            json!({ "compression": "zstd", "compressionLevel": 3 }),
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ),
        (
            "estargz",
            json!({ "compression": "estargz", "outputFormat": "oci" }),
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ),
        (
            "uncompressed",
            json!({ "compression": "uncompressed", "noCache": true }),
            "application/vnd.oci.image.layer.v1.tar",
        ),
    ];
    for (name, more, _) in &cases {
        scenario.build(name, &FILES, more.clone());
    }
    for (name, ..) in &cases {
        scenario.succeeded(name);
    }
    let outputs = scenario.outputs();
    for (name, _, media_type) in cases {
        let image = outputs.image(name);
        assert_eq!(image.layer_media_types(), BTreeSet::from([media_type.to_owned()]), "{name}");
        assert_eq!(image.file("content"), "some content\n", "{name}");
        let contents = &image.manifest()["layers"][0]["annotations"]["containerd.io/snapshot/stargz/toc.digest"];
        assert_eq!(contents.is_string(), name == "estargz", "{name}");
    }
}

/// The kinds of statements in the attestation manifests of an index.
fn predicates(index: &Value, document: impl Fn(&Value) -> Value) -> Vec<String> {
    let manifests = index["manifests"].as_array().unwrap_or_else(|| panic!("an index: {index}"));
    let attestations = manifests.iter().filter(|manifest| {
        manifest["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
    });
    let layers = attestations
        .flat_map(|manifest| document(&manifest["digest"])["layers"].as_array().unwrap().clone());
    layers
        .map(|layer| layer["annotations"]["in-toto.io/predicate-type"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn provenance_is_stored_with_the_image_when_asked_for_and_not_otherwise() {
    let scenario = Scenario::new("provenance");
    let push = json!({ "push": true, "registry": format!("{REGISTRY}/{}", scenario.name) });
    let with = |more: Value| {
        let mut spec = push.clone();
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    scenario.build(
        "only-pushed",
        &FILES,
        with(json!({ "attestations": { "provenance": "max" }, "output": { "none": {} } })),
    );
    scenario.build("both", &FILES, with(json!({ "attestations": { "provenance": "min" } })));
    scenario.build("without", &FILES, with(json!({ "outputFormat": "oci" })));
    for name in ["only-pushed", "both", "without"] {
        let status = scenario.succeeded(name);
        assert_eq!(
            status["image"]["digest"],
            digest_in_registry(&format!("{}/{name}", scenario.name)),
            "{name}"
        );
    }
    for name in ["only-pushed", "both"] {
        let index = manifest_in_registry(&format!("{}/{name}", scenario.name));
        let in_registry = |digest: &Value| {
            manifest_in_registry(&format!("{}/{name}@{}", scenario.name, digest.as_str().unwrap()))
        };
        let predicates = predicates(&index, in_registry);
        assert_eq!(predicates.len(), 1, "{name}: {predicates:?}");
        assert!(
            predicates[0].starts_with("https://slsa.dev/provenance/"),
            "{name}: {predicates:?}"
        );
    }
    let without = manifest_in_registry(&format!("{}/without", scenario.name));
    assert!(without["config"].is_object() && without["manifests"].is_null(), "{without}");

    let outputs = scenario.outputs();
    for image in [outputs.image("both"), Image::of_layout(&outputs.path("both/image"))] {
        assert_eq!(predicates(&image.root(), |digest| image.document(digest)).len(), 1);
        assert_eq!(outputs.text("both/digest"), image.descriptor()["digest"].as_str().unwrap());
        let manifests = image.root()["manifests"].as_array().unwrap().clone();
        let of_platform =
            manifests.iter().find(|manifest| manifest["platform"]["os"] != "unknown").unwrap();
        let config = image.document(&of_platform["digest"])["config"]["digest"].clone();
        assert_eq!(
            scenario.succeeded("both")["image"]["configDigest"],
            config,
            "that of the one platform"
        );
    }
    assert!(outputs.image("without").manifest()["config"].is_object());
}

/// The same source gives the same digest, however the build is kept apart from its node.
#[test]
fn source_date_epoch_makes_one_digest_on_every_isolation() {
    let scenario = Scenario::new("epoch");
    let epoch = 1_700_000_000;
    let dockerfile = "FROM busybox:1.37
COPY content /srv/content
RUN mkdir -p /made/below && echo made > /made/file && ln /made/file /made/hard && ln -s file /made/soft && rm /srv/content
RUN rm -r /made && mkdir /made && echo again > /made/again && chown -R 7:7 /made && chmod 4750 /made/again
";
    let files = [("Dockerfile", dockerfile), ("content", "some content\n")];
    let cases = [
        ("rootless", json!({ "isolation": "rootless", "sourceDateEpoch": epoch })),
        ("rootless-again", json!({ "isolation": "rootless", "sourceDateEpoch": epoch })),
        ("userns", json!({ "isolation": "userns", "sourceDateEpoch": epoch })),
        ("privileged", json!({ "isolation": "privileged", "sourceDateEpoch": epoch })),
        (
            "by-argument",
            json!({ "isolation": "rootless", "buildArgs": { "SOURCE_DATE_EPOCH": epoch.to_string() } }),
        ),
        ("another-time", json!({ "isolation": "rootless", "sourceDateEpoch": epoch + 1 })),
    ];
    for (name, more) in &cases {
        scenario.build(name, &files, more.clone());
    }
    let digests: Vec<_> = cases
        .iter()
        .map(|(name, _)| scenario.succeeded(name)["image"]["digest"].as_str().unwrap().to_owned())
        .collect();
    for (number, (name, _)) in cases.iter().enumerate() {
        assert_eq!(digests[number] == digests[0], *name != "another-time", "{name}: {digests:?}");
    }
    let image = scenario.outputs().image("rootless");
    assert_eq!(image.config()["created"], "2023-11-14T22:13:20Z");
    let layers_of_base =
        manifest_in_registry("library/busybox:1.37")["layers"].as_array().unwrap().len();
    let latest = image.layers()[layers_of_base..].iter().flatten().map(|entry| entry.mtime).max();
    assert_eq!(
        latest,
        Some(epoch),
        "no file is younger; layers of the base image stay as they are"
    );
}
