//! Each source, from `kubectl apply` to an image that runs as a Pod.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::cluster::{Namespace, kubectl};

#[test]
fn hello_from_files_is_built_reported_and_runs() {
    let namespace = Namespace::new("hello");
    namespace.apply(include_str!("../../examples/hello.yaml"));
    namespace.kubectl(&["wait", "--for=condition=Ready", "ocib/hello", "--timeout=240s"]).ok();
    let status = namespace.succeeded("hello");
    let tar = namespace.check_tar(&status);
    assert!(namespace.run_image(&tar, "hello:latest").contains("Hello"), "the image says hello");
    assert_eq!(namespace.pods_of("hello"), ["hello-g1-a1"]);
    assert_eq!(status["progress"]["done"], status["progress"]["total"]);
    for timing in ["podStart", "daemon", "build", "export"] {
        assert!(status["timings"][timing].is_string(), "timing {timing} is reported: {status}");
    }
    let digest_file = {
        namespace.pod_on_claim("digest-reader", status["tar"]["claimName"].as_str().unwrap());
        namespace.shell("digest-reader", "cat /claim/digest")
    };
    assert_eq!(
        digest_file,
        status["image"]["configDigest"].as_str().unwrap(),
        "the task's digest file, without a newline"
    );
    let left = namespace.shell("digest-reader", "ls -A /claim");
    assert!(!left.contains("partial"), "nothing partial is left: {left}");
}

/// The example of the specification: source-code and source-code/Dockerfile, APP_VERSION=v1.0.0, from a claim.
#[test]
fn a_claim_with_the_specifications_own_example_is_built_and_runs() {
    let namespace = Namespace::new("claim");
    namespace.claim("sources");
    namespace.pod_on_claim("writer", "sources");
    namespace.shell(
        "writer",
        "mkdir /claim/source-code && cd /claim/source-code && echo 'the source' > app.txt && ln -s app.txt link.txt
printf 'FROM busybox:1.37\\nARG APP_VERSION\\nCOPY app.txt link.txt /\\nRUN echo \"$APP_VERSION\" > /version\\nCMD cat /version /app.txt\\n' > Dockerfile",
    );
    namespace.apply(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: { name: my-app }
spec:
  source: { persistentVolumeClaim: { claimName: sources } }
  context: source-code
  dockerfile: source-code/Dockerfile
  imageName: my-app
  imageTag: v1.0.0
  buildArgs: { APP_VERSION: v1.0.0 }
  labels: { org.opencontainers.image.vendor: the team }
  output: { persistentVolumeClaim: { claimName: sources, path: image } }
",
    );
    let status = namespace.succeeded("my-app");
    assert_eq!(status["tar"]["path"], "image/image.tar");
    let tar = namespace.check_tar(&status);
    let inspected = crate::cluster::run(
        "skopeo",
        &[
            "inspect",
            "--format",
            "{{index .Labels \"org.opencontainers.image.vendor\"}}",
            &format!("oci-archive:{}", tar.display()),
        ],
        b"",
    );
    assert_eq!(inspected.ok().trim(), "the team");
    assert_eq!(namespace.run_image(&tar, "my-app:v1.0.0"), "v1.0.0\nthe source\n");
}

/// A Git server with the smart protocol, in a pod: BuildKit's image has git, busybox serves it.
const GIT_SERVER: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: { name: git-server }
data:
  git.cgi: |
    #!/bin/sh
    export GIT_PROJECT_ROOT=/srv GIT_HTTP_EXPORT_ALL=1 PATH_INFO="${PATH_INFO}" HOME=/tmp
    exec git http-backend
  start.sh: |
    set -e
    export HOME=/tmp
    git config --global user.email a@example.com && git config --global user.name a
    git config --global safe.directory '*' && git config --global init.defaultBranch main
    git init --quiet /tmp/work && cd /tmp/work
    mkdir app && printf 'FROM busybox:1.37\nCOPY greeting /\nCMD cat /greeting\n' > app/Dockerfile
    echo 'first' > app/greeting && git add . && git commit --quiet -m first && git tag v1
    echo 'second' > app/greeting && git add . && git commit --quiet -m second
    git clone --quiet --bare /tmp/work /srv/app.git
    git -C /srv/app.git config uploadpack.allowReachableSHA1InWant true
    mkdir -p /www/cgi-bin && cp /config/git.cgi /www/cgi-bin/git && chmod +x /www/cgi-bin/git
    exec /tools/busybox httpd -f -p 8080 -h /www
---
apiVersion: v1
kind: Pod
metadata: { name: git, labels: { app: git } }
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - { name: tools, image: 'busybox:1.37', command: [cp, /bin/busybox, /tools/busybox], volumeMounts: [{ name: tools, mountPath: /tools }] }
  containers:
  - name: git
    image: docker.io/moby/buildkit:v0.34.2
    command: [sh, /config/start.sh]
    readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 }
    volumeMounts: [{ name: tools, mountPath: /tools }, { name: config, mountPath: /config }, { name: srv, mountPath: /srv }, { name: www, mountPath: /www }]
  volumes:
  - { name: tools, emptyDir: {} }
  - { name: srv, emptyDir: {} }
  - { name: www, emptyDir: {} }
  - { name: config, configMap: { name: git-server } }
---
apiVersion: v1
kind: Service
metadata: { name: git }
spec: { selector: { app: git }, ports: [{ port: 80, targetPort: 8080 }] }
"#;

fn git_build(name: &str, namespace: &Namespace, path: &str, revision: &str) -> String {
    format!(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: {name} }}
spec:
  source: {{ git: {{ url: 'http://git.{}.svc.cluster.local/cgi-bin/git/{path}', revision: '{revision}' }} }}
  context: app
  imageName: {name}
",
        namespace.name
    )
}

#[test]
fn git_revisions_are_built_and_wrong_ones_have_a_name() {
    let namespace = Namespace::new("git");
    namespace.apply(GIT_SERVER);
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/git", "--timeout=120s"]).ok();
    namespace.apply(&git_build("from-branch", &namespace, "app.git", "main"));
    namespace.apply(&git_build("from-tag", &namespace, "app.git", "v1"));
    let commit = namespace.shell("git", "HOME=/tmp git -C /tmp/work rev-parse HEAD~1");
    namespace.apply(&git_build("from-commit", &namespace, "app.git", commit.trim()));
    namespace.apply(&git_build("no-branch", &namespace, "app.git", "no-such-branch"));
    namespace.apply(&git_build("no-repository", &namespace, "other.git", "main"));
    for (name, said) in
        [("from-branch", "second\n"), ("from-tag", "first\n"), ("from-commit", "first\n")]
    {
        let status = namespace.succeeded(name);
        let tar = namespace.check_tar(&status);
        assert_eq!(namespace.run_image(&tar, &format!("{name}:latest")), said, "{name}");
    }
    let no_branch = namespace.failed("no-branch", "SourceNotFound");
    assert!(
        no_branch["failure"]["message"].as_str().unwrap().contains("no-such-branch"),
        "{no_branch}"
    );
    namespace.failed("no-repository", "SourceNotFound");
}

#[test]
fn an_archive_over_http_is_built_when_its_checksum_holds_and_refused_when_not() {
    let namespace = Namespace::new("http");
    let (archive, sha256) = archive();
    namespace.apply(&format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{ name: www }}
binaryData: {{ app.tar.gz: {} }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: www, labels: {{ app: www }} }}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: www
    image: busybox:1.37
    command: [httpd, -f, -p, '8080', -h, /www]
    readinessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }}
    volumeMounts: [{{ name: www, mountPath: /www }}]
  volumes: [{{ name: www, configMap: {{ name: www }} }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: www }}
spec: {{ selector: {{ app: www }}, ports: [{{ port: 80, targetPort: 8080 }}] }}
",
        STANDARD.encode(archive)
    ));
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/www", "--timeout=120s"]).ok();
    let build = |name: &str, file: &str, sha256: &str| {
        namespace.apply(&format!(
            "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: {name} }}
spec:
  source: {{ http: {{ url: 'http://www.{}.svc.cluster.local/{file}', sha256: '{sha256}' }} }}
  context: app-1.0
  imageName: {name}
",
            namespace.name
        ));
    };
    build("archive", "app.tar.gz", &sha256);
    build("changed", "app.tar.gz", &"0".repeat(64));
    build("missing", "missing.tar.gz", &sha256);
    let status = namespace.succeeded("archive");
    let tar = namespace.check_tar(&status);
    assert_eq!(namespace.run_image(&tar, "archive:latest"), "from an archive\n");
    namespace.failed("changed", "SourceChecksumMismatch");
    namespace.failed("missing", "SourceNotFound");
}

/// A gzip'd tar with a folder, and its SHA-256.
fn archive() -> (Vec<u8>, String) {
    use sha2::{Digest, Sha256};
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::default(),
    ));
    for (path, content) in [
        ("app-1.0/Dockerfile", "FROM busybox:1.37\nCOPY greeting /\nCMD cat /greeting\n"),
        ("app-1.0/greeting", "from an archive\n"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    let archive = builder.into_inner().unwrap().finish().unwrap();
    let sha256 = hex::encode(Sha256::digest(&archive));
    (archive, sha256)
}

#[test]
fn the_keys_of_a_config_map_are_files_and_a_missing_one_has_a_name() {
    let namespace = Namespace::new("configmap");
    namespace.apply(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: { name: files }
data:
  Dockerfile: "FROM busybox:1.37\nCOPY src/greeting /\nCMD cat /greeting\n"
  greeting: "from a map\n"
---
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: { name: mapped }
spec:
  source: { configMap: { name: files, items: [{ key: Dockerfile, path: Dockerfile }, { key: greeting, path: src/greeting }] } }
  context: .
  imageName: mapped
---
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: { name: unmapped }
spec: { source: { configMap: { name: no-such-map } }, context: ., imageName: unmapped }
"#,
    );
    let status = namespace.succeeded("mapped");
    let tar = namespace.check_tar(&status);
    assert_eq!(namespace.run_image(&tar, "mapped:latest"), "from a map\n");
    let missing = namespace.failed("unmapped", "ConfigMapMissing");
    assert!(missing["failure"]["message"].as_str().unwrap().contains("no-such-map"), "{missing}");
}

#[test]
fn kubectl_explain_describes_every_field() {
    let explained = kubectl(&["explain", "ocibuild.spec"]).ok();
    for field in [
        "source",
        "context",
        "dockerfile",
        "imageName",
        "imageTag",
        "buildArgs",
        "push",
        "registry",
    ] {
        assert!(explained.contains(field), "{field}: {explained}");
    }
}
