//! The plain build and its files; where the Dockerfile lies.

use serde_json::json;

use super::{Scenario, image::Image, names, skopeo_inspect};

const DOCKERFILE: &str = "FROM busybox:1.37\nCOPY greeting /greeting\nRUN cat /greeting > /heard\n";
const FILES: [(&str, &str); 2] = [("Dockerfile", DOCKERFILE), ("greeting", "hello\n")];

/// Scenarios: basic build; digest file. It holds the digest of the tar's configuration.
#[test]
fn a_basic_build_leaves_a_tar_and_the_digest_of_its_configuration() {
    let scenario = Scenario::new("basic");
    scenario.build("basic", &FILES, json!({}));
    scenario.build(
        "elsewhere",
        &FILES,
        json!({ "output": { "persistentVolumeClaim": { "claimName": "images", "path": "a/b" } } }),
    );
    let status = scenario.succeeded("basic");
    assert_eq!(status["tar"]["format"], "docker", "{status}");
    assert_eq!(scenario.succeeded("elsewhere")["tar"]["path"], "a/b/image.tar");
    let outputs = scenario.outputs();
    assert_eq!(outputs.names("basic"), names(&["digest", "image.tar", "result.json"]));
    assert_eq!(outputs.names("a/b"), names(&["digest", "image.tar", "result.json"]));

    let image = outputs.image("basic");
    assert_eq!(image.file("heard"), "hello\n");
    let config_digest = image.manifest()["config"]["digest"].clone();
    assert_eq!(outputs.text("basic/digest"), config_digest.as_str().unwrap(), "without a newline");
    assert_eq!(status["image"]["configDigest"], config_digest);
    assert_eq!(status["image"]["digest"], image.descriptor()["digest"]);
    let as_docker_reads_it =
        skopeo_inspect("--raw", "docker-archive", &outputs.path("basic/image.tar"));
    assert_eq!(as_docker_reads_it["config"]["digest"], config_digest);
    let result = outputs.json("basic/result.json");
    assert_eq!(result["outcome"]["succeeded"]["digest"], status["image"]["digest"], "{result}");
}

/// Not tested by the peer: single-platform OUTPUT_OCI.
#[test]
fn an_oci_build_leaves_its_layout_unpacked_and_the_digest_of_its_manifest() {
    let scenario = Scenario::new("oci");
    scenario.build("oci", &FILES, json!({ "outputFormat": "oci" }));
    let status = scenario.succeeded("oci");
    assert_eq!(status["tar"]["format"], "oci", "{status}");
    let outputs = scenario.outputs();
    assert_eq!(outputs.names("oci"), names(&["digest", "image", "image.tar", "result.json"]));
    assert_eq!(outputs.names("oci/image"), names(&["blobs", "index.json", "oci-layout"]));

    let (archive, layout) = (outputs.image("oci"), Image::of_layout(&outputs.path("oci/image")));
    assert_eq!(layout.blob_digests(), archive.blob_digests());
    assert_eq!(layout.descriptor(), archive.descriptor());
    assert_eq!(layout.file("heard"), "hello\n");
    assert!(
        layout.manifest()["config"].is_object(),
        "no attestations, and so no index, unless asked for"
    );
    let digest = layout.descriptor()["digest"].as_str().unwrap().to_owned();
    assert_eq!(outputs.text("oci/digest"), digest);
    assert_eq!(status["image"]["digest"], digest);
    assert_eq!(status["image"]["configDigest"], layout.manifest()["config"]["digest"]);
    assert_eq!(status["image"]["mediaType"], layout.descriptor()["mediaType"]);
    for (transport, path) in [("oci", "oci/image"), ("oci-archive", "oci/image.tar")] {
        let manifest = skopeo_inspect("--raw", transport, &outputs.path(path));
        assert_eq!(manifest, layout.manifest(), "{transport}");
    }
}

/// Scenarios: Dockerfile path. The default Dockerfile fails.
#[test]
fn the_dockerfile_that_is_named_is_built_and_not_the_default_one() {
    let scenario = Scenario::new("dockerfile");
    let files = [
        ("app/Dockerfile", "FROM busybox:1.37\nRUN false\n"),
        ("app/hello.Dockerfile", "FROM scratch\nCOPY name /from-context\n"),
        ("ci/Dockerfile", "FROM scratch\nCOPY name /from-outside\n"),
        ("app/name", "app"),
    ];
    let cases = [
        ("below-the-root", json!("app/hello.Dockerfile"), "from-context"),
        ("below-the-context", json!("hello.Dockerfile"), "from-context"),
        ("outside-the-context", json!("ci/Dockerfile"), "from-outside"),
    ];
    for (name, dockerfile, _) in &cases {
        scenario.build(name, &files, json!({ "context": "app", "dockerfile": dockerfile }));
    }
    scenario.build("default", &files, json!({ "context": "app" }));
    for (name, ..) in &cases {
        scenario.succeeded(name);
    }
    scenario.failed("default", "StepFailed");
    let outputs = scenario.outputs();
    for (name, _, file) in cases {
        assert_eq!(outputs.image(name).file(file), "app", "{name}");
    }
}
