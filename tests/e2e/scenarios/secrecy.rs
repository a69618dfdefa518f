//! Secrets never appear. Builds that use every kind of secret are looked at while a step runs and after: whatever a reader of the
//! namespace, the node or the image can see is searched for what was planted. Each place is also searched for something that is
//! there, so that no search can be blind.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{
    Scenario,
    image::{Image, digest_of},
    secrets::ed25519_key,
};
use crate::cluster::{REGISTRY_WITH_PASSWORD, kubectl, run};

const LABEL: &str = "planted-label-to-be-found";
/// The registry's real password: the one secret of the test that others use too.
const REGISTRY_PASSWORD: &str = "correct-horse";

/// What must not be found, and in which forms.
struct Planted {
    forms: Vec<(String, Vec<u8>)>,
}

impl Planted {
    fn new(values: &[(&str, &[u8])]) -> Self {
        let mut forms = Vec::new();
        for (what, value) in values {
            forms.push(((*what).to_owned(), value.to_vec()));
            // Base64 has three forms, by where the value begins; the digits at its ends depend on what is around it.
            for before in 0..3 {
                let text = STANDARD.encode([&vec![b'x'; before][..], value].concat());
                let whole = text.trim_end_matches('=');
                let inner = &whole[(before * 8).div_ceil(6)..whole.len() - 1];
                forms.push((format!("{what} in base64"), inner.as_bytes().to_vec()));
            }
            forms.push((format!("{what} in hexadecimal digits"), hex::encode(value).into_bytes()));
        }
        Self { forms }
    }

    /// Searches a place, and makes sure that the search sees it.
    fn check(&self, place: &str, content: impl AsRef<[u8]>, control: &str) {
        let content = content.as_ref();
        assert!(
            contains(content, control.as_bytes()),
            "{place}: the search is blind, it does not find {control:?}"
        );
        for (what, form) in &self.forms {
            assert!(!contains(content, form), "{what} shows in {place}");
        }
    }
}

fn contains(content: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(content, part).is_some()
}

#[test]
fn every_form_of_a_planted_value_is_found() {
    let planted = Planted::new(&[("the value", b"planted-value")]);
    for before in ["", "a", "ab", "abc", "user:"] {
        let shown = STANDARD.encode(format!("{before}planted-value and more"));
        assert!(
            planted.forms.iter().any(|(_, form)| contains(shown.as_bytes(), form)),
            "{before:?}: {shown}"
        );
    }
    assert!(
        planted.forms.iter().all(|(_, form)| form.len() >= 12),
        "so short that it would be found by chance"
    );
}

/// The processes of this machine whose control group is of the pod, by their `/proc` folders.
fn processes_of_pod(uid: &str) -> Vec<String> {
    let of_pod = processes().into_iter().filter(|process| {
        let groups = fs::read_to_string(format!("{process}/cgroup")).unwrap_or_default();
        groups.contains(uid) || groups.contains(&uid.replace('-', "_"))
    });
    of_pod.collect()
}

fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc")
        .expect("this test looks at the processes of the node: it must run on it");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .map(|pid| format!("/proc/{pid}"))
        .collect()
}

/// A process that is gone has neither.
fn arguments(process: &str) -> Vec<u8> {
    fs::read(format!("{process}/cmdline")).unwrap_or_default()
}

fn arguments_and_environments(processes: &[String]) -> Vec<u8> {
    let read = |process: &String| {
        [arguments(process), fs::read(format!("{process}/environ")).unwrap_or_default()].concat()
    };
    processes.iter().flat_map(read).collect()
}

/// Waits until the step sleeps; how long it sleeps is the name by which it is found.
fn sleeping_step(scenario: &Scenario, build: &str, seconds: &str) -> Pid {
    let expected = format!("/bin/sleep\0{seconds}\0");
    let deadline = Instant::now() + Duration::from_mins(2);
    loop {
        let sleeping =
            processes().into_iter().find(|process| arguments(process) == expected.as_bytes());
        if let Some(process) = sleeping {
            return Pid::from_raw(process.trim_start_matches("/proc/").parse().unwrap()).unwrap();
        }
        assert!(Instant::now() < deadline, "the step never slept\n{}", scenario.story(build));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// All that the namespace shows but Secrets themselves, whose readers may see them.
fn objects(scenario: &Scenario) -> String {
    let kinds = "ocib,pods,events,configmaps,persistentvolumeclaims,services,serviceaccounts";
    scenario.kubectl(&["get", kinds, "-o", "yaml", "--show-managed-fields"]).ok()
        + &kubectl(&["get", "events", "-A", "-o", "yaml"]).ok()
}

fn logs(scenario: &Scenario, build: &str) -> String {
    scenario
        .kubectl(&[
            "logs",
            "-l",
            &format!("ocibuild.dev/build={build}"),
            "--all-containers",
            "--prefix",
            "--tail=-1",
        ])
        .ok()
}

fn operator_logs() -> String {
    let selector = ["-l", "app.kubernetes.io/name=ocibuild,app.kubernetes.io/component=controller"];
    let namespace = kubectl(
        &[&["get", "pods", "-A", "-o", "jsonpath={.items[0].metadata.namespace}"], &selector[..]]
            .concat(),
    )
    .ok();
    kubectl(&[&["-n", &namespace, "logs", "--tail=-1", "--all-containers"], &selector[..]].concat())
        .ok()
}

/// All files below a folder, images decompressed.
fn files(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            all.extend(files(&path));
        } else if kind.is_file() {
            all.extend(fs::read(&path).unwrap());
            if path.extension().is_some_and(|extension| extension == "tar") {
                all.extend(Image::of_tar(&path).everything());
            }
        }
        all.extend(path.file_name().unwrap().as_encoded_bytes());
    }
    all
}

fn registry_secret(scenario: &Scenario, name: &str, host: &str, user: &str, password: &str) {
    let auths =
        json!({ "auths": { host: { "auth": STANDARD.encode(format!("{user}:{password}")) } } });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": auths.to_string() },
    });
    scenario.apply(&secret.to_string());
}

/// What is secret in a key: the rest is names and the public key (openssh, PROTOCOL.key).
fn seed_of_ed25519(body: &str) -> Vec<u8> {
    let bytes = STANDARD.decode(body).unwrap();
    assert_eq!(
        bytes[62..94],
        bytes[193..225],
        "the public key stands before the secret and after it"
    );
    bytes[161..193].to_vec()
}

fn dockerfile(end: &str) -> String {
    format!(
        "FROM busybox:1.37
RUN --mount=type=secret,id=text --mount=type=secret,id=file --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" \\
    && sha256sum < /run/secrets/text > /text && sha256sum < /run/secrets/file > /file && echo words of the step {end}
"
    )
}

#[expect(clippy::too_many_lines, reason = "a row for each case")]
#[test]
fn secrets_appear_neither_in_the_cluster_nor_on_the_node_nor_in_the_image() {
    let scenario = Scenario::new("secrecy");
    let tag = format!("{}{}", std::process::id(), "7f3a");
    let text = format!("planted-text-secret-{tag}");
    let file = format!("planted-file-secret-{tag}");
    let password = format!("planted-registry-password-{tag}");
    let key = ed25519_key();
    let lines: Vec<_> = key.private.lines().filter(|line| !line.starts_with("-----")).collect();
    let seed = seed_of_ed25519(&lines.concat());
    let mut planted = vec![
        ("the text secret", text.as_bytes()),
        ("the file secret", file.as_bytes()),
        ("the password of the other registry", password.as_bytes()),
        ("the seed of the ssh key", seed.as_slice()),
        // The line that has most of the seed.
        ("a line of the ssh key", lines[3].as_bytes()),
    ];
    let ours = Planted::new(&planted);
    planted.push(("the registry's password", REGISTRY_PASSWORD.as_bytes()));
    let all = Planted::new(&planted);

    scenario.secret("text", &[("token", &text)]);
    scenario.secret("key", &[("id", &key.private)]);
    registry_secret(&scenario, "registry", REGISTRY_WITH_PASSWORD, "builder", REGISTRY_PASSWORD);
    registry_secret(&scenario, "other-registry", "registry.invalid", "somebody", &password);
    scenario.claim("sources");
    scenario.pod_on_claim("writer", "sources");
    let seconds = format!("{}", 100_000 + std::process::id());
    scenario.shell_with_input(
        "writer",
        "mkdir -p /claim/private && cat > /claim/private/secret",
        file.as_bytes(),
    );
    scenario.shell_with_input(
        "writer",
        "mkdir -p /claim/slow && cat > /claim/slow/Dockerfile",
        dockerfile(&format!("&& /bin/sleep {seconds}; true")).as_bytes(),
    );
    scenario.shell_with_input(
        "writer",
        "mkdir -p /claim/quick && cat > /claim/quick/Dockerfile",
        dockerfile("").as_bytes(),
    );
    let source = json!({ "persistentVolumeClaim": { "claimName": "sources" } });
    let build = |name: &str, context: &str, more: Value| {
        let mut spec = json!({
            "context": context,
            "labels": { "found": LABEL },
            "debug": true,
            "secrets": [
                { "id": "text", "secret": { "name": "text", "key": "token" } },
                { "id": "file", "file": "private/secret" },
            ],
            "ssh": [{ "secret": { "name": "key", "key": "id" } }],
            "registrySecrets": ["registry", "other-registry"],
            "push": true,
            "registry": format!("{REGISTRY_WITH_PASSWORD}/{}", scenario.name),
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        scenario.build_from(name, &source, spec);
    };
    build("plain", "slow", json!({ "unpackRootfs": true }));
    build(
        "attested",
        "quick",
        json!({ "outputFormat": "oci", "attestations": { "provenance": "max" } }),
    );

    let sleeping = sleeping_step(&scenario, "plain", &seconds);
    let uid = scenario.get("pod/plain-g1-a1")["metadata"]["uid"].as_str().unwrap().to_owned();
    let of_pod = processes_of_pod(&uid);
    all.check(
        "the arguments and environment of the pod's processes",
        arguments_and_environments(&of_pod),
        "words of the step",
    );
    let everywhere: Vec<u8> = processes().iter().flat_map(|process| arguments(process)).collect();
    ours.check("the arguments of all processes of the node", everywhere, "words of the step");
    all.check("the objects while the step runs", objects(&scenario), LABEL);
    all.check("the logs while the step runs", logs(&scenario, "plain"), "words of the step");
    kill_process(sleeping, Signal::TERM).unwrap();

    for name in ["plain", "attested"] {
        let status = scenario.succeeded(name);
        let digest = status["image"]["digest"].as_str().unwrap();
        all.check("the logs of the build", logs(&scenario, name), "words of the step");
        all.check("what a user looks at", scenario.story(name), digest);
        let pod = scenario.get(&format!("pod/{name}-g1-a1"));
        let containers = pod["status"]["containerStatuses"].as_array().unwrap();
        let message = containers
            .iter()
            .find_map(|container| container["state"]["terminated"]["message"].as_str());
        all.check("the termination message", message.expect("the runner leaves one"), digest);
    }
    all.check("the objects", objects(&scenario), LABEL);
    all.check("the operator's logs", operator_logs(), &scenario.name);

    let outputs = scenario.outputs();
    for (name, control) in
        [("plain", "metadata.json"), ("attested", "https://slsa.dev/provenance/")]
    {
        let image = if name == "plain" {
            outputs.image(name)
        } else {
            Image::of_layout(&outputs.path("attested/image"))
        };
        all.check(
            "layers, configuration, history and attestations of the image",
            image.everything(),
            LABEL,
        );
        all.check("the files of the output volume", files(&outputs.path(name)), control);
        all.check("result.json", outputs.text(&format!("{name}/result.json")), "succeeded");
        let copy = tempfile::tempdir().unwrap();
        pull(&format!("{}/{name}:latest", scenario.name), copy.path());
        all.check("the image in the registry", Image::of_layout(copy.path()).everything(), LABEL);
    }
    let image = outputs.image("plain");
    for (name, secret) in [("text", &text), ("file", &file)] {
        let seen = format!("sha256:{}", image.file(name).split(' ').next().unwrap());
        assert_eq!(seen, digest_of(secret.as_bytes()), "the step did read the secret {name}");
    }
    let history = image.config()["history"].to_string();
    assert!(
        history.contains("words of the step"),
        "the history is part of what was searched: {history}"
    );
}

/// Brings an image with all that belongs to it from the registry with a password.
fn pull(image: &str, folder: &Path) {
    let address = std::env::var("OCIBUILD_DEV_REGISTRY_AUTH")
        .expect("OCIBUILD_DEV_REGISTRY_AUTH is not set; see dev/cluster env");
    let from = format!("docker://{address}/{image}");
    let to = format!("oci:{}:copy", folder.display());
    let credentials = format!("builder:{REGISTRY_PASSWORD}");
    let flags = [
        "copy",
        "--all",
        "--preserve-digests",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--src-creds",
        &credentials,
    ];
    run("skopeo", &[&flags[..], &[&from, &to]].concat(), b"").ok();
}
