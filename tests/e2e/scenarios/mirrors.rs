//! Mirrors of registries, and the daemon's configuration that comes of them.

use serde_json::json;

use super::{Scenario, image::digests};
use crate::cluster::{REGISTRY, manifest_in_registry};

/// Scenarios: registry mirror. It speaks http and holds `library/mirrored-image`. The peer has mirrors of docker.io alone.
#[test]
fn base_images_come_from_the_mirrors_of_their_registries() {
    let scenario = Scenario::new("mirrors");
    // Another name of the cluster's registry: nothing but the spec says that it speaks http.
    let alias = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "mirror" },
        "spec": { "type": "ExternalName", "externalName": REGISTRY.split(':').next().unwrap() },
    });
    scenario.apply(&alias.to_string());
    let mirror = format!("mirror.{}.svc.cluster.local:5000", scenario.name);
    scenario.build(
        "mirrored-image",
        &[("Dockerfile", "FROM scratch\nCOPY content /\n"), ("content", &scenario.name)],
        json!({ "push": true, "registry": format!("{REGISTRY}/{}/library", scenario.name), "output": { "none": {} } }),
    );
    scenario.succeeded("mirrored-image");
    let pushed = manifest_in_registry(&format!("{}/library/mirrored-image:latest", scenario.name));

    let http = json!({ &mirror: { "http": true } });
    let folder_of_mirror = format!("{mirror}/{}", scenario.name);
    let cases = [
        ("docker-io", "mirrored-image", "docker.io"),
        ("docker-io-in-full", "docker.io/library/mirrored-image:latest", "docker.io"),
        ("another", "registry.invalid/library/mirrored-image", "registry.invalid"),
        ("another-port", "registry.invalid:5443/library/mirrored-image", "registry.invalid:5443"),
    ];
    for (name, from, registry) in cases {
        let dockerfile = format!("FROM {from}\nLABEL built=here\n");
        let mirrors = json!({ registry: ["no-such-mirror.invalid", folder_of_mirror] });
        scenario.build(
            name,
            &[("Dockerfile", &dockerfile)],
            json!({ "registryMirrors": mirrors, "registries": http }),
        );
    }
    let from_another = [("Dockerfile", "FROM registry.invalid/library/mirrored-image\n")];
    scenario.build("no-mirror", &from_another, json!({ "registries": http }));
    scenario.build(
        "no-http",
        &from_another,
        json!({ "registryMirrors": { "registry.invalid": [folder_of_mirror] } }),
    );
    for (name, ..) in cases {
        scenario.succeeded(name);
    }
    for name in ["no-mirror", "no-http"] {
        assert_eq!(
            scenario.ended(name)["phase"],
            "Failed",
            "{name}: it takes both, the mirror and how it is reached"
        );
    }
    let outputs = scenario.outputs();
    for (name, ..) in cases {
        let image = outputs.image(name);
        assert_eq!(image.layer_digests(), digests(&pushed["layers"]), "{name}");
        assert_eq!(image.file("content"), scenario.name, "{name}");
    }
}

/// Scenarios: daemon configuration for mirrors; no daemon configuration without mirrors.
/// Not tested by the peer: extra configuration. There a second table of docker.io breaks the daemon. That there is no file at all where nothing is configured is a test of the plan.
#[test]
fn the_daemons_configuration_is_generated_and_merged_with_that_of_the_spec() {
    let scenario = Scenario::new("daemon");
    let files = [("Dockerfile", "FROM busybox:1.37\nRUN true\n")];
    scenario.build("plain", &files, json!({}));
    scenario.build(
        "mirror",
        &files,
        json!({ "registryMirrors": { "example.com": ["mirror.example.com/a", "other:5000"] } }),
    );
    let config = "[worker.oci]\n  max-parallelism = 3\n[registry.\"docker.io\"]\n  http = true\n";
    scenario.build("extra", &files, json!({ "buildkitConfig": config }));
    let broken = "[registry.\"docker.io\"]\n[registry.\"docker.io\"]\n";
    scenario.build("broken", &files, json!({ "buildkitConfig": broken }));
    for name in ["plain", "mirror", "extra"] {
        scenario.succeeded(name);
    }
    let failed = scenario.failed("broken", "InvalidSpec");
    assert!(failed["failure"]["message"].as_str().unwrap().contains("buildkitConfig"), "{failed}");

    let plain = scenario.daemon_config("plain");
    let of_the_operator = plain["registry"]["docker.io"]["mirrors"].clone();
    assert_eq!(of_the_operator, toml::Value::from(vec![REGISTRY]));
    assert_eq!(plain.keys().collect::<Vec<_>>(), ["registry"], "nothing that nobody asked for");

    let mirror = scenario.daemon_config("mirror");
    assert_eq!(
        mirror["registry"]["example.com"]["mirrors"],
        toml::Value::from(vec!["mirror.example.com/a", "other:5000"])
    );
    assert_eq!(mirror["registry"]["docker.io"], plain["registry"]["docker.io"]);

    let extra = scenario.daemon_config("extra");
    assert_eq!(
        extra["registry"]["docker.io"]["mirrors"], of_the_operator,
        "the operator's mirror stays"
    );
    assert_eq!(extra["registry"]["docker.io"]["http"], toml::Value::from(true));
    assert_eq!(extra["worker"]["oci"]["max-parallelism"], toml::Value::from(3));
    assert_eq!(extra["registry"][REGISTRY], plain["registry"][REGISTRY]);
}
