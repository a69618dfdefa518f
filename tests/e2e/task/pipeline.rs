//! The specification's own pipeline, as real as it gets without Concourse: our image's own `build`, in a container that has no
//! privilege, in a folder like Concourse's, on a terminal like Concourse's, with the parameters as its whole environment.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use serde_json::{Value, json};

use super::{folder::names, service_account};
use crate::{
    cluster::{Namespace, REGISTRY, manifest_in_registry, run},
    scenarios::image::Image,
};

const IMAGE: &str = "ocibuild.dev/ocibuild:dev";
/// What a container has without being asked; a Concourse task that is not privileged has no more.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// A folder like `/tmp/build/a1b2c3d4`.
struct Folder(PathBuf);

impl Folder {
    fn new(files: &[(&str, &str)], outputs: &[&str]) -> Self {
        let folder = Self(PathBuf::from(format!("/tmp/build/{:08x}", fastrand::u32(..))));
        for (path, content) in files {
            let path = folder.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        for output in outputs {
            fs::create_dir_all(folder.0.join(output)).unwrap();
        }
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Both ends of a terminal of 500 by 500.
fn terminal() -> (File, OwnedFd) {
    let controller =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let size = Winsize { ws_row: 500, ws_col: 500, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(controller.as_fd(), size).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (File::from(controller), terminal)
}

/// Runs `build` of our image in a container, as Concourse would; whether it succeeded, and what its terminal showed.
fn build(folder: &Path, parameters: &[(String, String)]) -> (bool, String) {
    let (mut controller, terminal) = terminal();
    let name = format!("task-{}", folder.file_name().unwrap().to_str().unwrap());
    let mount = format!("type=bind,src={0},dst={0},options=rbind:rw", folder.display());
    let mut command = Command::new("ctr");
    command.args([
        "run",
        "--rm",
        "--tty",
        "--net-host",
        "--mount",
        &mount,
        "--cwd",
        folder.to_str().unwrap(),
    ]);
    for capability in CAPABILITIES {
        command.args(["--cap-drop", capability]);
    }
    command.args(["--env", "ATC_EXTERNAL_URL=https://ci.example.com"]);
    for (name, value) in parameters {
        command.args(["--env", &format!("{name}={value}")]);
    }
    let stdio = || Stdio::from(terminal.try_clone().unwrap());
    let mut child = command
        .args([IMAGE, &name, "build"])
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .spawn()
        .unwrap();
    drop((command, terminal));
    let reader = std::thread::spawn(move || {
        let mut shown = Vec::new();
        // The end of a terminal is an error.
        let _ = controller.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    let status = child.wait().unwrap();
    let shown = reader.join().unwrap();
    // ctr has something of its own to say of this machine, in colour.
    let of_task: Vec<_> = shown.lines().filter(|line| !line.contains("DEPRECATION")).collect();
    (status.success(), of_task.join("\n"))
}

const FILES: [(&str, &str); 4] = [
    (
        "source-code/Dockerfile",
        "FROM busybox:1.37\nARG APP_VERSION\nCOPY app.txt /\nRUN echo \"$APP_VERSION\" > /version\nCMD cat /version /app.txt\n",
    ),
    ("source-code/app.txt", "the source\n"),
    ("source-code/.dockerignore", "*.log\n"),
    ("source-code/huge.log", "not sent"),
];

/// The task of a job of examples/concourse/pipeline.yml, as Concourse reads it.
fn example(job: &str) -> Value {
    let pipeline: Value =
        serde_saphyr::from_str(include_str!("../../../examples/concourse/pipeline.yml")).unwrap();
    let job = pipeline["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .find(|known| known["name"] == job)
        .unwrap()
        .clone();
    let task = job["plan"].as_array().unwrap().iter().find(|step| step["task"] == "build").unwrap()
        ["config"]
        .clone();
    assert_eq!(
        (&task["platform"], &task["run"]["path"]),
        (&json!("linux"), &json!("build")),
        "{task}"
    );
    task
}

/// Its parameters, with what the pipeline keeps in its credential manager, and with what is this test's own.
fn parameters(task: &Value, namespace: &Namespace, own: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut parameters: BTreeMap<String, String> =
        serde_json::from_value(task["params"].clone()).unwrap();
    assert_eq!(
        parameters.insert("KUBECONFIG".to_owned(), kubeconfig(namespace)).unwrap(),
        "((ocibuild.kubeconfig))"
    );
    parameters.extend(own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    parameters.into_iter().collect()
}

/// A kubeconfig as a pipeline has one: a token of the least rights, and the namespace to build in.
fn kubeconfig(namespace: &Namespace) -> String {
    let [(_, server), (_, token), (_, authority)] = service_account(namespace);
    let cluster =
        json!({ "server": server, "certificate-authority-data": STANDARD.encode(authority) });
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "pipeline",
        "clusters": [{ "name": "pipeline", "cluster": cluster }],
        "users": [{ "name": "pipeline", "user": { "token": token.trim() } }],
        "contexts": [{ "name": "pipeline", "context": { "cluster": "pipeline", "user": "pipeline", "namespace": namespace.name } }],
    });
    serde_json::to_string_pretty(&config).unwrap()
}

#[test]
fn the_specifications_pipeline_runs_in_our_own_image_without_any_privilege() {
    let namespace = Namespace::new("task");
    let task = example("build-and-put");
    assert_eq!(
        (&task["inputs"], &task["outputs"]),
        (&json!([{ "name": "source-code" }]), &json!([{ "name": "image" }]))
    );
    let folder = Folder::new(&FILES, &["image"]);
    let parameters =
        parameters(&task, &namespace, &[("BUILDKIT_SECRETTEXT_unused", "travels in a Secret")]);
    let (succeeded, shown) = build(&folder.0, &parameters);
    assert!(succeeded, "{shown}");
    assert!(!shown.contains('\u{1b}'), "plain lines: {shown:?}");
    assert!(shown.contains("[3/3] RUN echo"), "the build's own lines: {shown}");
    let summary = [
        "image   my-app:v1.0.0",
        "digest  sha256:",
        "id      sha256:",
        "size    ",
        "steps   ",
        "time    ",
    ];
    for words in summary {
        assert_eq!(shown.matches(words).count(), 1, "{words}: {shown}");
    }
    assert_eq!(names(&folder.0.join("image")), ["digest", "image.tar"], "{shown}");

    let tar = folder.0.join("image/image.tar");
    let image = Image::of_tar(&tar);
    let config_digest = image.manifest()["config"]["digest"].clone();
    assert_eq!(
        fs::read_to_string(folder.0.join("image/digest")).unwrap(),
        config_digest.as_str().unwrap(),
        "without a newline"
    );
    let read =
        run("skopeo", &["inspect", "--raw", &format!("docker-archive:{}", tar.display())], b"")
            .ok();
    assert_eq!(serde_json::from_str::<Value>(&read).unwrap()["config"]["digest"], config_digest);
    let manifest = run("tar", &["-xOf", tar.to_str().unwrap(), "manifest.json"], b"").ok();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert!(
        manifest[0]["RepoTags"][0].as_str().unwrap().ends_with("my-app:v1.0.0"),
        "as docker load reads it: {manifest}"
    );
    assert_eq!(namespace.run_image(&tar, "my-app:v1.0.0"), "v1.0.0\nthe source\n");
    assert_eq!(
        namespace.kubectl(&["get", "ocib,secrets", "-o", "name"]).ok(),
        "",
        "nothing stays in the cluster"
    );
}

#[test]
fn the_pipeline_with_push_needs_no_output() {
    let namespace = Namespace::new("task-push");
    let task = example("build-and-push");
    namespace
        .kubectl(&[
            "create",
            "secret",
            "docker-registry",
            "docker-hub",
            "--docker-username=a",
            "--docker-password=b",
        ])
        .ok();
    let folder = Folder::new(&FILES, &[]);
    let registry = format!("{REGISTRY}/{}", namespace.name);
    let (succeeded, shown) =
        build(&folder.0, &parameters(&task, &namespace, &[("REGISTRY", &registry)]));
    assert!(succeeded, "{shown}");
    assert!(shown.contains(&format!("image   {registry}/my-app:v1.0.0, pushed")), "{shown}");
    assert_eq!(names(&folder.0), ["source-code"]);
    let manifest = manifest_in_registry(&format!("{}/my-app:v1.0.0", namespace.name));
    assert!(
        shown.contains(&format!("id      {}", manifest["config"]["digest"].as_str().unwrap())),
        "{shown}"
    );
}

#[test]
fn a_failure_in_our_own_image_is_the_exit_code_of_its_container() {
    let namespace = Namespace::new("task-exit");
    let folder = Folder::new(&[("Dockerfile", "FROM busybox:1.37\nRUN false\n")], &["image"]);
    let (succeeded, shown) = build(&folder.0, &[("KUBECONFIG".to_owned(), kubeconfig(&namespace))]);
    assert!(
        !succeeded && shown.contains("failed  StepFailed") && !shown.contains('\u{1b}'),
        "{shown}"
    );
    assert_eq!(names(&folder.0.join("image")), Vec::<String>::new());
}
