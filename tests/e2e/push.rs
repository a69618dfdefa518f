//! Pushing, with and without a password.

use crate::cluster::{Namespace, REGISTRY, REGISTRY_WITH_PASSWORD, run};

fn build(name: &str, registry: &str, more: &str) -> String {
    format!(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: {name} }}
spec:
  source: {{ files: {{ Dockerfile: \"FROM busybox:1.37\\nRUN echo {name} > /name\\n\" }} }}
  context: .
  imageName: {name}
  imageTag: v1
  push: true
  registry: {registry}
  {more}
"
    )
}

/// The registry's own word for the digest, asked by skopeo from outside the cluster.
fn digest_in_registry(address_variable: &str, image: &str, credentials: &[&str]) -> String {
    let address = std::env::var(address_variable)
        .unwrap_or_else(|_| panic!("{address_variable} is not set; see dev/cluster env"));
    let image = format!("docker://{address}/{image}");
    let arguments =
        [&["inspect", "--tls-verify=false", "--format", "{{.Digest}}"], credentials, &[&image]]
            .concat();
    run("skopeo", &arguments, b"").ok().trim().to_owned()
}

#[test]
fn a_pushed_image_has_the_digest_of_the_status_in_registry_and_tar() {
    let namespace = Namespace::new("push");
    namespace.apply(&build("pushed", &format!("{REGISTRY}/{}", namespace.name), ""));
    let status = namespace.succeeded("pushed");
    assert_eq!(status["image"]["pushed"], true);
    assert_eq!(status["image"]["reference"], format!("{REGISTRY}/{}/pushed:v1", namespace.name));
    let digest =
        digest_in_registry("OCIBUILD_DEV_REGISTRY", &format!("{}/pushed:v1", namespace.name), &[]);
    assert_eq!(digest, status["image"]["digest"].as_str().unwrap());
    namespace.check_tar(&status);
}

#[test]
fn an_image_that_is_only_pushed_needs_no_volume() {
    let namespace = Namespace::new("push-only");
    namespace.apply(&build(
        "only",
        &format!("{REGISTRY}/{}", namespace.name),
        "output: { none: {} }",
    ));
    let status = namespace.succeeded("only");
    assert!(status["tar"].is_null());
    let digest =
        digest_in_registry("OCIBUILD_DEV_REGISTRY", &format!("{}/only:v1", namespace.name), &[]);
    assert_eq!(digest, status["image"]["digest"].as_str().unwrap());
    assert_eq!(namespace.kubectl(&["get", "pvc", "-o", "name"]).ok(), "");
}

#[test]
fn a_registry_with_a_password_takes_the_right_one_and_names_the_wrong_one() {
    let namespace = Namespace::new("password");
    for (name, password) in [("right", "correct-horse"), ("wrong", "battery-staple")] {
        namespace
            .kubectl(&[
                "create",
                "secret",
                "docker-registry",
                name,
                &format!("--docker-server={REGISTRY_WITH_PASSWORD}"),
                "--docker-username=builder",
                &format!("--docker-password={password}"),
            ])
            .ok();
    }
    let registry = format!("{REGISTRY_WITH_PASSWORD}/{}", namespace.name);
    for (name, secrets) in [
        ("right", "registrySecrets: [right]"),
        ("wrong", "registrySecrets: [wrong]"),
        ("none", ""),
        ("missing", "registrySecrets: [missing]"),
        ("merged", "registrySecrets: [wrong, right]"),
    ] {
        namespace.apply(&build(name, &registry, &format!("output: {{ none: {{}} }}\n  {secrets}")));
    }
    for name in ["right", "merged"] {
        let status = namespace.succeeded(name);
        let image = format!("{}/{name}:v1", namespace.name);
        let digest = digest_in_registry(
            "OCIBUILD_DEV_REGISTRY_AUTH",
            &image,
            &["--creds", "builder:correct-horse"],
        );
        assert_eq!(digest, status["image"]["digest"].as_str().unwrap());
    }
    for name in ["wrong", "none"] {
        let status = namespace.failed(name, "RegistryUnauthorized");
        assert!(
            status["failure"]["hint"].as_str().unwrap().contains("registrySecrets"),
            "{status}"
        );
    }
    let missing = namespace.failed("missing", "SecretMissing");
    assert!(missing["failure"]["message"].as_str().unwrap().contains("missing"), "{missing}");

    for name in ["right", "wrong", "merged"] {
        let seen = namespace.story(name)
            + &namespace.kubectl(&["get", "ocib,pods,events", "-o", "yaml"]).ok();
        for secret in ["correct-horse", "battery-staple"] {
            assert!(!seen.contains(secret), "the password of {name} shows");
        }
    }
}

#[test]
fn push_without_a_registry_is_refused_by_kubectl_apply() {
    let namespace = Namespace::new("no-registry");
    let message =
        namespace.try_apply(&build("refused", "x", "").replace("registry: x", "")).refused();
    assert!(
        message.contains(
            "registry: required with push: true, for example registry: docker.io/my-team"
        ),
        "{message}"
    );
}
