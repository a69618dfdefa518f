//! A namespace of the cluster for one test, driven as a user drives it: with kubectl.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

/// Longer than any build of these tests; only a build that hangs reaches it.
const PATIENCE: &str = "--timeout=240s";
pub const REGISTRY: &str = "registry.registry.svc.cluster.local:5000";
pub const REGISTRY_WITH_PASSWORD: &str = "registry-auth.registry.svc.cluster.local:5000";

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new(purpose: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("e2e-{purpose}-{}-{number}", std::process::id());
        kubectl(&["create", "namespace", &name]).ok();
        kubectl(&["label", "namespace", &name, "ocibuild.dev/test=true"]).ok();
        Self { name }
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Outcome {
        kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    pub fn apply(&self, manifest: &str) {
        self.try_apply(manifest).ok();
    }

    pub fn try_apply(&self, manifest: &str) -> Outcome {
        run(
            &kubectl_binary(),
            &["--namespace", &self.name, "apply", "-f", "-"],
            manifest.as_bytes(),
        )
    }

    pub fn get(&self, what: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", what, "-o", "json"]).ok()).unwrap()
    }

    /// The status of a build once it has ended, well or not.
    pub fn ended(&self, build: &str) -> Value {
        self.kubectl(&[
            "wait",
            "--for=jsonpath={.status.completionTime}",
            &format!("ocib/{build}"),
            PATIENCE,
        ])
        .ok();
        self.get(&format!("ocib/{build}"))["status"].clone()
    }

    pub fn succeeded(&self, build: &str) -> Value {
        let status = self.ended(build);
        assert_eq!(status["phase"], "Succeeded", "{}\n{}", pretty(&status), self.story(build));
        status
    }

    pub fn failed(&self, build: &str, reason: &str) -> Value {
        let status = self.ended(build);
        assert_eq!(status["phase"], "Failed", "{}\n{}", pretty(&status), self.story(build));
        assert_eq!(
            status["failure"]["reason"],
            reason,
            "{}\n{}",
            pretty(&status),
            self.story(build)
        );
        assert!(status["tar"].is_null(), "a failed build has no tar: {}", pretty(&status));
        status
    }

    /// What a user would look at.
    pub fn story(&self, build: &str) -> String {
        let pods = format!("ocibuild.dev/build={build}");
        [
            self.kubectl(&["describe", "ocib", build]),
            self.kubectl(&["describe", "pods", "-l", &pods]),
            self.kubectl(&["logs", "-l", &pods, "--all-containers", "--prefix", "--tail=50"]),
        ]
        .map(|outcome| outcome.stdout + &outcome.stderr)
        .join("\n")
    }

    /// Waits for an event of a build or a pod; events are published beside the status, not before it.
    pub fn event(&self, name: &str, reason: &str) {
        let selector = format!("involvedObject.name={name},reason={reason}");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while self
            .kubectl(&["get", "events", "--field-selector", &selector, "-o", "name"])
            .ok()
            .is_empty()
        {
            assert!(
                std::time::Instant::now() < deadline,
                "no event {reason} of {name}\n{}",
                self.story(name)
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// A claim that several builds and pods of the one node can share.
    pub fn claim(&self, claim: &str) {
        self.apply(&format!(
            "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{ name: {claim} }}
spec: {{ accessModes: [ReadWriteOnce], resources: {{ requests: {{ storage: 100Mi }} }} }}
"
        ));
    }

    /// A pod that mounts a claim at /claim, ready to be looked into.
    pub fn pod_on_claim(&self, pod: &str, claim: &str) {
        self.apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{ name: {pod} }}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: shell
    image: busybox:1.37
    command: [sleep, '3600']
    volumeMounts: [{{ name: claim, mountPath: /claim }}]
  volumes: [{{ name: claim, persistentVolumeClaim: {{ claimName: {claim} }} }}]
"
        ));
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), PATIENCE]).ok();
    }

    pub fn shell(&self, pod: &str, command: &str) -> String {
        self.kubectl(&["exec", pod, "--", "sh", "-c", command]).ok()
    }

    /// Runs a command in a pod with this input.
    pub fn shell_with_input(&self, pod: &str, command: &str, input: &[u8]) {
        // `kubectl exec` now and then closes the input before it has sent all of it, and says nothing: so it is counted.
        let keep = [
            "--namespace",
            &self.name,
            "exec",
            "-i",
            pod,
            "--",
            "sh",
            "-c",
            "cat > /tmp/input && wc -c < /tmp/input",
        ];
        let arrived = (0..5)
            .any(|_| run(&kubectl_binary(), &keep, input).ok().trim() == input.len().to_string());
        assert!(
            arrived,
            "five times kubectl exec did not bring {} bytes into pod {pod}",
            input.len()
        );
        self.shell(pod, &format!("( {command} ) < /tmp/input"));
    }

    /// Brings what a command in a pod prints here, whatever bytes it is made of.
    pub fn shell_to_file(&self, pod: &str, command: &[&str]) -> tempfile::TempPath {
        let file = tempfile::Builder::new().suffix(".tar").tempfile().unwrap();
        let read = Command::new(kubectl_binary())
            .args(["--namespace", &self.name, "exec", pod, "--"])
            .args(command)
            .stdout(file.reopen().unwrap())
            .status()
            .unwrap();
        assert!(read.success(), "{command:?} failed in pod {pod}");
        file.into_temp_path()
    }

    /// Brings the tar of a build here.
    pub fn fetch_tar(&self, status: &Value) -> tempfile::TempPath {
        let claim = status["tar"]["claimName"].as_str().unwrap();
        let path = status["tar"]["path"].as_str().unwrap();
        let pod = format!("reader-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.pod_on_claim(&pod, claim);
        let file = self.shell_to_file(&pod, &["cat", &format!("/claim/{path}")]);
        self.kubectl(&["delete", "pod", &pod, "--wait=false"]).ok();
        file
    }

    /// The tar of a build, read by tools that are not ours, has the digest, size and checksum that the status says.
    pub fn check_tar(&self, status: &Value) -> tempfile::TempPath {
        let tar = self.fetch_tar(status);
        let path = tar.to_str().unwrap();
        let archive = format!("oci-archive:{path}");
        let digest = run("skopeo", &["inspect", "--format", "{{.Digest}}", &archive], b"").ok();
        assert_eq!(
            digest.trim(),
            status["image"]["digest"],
            "skopeo reads the digest that the status says"
        );
        let sum = run("sha256sum", &[path], b"").ok();
        assert_eq!(sum.split(' ').next().unwrap(), status["tar"]["sha256"]);
        assert_eq!(std::fs::metadata(&tar).unwrap().len(), status["tar"]["size"].as_u64().unwrap());
        let claim = status["tar"]["claimName"].as_str().unwrap();
        let location =
            format!("pvc://{}/{claim}/{}", self.name, status["tar"]["path"].as_str().unwrap());
        assert_eq!(status["tar"]["location"], location.as_str());
        let config = run("skopeo", &["inspect", "--raw", &format!("docker-archive:{path}")], b"");
        assert!(config.is_success, "docker's format is readable too: {}", config.stderr);
        tar
    }

    /// Loads the tar into the node, runs the image as a Pod and returns what it printed.
    pub fn run_image(&self, tar: &std::path::Path, image: &str) -> String {
        load_image(tar);
        let pod = format!("run-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{ name: {pod} }}
spec:
  restartPolicy: Never
  containers: [{{ name: image, image: '{image}', imagePullPolicy: Never }}]
"
        ));
        let ended = self.kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Succeeded",
            &format!("pod/{pod}"),
            PATIENCE,
        ]);
        assert!(
            ended.is_success,
            "{}\n{}",
            ended.stderr,
            self.kubectl(&["describe", "pod", &pod]).stdout
        );
        self.kubectl(&["logs", &pod]).ok()
    }

    pub fn pods_of(&self, build: &str) -> Vec<String> {
        let pods: Value = serde_json::from_str(
            &self
                .kubectl(&[
                    "get",
                    "pods",
                    "-l",
                    &format!("ocibuild.dev/build={build}"),
                    "-o",
                    "json",
                ])
                .ok(),
        )
        .unwrap();
        pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What a failed test leaves is what one looks at; `dev/test` removes it before the next run.
        if !std::thread::panicking() {
            self.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        }
    }
}

/// Loads an image into the nodes: `OCIBUILD_LOAD_IMAGE` names the command (for kind: `kind load image-archive`).
fn load_image(tar: &std::path::Path) {
    let command =
        std::env::var("OCIBUILD_LOAD_IMAGE").unwrap_or_else(|_| "ctr images import".to_owned());
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    let arguments: Vec<&str> = words.chain([tar.to_str().unwrap()]).collect();
    run(program, &arguments, b"").ok();
}

/// The document by which the open registry of the development cluster serves an image, byte for byte, asked for by skopeo from
/// outside the cluster.
pub fn raw_manifest_in_registry(image: &str) -> String {
    let address = std::env::var("OCIBUILD_DEV_REGISTRY")
        .expect("OCIBUILD_DEV_REGISTRY is not set; see dev/cluster env");
    run(
        "skopeo",
        &["inspect", "--raw", "--tls-verify=false", &format!("docker://{address}/{image}")],
        b"",
    )
    .ok()
}

pub fn manifest_in_registry(image: &str) -> Value {
    let manifest = raw_manifest_in_registry(image);
    serde_json::from_str(&manifest).unwrap_or_else(|error| panic!("{image}: {error}: {manifest}"))
}

pub struct Outcome {
    pub is_success: bool,
    pub stdout: String,
    pub stderr: String,
    command: String,
}

impl Outcome {
    pub fn ok(self) -> String {
        assert!(self.is_success, "{}\n{}{}", self.command, self.stdout, self.stderr);
        self.stdout
    }

    pub fn refused(self) -> String {
        assert!(!self.is_success, "{} should have been refused\n{}", self.command, self.stdout);
        self.stderr
    }
}

pub fn kubectl_binary() -> String {
    std::env::var("OCIBUILD_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned())
}

pub fn kubectl(arguments: &[&str]) -> Outcome {
    run(&kubectl_binary(), arguments, b"")
}

pub fn run(program: &str, arguments: &[&str], input: &[u8]) -> Outcome {
    let kubeconfig = std::env::var("OCIBUILD_KUBECONFIG")
        .expect("these tests need a cluster: eval \"$(dev/cluster env)\" after dev/cluster up, or set OCIBUILD_KUBECONFIG");
    let mut child = Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let written = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    written.unwrap();
    Outcome {
        is_success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        command: format!("{program} {}", arguments.join(" ")),
    }
}

pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}
