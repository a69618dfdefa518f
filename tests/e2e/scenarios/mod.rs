//! What the Concourse build task can do, done by OciBuilds. The scenarios of concourse/oci-build-task's own integration tests
//! are here one by one, each under its name in the comment of a test, and after them what is not tested there.

mod arguments;
mod basic;
mod cache;
mod forms;
pub mod image;
mod image_args;
mod mirrors;
mod misuse;
mod platforms;
mod rootfs;
mod secrecy;
pub mod secrets;
mod targets;

use std::{
    cell::OnceCell,
    collections::BTreeSet,
    fs,
    ops::Deref,
    path::{Path, PathBuf},
};

use image::Image;
use serde_json::{Value, json};

use crate::cluster::{Namespace, run};

/// The claim that takes the files of all builds of a scenario, a folder each.
const CLAIM: &str = "images";
const SHELL: &str = "shell";

/// A namespace whose builds share one claim, and a pod that looks into it.
struct Scenario {
    namespace: Namespace,
    shell: OnceCell<()>,
}

impl Deref for Scenario {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Scenario {
    fn new(purpose: &str) -> Self {
        let namespace = Namespace::new(purpose);
        namespace.claim(CLAIM);
        Self { namespace, shell: OnceCell::new() }
    }

    /// Applies a build of these files. Its image goes to the folder of its name; `more` is laid over its spec, and null takes a
    /// field away.
    fn build(&self, name: &str, files: &[(&str, &str)], more: Value) {
        let files: serde_json::Map<_, _> =
            files.iter().map(|(path, content)| ((*path).to_owned(), json!(content))).collect();
        self.build_from(name, &json!({ "files": files }), more);
    }

    /// Applies a build of a folder of the claim.
    fn build_from_claim(&self, name: &str, more: Value) {
        self.build_from(name, &json!({ "persistentVolumeClaim": { "claimName": CLAIM } }), more);
    }

    fn build_from(&self, name: &str, source: &Value, more: Value) {
        let mut spec = json!({
            "source": source,
            "context": ".",
            "imageName": name,
            "output": { "persistentVolumeClaim": { "claimName": CLAIM } },
        });
        let fields = spec.as_object_mut().unwrap();
        let Value::Object(more) = more else {
            panic!("{more} is laid over a spec: it must be an object")
        };
        fields.extend(more);
        fields.retain(|_, value| !value.is_null());
        let build = json!({ "apiVersion": "ocibuild.dev/v1alpha1", "kind": "OciBuild", "metadata": { "name": name }, "spec": spec });
        self.apply(&build.to_string());
    }

    fn secret(&self, name: &str, values: &[(&str, &str)]) {
        let values: serde_json::Map<_, _> =
            values.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": values });
        self.apply(&secret.to_string());
    }

    /// The pod that has the claim at /claim.
    fn look(&self) -> &'static str {
        self.shell.get_or_init(|| self.pod_on_claim(SHELL, CLAIM));
        SHELL
    }

    /// Runs a command at the root of the claim.
    fn in_claim(&self, command: &str) -> String {
        self.shell(self.look(), &format!("cd /claim && {command}"))
    }

    /// Writes a file into the claim.
    fn write(&self, path: &str, content: &[u8]) {
        self.shell_with_input(
            self.look(),
            &format!("mkdir -p $(dirname /claim/{path}) && cat > /claim/{path}"),
            content,
        );
    }

    /// All files of the claim, brought here at once.
    fn outputs(&self) -> Outputs {
        let tar = self.shell_to_file(self.look(), &["tar", "-cf", "-", "-C", "/claim", "."]);
        let folder = tempfile::tempdir().unwrap();
        run("tar", &["-xpf", tar.to_str().unwrap(), "-C", folder.path().to_str().unwrap()], b"")
            .ok();
        Outputs { folder }
    }

    /// The annotation of a build's pod that becomes the daemon's configuration file.
    fn daemon_config(&self, build: &str) -> toml::Table {
        let pod = self.get(&format!("pod/{build}-g1-a1"));
        let config = pod["metadata"]["annotations"]["ocibuild.dev/buildkitd.toml"]
            .as_str()
            .unwrap_or_default();
        config.parse().unwrap_or_else(|error| panic!("{error}: {config}"))
    }
}

/// The files of a claim, on this machine.
struct Outputs {
    folder: tempfile::TempDir,
}

impl Outputs {
    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path))
            .unwrap_or_else(|error| panic!("{path}: {error}; there are {:?}", self.names(".")))
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path)).unwrap()
    }

    /// Names in a folder.
    fn names(&self, folder: &str) -> BTreeSet<String> {
        let entries =
            fs::read_dir(self.path(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The image in `image.tar` of a folder.
    fn image(&self, folder: &str) -> Image {
        Image::of_tar(&self.path(folder).join("image.tar"))
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What an independent tool reads from an image.
fn skopeo_inspect(flag: &str, transport: &str, path: &Path) -> Value {
    let answer =
        run("skopeo", &["inspect", flag, &format!("{transport}:{}", path.display())], b"").ok();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
}
