//! The Concourse task, as Concourse runs it: a folder with inputs and declared outputs, parameters as the whole environment, and
//! a real cluster.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::cluster::{Namespace, run};

const OCIBUILD: &str = env!("CARGO_BIN_EXE_ocibuild");

/// A task's folder.
struct Task<'a> {
    namespace: &'a Namespace,
    folder: tempfile::TempDir,
}

impl<'a> Task<'a> {
    fn new(namespace: &'a Namespace, files: &[(&str, &str)], outputs: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        for output in outputs {
            fs::create_dir(folder.path().join(output)).unwrap();
        }
        Self { namespace, folder }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    fn command(&self, parameters: &[(&str, &str)]) -> Command {
        let mut command = Command::new(OCIBUILD);
        command
            .arg("task")
            .current_dir(self.folder.path())
            .env_clear()
            .env("KUBECONFIG", fs::read_to_string(std::env::var("OCIBUILD_KUBECONFIG").unwrap()).unwrap())
            .env("KUBE_NAMESPACE", &self.namespace.name)
            .envs(parameters.iter().copied());
        command
    }

    fn run(&self, parameters: &[(&str, &str)]) -> Output {
        self.command(parameters).output().unwrap()
    }

    fn start(&self, parameters: &[(&str, &str)]) -> Child {
        self.command(parameters).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn left(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn inspect(tar: &Path) -> Value {
    let inspected = run("skopeo", &["inspect", "--config", &format!("docker-archive:{}", tar.display())], b"").ok();
    serde_json::from_str(&inspected).unwrap()
}

/// A service account with the rights of docs/concourse.md, as the parameters of a task.
fn service_account(namespace: &Namespace) -> [(&'static str, String); 3] {
    let account = format!("{}:pipeline", namespace.name);
    namespace.kubectl(&["create", "serviceaccount", "pipeline"]).ok();
    let binding = ["create", "rolebinding", "pipeline", "--clusterrole", "ocibuild-pipeline", "--serviceaccount", &account];
    namespace.kubectl(&binding).ok();
    let cluster = |field: &str| {
        let path = format!("jsonpath={{.clusters[0].cluster.{field}}}");
        namespace.kubectl(&["config", "view", "--raw", "--flatten", "-o", &path]).ok()
    };
    let authority = STANDARD.decode(cluster("certificate-authority-data")).unwrap();
    let token = namespace.kubectl(&["create", "token", "pipeline"]).ok();
    [("KUBE_SERVER", cluster("server")), ("KUBE_TOKEN", token), ("KUBE_CA", String::from_utf8(authority).unwrap())]
}

/// The specification's own pipeline: its parameters, its input, its output, and the least rights.
#[test]
fn the_specifications_example_leaves_image_tar_and_digest() {
    let namespace = Namespace::new("task");
    let task = Task::new(
        &namespace,
        &[
            (
                "source-code/Dockerfile",
                "FROM busybox:1.37\nARG APP_VERSION\nCOPY app.txt /\nRUN echo \"$APP_VERSION\" > /version\nCMD cat /version /app.txt\n",
            ),
            ("source-code/app.txt", "the source\n"),
            ("source-code/.dockerignore", "*.log\n"),
            ("source-code/huge.log", "not sent"),
        ],
        &["image"],
    );
    let account = service_account(&namespace);
    let mut parameters: Vec<_> = account.iter().map(|(name, value)| (*name, value.as_str())).collect();
    parameters.extend([
        ("KUBECONFIG", ""),
        ("CONTEXT", "source-code"),
        ("DOCKERFILE", "source-code/Dockerfile"),
        ("IMAGE_NAME", "my-app"),
        ("IMAGE_TAG", "v1.0.0"),
        ("BUILD_ARG_APP_VERSION", "v1.0.0"),
        ("BUILDKIT_SECRETTEXT_unused", "travels in a Secret"),
    ]);
    let ended = task.run(&parameters);
    let log = text(&ended);
    assert!(ended.status.success(), "{log}");
    assert_eq!(task.left("image"), ["digest", "image.tar"], "{log}");
    let tar = task.path("image/image.tar");
    let config = run("tar", &["-xOf", tar.to_str().unwrap(), "manifest.json"], b"").ok();
    let config: Value = serde_json::from_str(&config).unwrap();
    let digest = fs::read_to_string(task.path("image/digest")).unwrap();
    assert!(config[0]["Config"].as_str().unwrap().ends_with(&digest["sha256:".len()..]), "{config} {digest}");
    assert!(log.contains("[3/3] RUN echo"), "the build's own lines: {log}");
    assert!(log.contains("digest  sha256:"), "the summary: {log}");
    assert_eq!(namespace.run_image(&tar, "my-app:v1.0.0"), "v1.0.0\nthe source\n");
    assert_eq!(namespace.kubectl(&["get", "ocib,secrets", "-o", "name"]).ok(), "", "nothing stays in the cluster");
}

#[test]
fn files_targets_secrets_and_formats_come_by_the_environment_alone() {
    let namespace = Namespace::new("task-all");
    let dockerfile = "FROM busybox:1.37 AS base
ARG from_file
ARG from_variable
RUN test \"$from_file\" = 1.10 && test \"$from_variable\" = here
RUN --mount=type=secret,id=text grep -q text. /run/secrets/text
RUN --mount=type=secret,id=file grep -q file. /run/secrets/file
FROM base AS first
LABEL stage=first
FROM base AS second
LABEL stage=second
ENV WHERE=here
";
    let files = [
        ("source/Dockerfile", dockerfile),
        ("ci/args.yml", "from_file: 1.10\n"),
        ("ci/labels", "team=blue\n"),
        ("ci/target", "second\n"),
        ("secrets/file", "file-hunter2"),
    ];
    let parameters = [
        ("CONTEXT", "source"),
        ("BUILD_ARGS_FILE", "ci/args.yml"),
        ("BUILD_ARG_from_variable", "here"),
        ("LABELS_FILE", "ci/labels"),
        ("TARGET_FILE", "ci/target"),
        ("ADDITIONAL_TARGETS", "first"),
        ("BUILDKIT_SECRETTEXT_text", "text-hunter2"),
        ("BUILDKIT_SECRET_file", "secrets/file"),
        ("UNPACK_ROOTFS", "true"),
    ];
    let task = Task::new(&namespace, &files, &["image", "first", "cache"]);
    let ended = task.run(&parameters);
    assert!(ended.status.success(), "{}", text(&ended));
    for (folder, stage) in [("image", "second"), ("first", "first")] {
        assert_eq!(task.left(folder), ["digest", "image.tar", "metadata.json", "rootfs"], "{}", text(&ended));
        let labels = &inspect(&task.path(&format!("{folder}/image.tar")))["config"]["Labels"];
        assert_eq!(*labels, serde_json::json!({ "stage": stage, "team": "blue" }));
        assert!(task.path(&format!("{folder}/rootfs/bin/busybox")).is_file());
    }
    let metadata = fs::read_to_string(task.path("image/metadata.json")).unwrap();
    assert!(metadata.contains("\"WHERE=here\"") && metadata.ends_with("\"user\":\"\"}\n"), "{metadata}");
    assert!(text(&ended).contains("cache: the cluster's own cache serves"), "{}", text(&ended));
    assert!(!text(&ended).contains("hunter2"), "no secret is printed");

    let oci = Task::new(&namespace, &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")], &["image"]);
    let ended = oci.run(&[("IMAGE_PLATFORM", "linux/arm64,linux/amd64")]);
    assert!(ended.status.success(), "{}", text(&ended));
    assert_eq!(oci.left("image"), ["digest", "image", "image.tar"]);
    let index: Value = serde_json::from_slice(&fs::read(oci.path("image/image/index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], fs::read_to_string(oci.path("image/digest")).unwrap());
}

#[test]
fn a_failed_build_exits_1_with_its_reason_and_leaves_nothing_behind() {
    let namespace = Namespace::new("task-fails");
    let task = Task::new(&namespace, &[("Dockerfile", "FROM busybox:1.37\nRUN echo last words; exit 3\n")], &["image"]);
    let ended = task.run(&[]);
    let log = text(&ended);
    assert_eq!(ended.status.code(), Some(1), "{log}");
    for words in ["last words", "failed  StepFailed", "step    [2/2] RUN echo last words; exit 3", "hint    "] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert_eq!(task.left("image"), Vec::<String>::new());
    let kept = namespace.kubectl(&["get", "ocib", "-o", "jsonpath={.items[*].status.failure.reason}"]).ok();
    assert_eq!(kept, "StepFailed", "it is kept for a while, to be looked at");
    for (parameters, words) in [
        (vec![("PUSH", "yes")], "PUSH: \"yes\" is neither true nor false"),
        (vec![("CONTEXT", "../..")], "is outside the task's folder"),
        (vec![("IMAGE_NAME", "My-App")], "imageName: lower-case letters"),
        (vec![("KUBE_NAMESPACE", "no-such-namespace")], "no-such-namespace"),
        (vec![("KUBECONFIG", "nothing")], "neither a kubeconfig nor the path of one"),
        (vec![("BUILDKIT_SECRET_x", "missing/file")], "missing/file, which the parameters name, cannot be read"),
    ] {
        let ended = task.run(&parameters);
        assert_eq!(ended.status.code(), Some(1), "{}", text(&ended));
        assert!(text(&ended).contains(words), "{words}: {}", text(&ended));
    }
}

#[test]
fn a_task_that_is_aborted_takes_its_build_with_it() {
    let namespace = Namespace::new("task-abort");
    let task = Task::new(&namespace, &[("Dockerfile", "FROM busybox:1.37\nRUN sleep 3600\n")], &["image"]);
    let child = task.start(&[("BUILDKIT_SECRETTEXT_x", "y")]);
    let builds = || namespace.kubectl(&["get", "ocib", "-o", "jsonpath={.items[*].status.phase}"]).ok();
    let deadline = Instant::now() + Duration::from_mins(2);
    while builds() != "Running" {
        assert!(Instant::now() < deadline, "the build does not run: {}", builds());
        std::thread::sleep(Duration::from_millis(200));
    }
    let begin = Instant::now();
    run("kill", &["-TERM", &child.id().to_string()], b"").ok();
    let ended = child.wait_with_output().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10), "Concourse kills it after 10 s");
    assert_eq!(ended.status.code(), Some(143), "{}", text(&ended));
    assert!(text(&ended).contains("told to stop"), "{}", text(&ended));
    assert_eq!(task.left("image"), Vec::<String>::new());
    namespace.kubectl(&["wait", "--for=delete", "pods", "--all", "--timeout=60s"]).ok();
    assert_eq!(namespace.kubectl(&["get", "ocib,pods,secrets", "-o", "name"]).ok(), "", "nothing stays in the cluster");
}
