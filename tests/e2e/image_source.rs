//! Images and artifacts of a registry as sources.

use serde_json::{Value, json};

use crate::cluster::{Namespace, REGISTRY, REGISTRY_WITH_PASSWORD, run};

fn address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; see dev/cluster env"))
}

fn build(name: &str, reference: &str, more: &str) -> String {
    format!(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: {name} }}
spec:
  source: {{ image: {{ reference: '{reference}' }} }}
  context: app
  imageName: {name}
  retries: 0
  {more}
"
    )
}

/// Puts a blob into the registry as every client does: where to, then all of it at once.
fn push_blob(
    registry: &str,
    repository: &str,
    credentials: &[&str],
    file: &std::path::Path,
) -> Value {
    let sum = run("sha256sum", &[file.to_str().unwrap()], b"").ok();
    let digest = format!("sha256:{}", sum.split(' ').next().unwrap());
    let begin = format!("http://{registry}/v2/{repository}/blobs/uploads/");
    let place = [
        &[
            "--silent",
            "--fail",
            "--request",
            "POST",
            "--output",
            "/dev/null",
            "--write-out",
            "%header{location}",
        ],
        credentials,
        &[&begin],
    ];
    let place = run("curl", &place.concat(), b"").ok();
    let place = place.replace(REGISTRY, registry).replace(REGISTRY_WITH_PASSWORD, registry);
    let content = format!("@{}", file.display());
    let put = format!("{place}&digest={digest}");
    let arguments = [
        "--silent",
        "--fail",
        "--request",
        "PUT",
        "--header",
        "Content-Type: application/octet-stream",
        "--data-binary",
        &content,
    ];
    run("curl", &[&arguments, credentials, &[&put]].concat(), b"").ok();
    json!({ "digest": digest, "size": std::fs::metadata(file).unwrap().len() })
}

/// Pushes what `flux push artifact` pushes: a configuration of its own kind and one packed folder.
fn push_artifact(registry: &str, repository: &str, credentials: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(path("tree/app")).unwrap();
    std::fs::write(
        path("tree/app/Dockerfile"),
        "FROM busybox:1.37\nCOPY greeting /\nCMD cat /greeting\n",
    )
    .unwrap();
    std::fs::write(path("tree/app/greeting"), "from an artifact").unwrap();
    let (tar, tree) = (path("content.tar.gz"), path("tree"));
    run("tar", &["-czf", tar.to_str().unwrap(), "-C", tree.to_str().unwrap(), "."], b"").ok();
    std::fs::write(path("config"), "{}").unwrap();
    let mut config = push_blob(registry, repository, credentials, &path("config"));
    config["mediaType"] = json!("application/vnd.cncf.flux.config.v1+json");
    let mut layer = push_blob(registry, repository, credentials, &tar);
    layer["mediaType"] = json!("application/vnd.cncf.flux.content.v1.tar+gzip");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer] })
            .to_string();
    let arguments = [
        "--silent",
        "--fail",
        "--request",
        "PUT",
        "--data",
        &manifest,
        "--header",
        &format!("Content-Type: {media_type}"),
    ];
    let place = format!("http://{registry}/v2/{repository}/manifests/v1");
    run("curl", &[&arguments, credentials, &[&place]].concat(), b"").ok();
}

#[test]
fn an_image_of_a_registry_is_a_source_by_tag_and_by_digest() {
    let namespace = Namespace::new("image-source");
    namespace.apply(&format!(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: sources }}
spec:
  source:
    files:
      Dockerfile: \"FROM scratch\\nCOPY app /app\\n\"
      app/Dockerfile: \"FROM busybox:1.37\\nCOPY greeting /\\nCMD cat /greeting\\n\"
      app/greeting: from an image
  context: .
  imageName: sources
  push: true
  registry: {REGISTRY}/{}
  output: {{ none: {{}} }}
",
        namespace.name
    ));
    let digest = namespace.succeeded("sources")["image"]["digest"].as_str().unwrap().to_owned();
    let repository = format!("{REGISTRY}/{}/sources", namespace.name);
    namespace.apply(&build("by-tag", &format!("{repository}:latest"), ""));
    namespace.apply(&build("by-digest", &format!("{repository}@{digest}"), ""));
    namespace.apply(&build("no-tag", &format!("{repository}:nothing"), ""));
    namespace.apply(&build("no-host", "no-such-host.invalid/sources:v1", ""));
    for name in ["by-tag", "by-digest"] {
        let tar = namespace.check_tar(&namespace.succeeded(name));
        assert_eq!(namespace.run_image(&tar, &format!("{name}:latest")), "from an image");
    }
    for (name, reason) in [("no-tag", "SourceNotFound"), ("no-host", "NameResolution")] {
        let failure = namespace.failed(name, reason)["failure"].clone();
        assert!(
            failure["message"].as_str().unwrap().contains("sources:"),
            "it names the reference: {failure}"
        );
    }
}

#[test]
fn an_artifact_is_unpacked_and_its_password_is_asked_for() {
    let namespace = Namespace::new("artifact");
    let repository = format!("{}/artifact", namespace.name);
    push_artifact(&address("OCIBUILD_DEV_REGISTRY"), &repository, &[]);
    let credentials = ["--user", "builder:correct-horse"];
    push_artifact(&address("OCIBUILD_DEV_REGISTRY_AUTH"), &repository, &credentials);
    let server = format!("--docker-server={REGISTRY_WITH_PASSWORD}");
    let secret = [
        "create",
        "secret",
        "docker-registry",
        "right",
        &server,
        "--docker-username=builder",
        "--docker-password=correct-horse",
    ];
    namespace.kubectl(&secret).ok();
    namespace.apply(&build("anonymous", &format!("{REGISTRY}/{repository}:v1"), ""));
    namespace.apply(&build(
        "known",
        &format!("{REGISTRY_WITH_PASSWORD}/{repository}:v1"),
        "registrySecrets: [right]",
    ));
    namespace.apply(&build("unknown", &format!("{REGISTRY_WITH_PASSWORD}/{repository}:v1"), ""));
    for name in ["anonymous", "known"] {
        let tar = namespace.check_tar(&namespace.succeeded(name));
        assert_eq!(namespace.run_image(&tar, &format!("{name}:latest")), "from an artifact");
    }
    namespace.failed("unknown", "SourceUnauthorized");
}
