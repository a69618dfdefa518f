//! How a build reaches the world: registries with an authority of their own, proxies; and what it tells the world of its image.

use serde_json::Value;

use crate::{
    cluster::{Namespace, REGISTRY, run},
    secure_registry::registry_with_tls,
};

fn build(name: &str, dockerfile: &str, more: &str) -> String {
    format!(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: {name} }}
spec:
  source: {{ files: {{ Dockerfile: \"{dockerfile}\" }} }}
  context: .
  imageName: {name}
  retries: 0
  {more}
"
    )
}

#[test]
fn a_registry_with_an_authority_of_its_own_is_trusted_when_the_spec_says_so() {
    let namespace = Namespace::new("authority");
    let (registry, _folder) = registry_with_tls(&namespace);
    let push = format!("push: true\n  registry: {registry}\n  output: {{ none: {{}} }}");
    for (name, connection) in [
        ("trusted", "ca: { name: authority }"),
        ("careless", "insecure: true"),
        ("missing", "ca: { name: nobody-made-this }"),
        ("lacking", "ca: { name: authority, key: other }"),
        ("nonsense", "ca: { name: nonsense }"),
    ] {
        let registries = format!("{push}\n  registries: {{ '{registry}': {{ {connection} }} }}");
        namespace.apply(&build(name, "FROM scratch\\nCOPY Dockerfile /\\n", &registries));
    }
    namespace.apply(&build("untrusted", "FROM scratch\\nCOPY Dockerfile /\\n", &push));
    for name in ["trusted", "careless"] {
        assert_eq!(namespace.succeeded(name)["image"]["pushed"], true);
    }
    for (name, reason, words) in [
        ("untrusted", "TlsFailure", "x509"),
        ("missing", "ConfigMapMissing", "\"nobody-made-this\""),
        ("lacking", "ConfigMapMissing", "\"other\""),
        ("nonsense", "InvalidSpec", "no certificate in PEM"),
    ] {
        let failure = namespace.failed(name, reason)["failure"].clone();
        assert!(failure["message"].as_str().unwrap().contains(words), "{failure}");
    }
    // What was pushed serves as a base image, by the same authority.
    let base = format!("FROM {registry}/trusted:latest\\nCOPY Dockerfile /again\\n");
    let trust = format!("registries: {{ '{registry}': {{ ca: {{ name: authority }} }} }}");
    namespace.apply(&build("based", &base, &trust));
    namespace.apply(&build("suspicious", &base, ""));
    namespace.succeeded("based");
    namespace.failed("suspicious", "TlsFailure");
}

#[test]
fn proxies_are_used_for_pulls_and_steps_and_leave_no_trace_in_the_image() {
    let namespace = Namespace::new("proxy");
    // Nobody listens there.
    let proxy = "httpProxy: 'http://127.0.0.1:9', httpsProxy: 'http://127.0.0.1:9'";
    let dockerfile = "FROM busybox:1.37\\nRUN echo $HTTP_PROXY | grep -q 1:9$ && test $no_proxy = .cluster.local\\n";
    namespace.apply(&build("through", "FROM busybox:1.37\\n", &format!("proxy: {{ {proxy} }}")));
    namespace.apply(&build(
        "around",
        dockerfile,
        &format!("proxy: {{ {proxy}, noProxy: .cluster.local }}"),
    ));
    let failure = namespace.failed("through", "RegistryUnavailable")["failure"].clone();
    assert!(
        failure["message"].as_str().unwrap().contains("proxyconnect"),
        "the proxy was asked: {failure}"
    );
    let tar = namespace.check_tar(&namespace.succeeded("around"));
    let archive = format!("docker-archive:{}", tar.display());
    let config = run("skopeo", &["inspect", "--config", &archive], b"").ok();
    assert!(config.contains("grep -q 1:9$"), "the history shows the step: {config}");
    assert!(!config.contains("127.0.0.1:9"), "and not the proxy: {config}");
}

#[test]
fn an_sbom_is_made_by_the_scanner_that_the_spec_names() {
    let namespace = Namespace::new("sbom");
    let registry = format!("{REGISTRY}/{}", namespace.name);
    namespace.apply(&format!(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: scanner }}
spec:
  source:
    files:
      Dockerfile: |
        FROM busybox:1.37
        COPY --chmod=755 scan /scan
        ENTRYPOINT [\"/scan\"]
      scan: |
        #!/bin/sh
        cat >\"$BUILDKIT_SCAN_DESTINATION/app.spdx.json\" <<END
        {{\"_type\": \"https://in-toto.io/Statement/v0.1\", \"predicateType\": \"https://spdx.dev/Document\", \"predicate\": {{\"name\": \"made-by-the-test\"}}}}
        END
  context: .
  imageName: scanner
  push: true
  registry: {registry}
  output: {{ none: {{}} }}
"
    ));
    namespace.succeeded("scanner");
    let sbom = format!("attestations: {{ sbom: {{ generator: '{registry}/scanner:latest' }} }}");
    namespace.apply(&build("scanned", "FROM busybox:1.37\\nRUN echo hello > /greeting\\n", &sbom));
    let status = namespace.succeeded("scanned");
    assert_eq!(status["tar"]["format"], "oci");
    namespace.pod_on_claim("reader", status["tar"]["claimName"].as_str().unwrap());
    let blob = |digest: &str| {
        namespace.shell(
            "reader",
            &format!("cat /claim/image/blobs/sha256/{}", &digest["sha256:".len()..]),
        )
    };
    let index: Value =
        serde_json::from_str(&blob(status["image"]["digest"].as_str().unwrap())).unwrap();
    let attestation = index["manifests"].as_array().unwrap().iter().find(|manifest| {
        manifest["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
    });
    let manifest: Value =
        serde_json::from_str(&blob(attestation.unwrap()["digest"].as_str().unwrap())).unwrap();
    let statements: Vec<_> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| blob(layer["digest"].as_str().unwrap()))
        .collect();
    assert!(
        statements.iter().any(|statement| statement.contains("made-by-the-test")),
        "{statements:?}"
    );
}
