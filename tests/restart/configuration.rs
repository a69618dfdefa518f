//! What the administrator sets for all builds, as the chart writes it, reaches builds that say nothing of it.

use serde_json::{Value, json};

use crate::{cluster::Namespace, operator::Deployed, secure_registry::registry_with_tls};

fn build(name: &str, registry: &str, more: &Value) -> String {
    let dockerfile = "FROM busybox:1.37\nRUN test \"$HTTP_PROXY\" = http://127.0.0.1:9 && echo reached > /proxy\n";
    let mut spec = json!({
        "source": { "files": { "Dockerfile": dockerfile } },
        "context": ".",
        "imageName": name,
        "push": true,
        "registry": registry,
        "output": { "none": {} },
        "retries": 0,
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "apiVersion": "ocibuild.dev/v1alpha1", "kind": "OciBuild", "metadata": { "name": name }, "spec": spec }).to_string()
}

#[test]
fn builds_get_authorities_proxies_resources_and_isolation_from_the_operators_configuration() {
    let deployed = Deployed::scaled_to_zero();
    let namespace = Namespace::new("configured");
    let (registry, folder) = registry_with_tls(&namespace);
    let authority = std::fs::read_to_string(folder.path().join("tls.crt")).unwrap();
    let other = json!({ "proxy": { "httpProxy": "http://other:3128" } });
    let resources = json!({ "pod": { "resources": { "limits": { "memory": "1Gi" } } } });

    let plain = deployed.start("plain");
    namespace.apply(&build(
        "before",
        &registry,
        &json!({ "proxy": { "httpProxy": "http://127.0.0.1:9", "noProxy": ".local" } }),
    ));
    namespace.failed("before", "TlsFailure");
    plain.kill();

    for (part, value) in [
        ("caBundle", json!(authority)),
        // Nobody listens there.
        ("proxy", json!({ "httpProxy": "http://127.0.0.1:9", "noProxy": ".local" })),
        (
            "defaults",
            json!({ "isolation": "userns", "resources": { "limits": { "memory": "700Mi" } } }),
        ),
        ("allowedOverrides", json!(["resources"])),
    ] {
        deployed.configure(part, value);
    }
    let _operator = deployed.start("configured");
    namespace.apply(&build("silent", &registry, &json!({})));
    namespace.apply(&build("sized", &registry, &resources));
    namespace.apply(&build("forbidden", &registry, &other));
    for (name, memory) in [("silent", "700Mi"), ("sized", "1Gi")] {
        let status = namespace.succeeded(name);
        assert_eq!(
            (&status["image"]["pushed"], &status["pod"]["isolation"]),
            (&json!(true), &json!("userns")),
            "{name}"
        );
        let daemon =
            namespace.get(&format!("pod/{name}-g1-a1"))["spec"]["initContainers"][0].clone();
        assert_eq!(daemon["resources"]["limits"]["memory"], memory, "{name}");
    }
    let failure = namespace.failed("forbidden", "InvalidSpec")["failure"].clone();
    let expected = "proxy is not allowed here; the operator's configuration (allowedOverrides) allows resources";
    assert_eq!(failure["message"], expected);
}
