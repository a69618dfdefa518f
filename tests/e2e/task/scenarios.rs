//! The scenarios of the Concourse build task, from variables alone. What an image must be in each is told in the scenarios of the
//! manifests; here it is that the variables lead there, and that the files lie where a pipeline expects them.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use super::folder::Task;
use crate::{
    cluster::{Namespace, REGISTRY, REGISTRY_WITH_PASSWORD, manifest_in_registry, run},
    scenarios::{
        image::{Image, digests},
        secrets::{ed25519_key, ssh_add},
    },
};

const DOCKER: [&str; 2] = ["digest", "image.tar"];
const OCI: [&str; 3] = ["digest", "image", "image.tar"];
const UNPACKED: [&str; 4] = ["digest", "image.tar", "metadata.json", "rootfs"];

fn image(task: &Task<'_>, output: &str) -> Image {
    Image::of_tar(&task.path(&format!("{output}/image.tar")))
}

/// The files of an output in docker format: the digest is that of the configuration, without a newline.
fn check_docker(task: &Task<'_>, output: &str) -> Image {
    let image = image(task, output);
    assert_eq!(
        task.text(&format!("{output}/digest")),
        image.manifest()["config"]["digest"].as_str().unwrap(),
        "{output}"
    );
    let archive = format!("docker-archive:{}", task.path(&format!("{output}/image.tar")).display());
    run("skopeo", &["inspect", "--raw", &archive], b"").ok();
    image
}

/// The files of an output in OCI format: the archive, the same as a layout, and the digest of the manifest or index.
fn check_oci(task: &Task<'_>, output: &str) -> Image {
    assert_eq!(task.names(output), OCI);
    let (archive, layout) =
        (image(task, output), Image::of_layout(&task.path(&format!("{output}/image"))));
    assert_eq!(layout.blob_digests(), archive.blob_digests());
    assert_eq!(
        task.text(&format!("{output}/digest")),
        layout.descriptor()["digest"].as_str().unwrap()
    );
    layout
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Scenarios: basic build; no output; digest; Dockerfile path. And cache/, which is said once.
#[test]
fn a_build_leaves_its_files_in_the_folder_image_if_there_is_one() {
    let namespace = Namespace::new("task-basic");
    let files = [
        ("source/Dockerfile", "FROM busybox:1.37\nRUN false\n"),
        (
            "source/hello.Dockerfile",
            "FROM busybox:1.37\nCOPY greeting /\nRUN cat /greeting > /heard\n",
        ),
        ("source/greeting", "hello\n"),
        ("ci/Dockerfile", "FROM scratch\nCOPY greeting /from-outside\n"),
        ("cache/kept", "as it is"),
    ];
    let task = Task::new(&namespace, &files, &["image"]);
    for (dockerfile, file) in [
        ("source/hello.Dockerfile", "heard"),
        ("hello.Dockerfile", "heard"),
        ("ci/Dockerfile", "from-outside"),
    ] {
        let log = task.succeeds(&[("CONTEXT", "source"), ("DOCKERFILE", dockerfile)]);
        assert_eq!(task.names("image"), DOCKER);
        assert_eq!(check_docker(&task, "image").file(file), "hello\n", "{dockerfile}");
        assert_eq!(log.matches("cache: the folder stays as it is").count(), 1, "{log}");
        assert_eq!(
            (task.names("cache"), task.text("cache/kept")),
            (vec!["kept".to_owned()], "as it is".to_owned())
        );
    }
    let nowhere = Task::new(&namespace, &files[..3], &[]);
    nowhere.succeeds(&[("CONTEXT", "source"), ("DOCKERFILE", "hello.Dockerfile")]);
    assert_eq!(nowhere.names("."), ["source"], "no image/: nothing is exported");
}

/// The example of docs/concourse.md: what takes the place of cache/.
#[test]
fn a_second_task_takes_its_steps_from_the_cache_that_the_first_has_filled() {
    let namespace = Namespace::new("task-cache");
    let dockerfile = "FROM busybox:1.37\nCOPY . /src\nRUN cat /proc/uptime > /built\n";
    let task = Task::new(&namespace, &[("source/Dockerfile", dockerfile)], &["image", "cache"]);
    let cache = |export: &str| {
        format!("{{registry: {{reference: {REGISTRY}/cache/{}{export}}}}}", namespace.name)
    };
    let logs = ["", ", export: max", ""]
        .map(|export| task.succeeds(&[("CONTEXT", "source"), ("OCIBUILD_CACHE", &cache(export))]));
    let steps = ["0 of 3 cached", "0 of 3 cached", "2 of 3 cached"];
    let words = ["is only read; export: max in it fills it", "names serves", "is only read"];
    for ((log, steps), words) in logs.iter().zip(steps).zip(words) {
        assert!(log.contains(steps) && log.contains(words), "{log}");
    }
}

/// Scenarios: build args; file; YAML file; static and file. Labels: static; file; static, file and inherited.
#[test]
fn arguments_and_labels_come_from_variables_and_files_and_the_file_wins() {
    let namespace = Namespace::new("task-args");
    let dockerfile = "FROM busybox:1.37 AS base
LABEL inherited_label=inherited_value overridden_label=inherited_value
FROM base
ARG some_arg=unset
ARG some_other_arg=unset
RUN printf '%s|%s' \"$some_arg\" \"$some_other_arg\" > /given
";
    let files = [
        ("Dockerfile", dockerfile),
        ("ci/args", "some_arg=from file\n\nsome_other_arg=a=b=c\n"),
        ("ci/args.yml", "some_arg: 1.10\nsome_other_arg: |\n  two\n  lines\n"),
        ("ci/one-arg", "some_arg=from file\n"),
        ("ci/labels", "some_label=file=value\n\nsome_file_label=some_value\n"),
    ];
    let task = Task::new(&namespace, &files, &["image"]);
    let inherited =
        [("inherited_label", "inherited_value"), ("overridden_label", "inherited_value")];
    let cases = [
        (
            vec![
                ("BUILD_ARG_some_arg", "some_value"),
                ("BUILD_ARG_some_other_arg", "two\nlines"),
                ("LABEL_a", "1, 2=\"3\""),
            ],
            "some_value|two\nlines",
            vec![("a", "1, 2=\"3\"")],
        ),
        (
            vec![("BUILD_ARGS_FILE", "ci/args"), ("LABELS_FILE", "ci/labels")],
            "from file|a=b=c",
            vec![("some_label", "file=value"), ("some_file_label", "some_value")],
        ),
        (vec![("build_args_file", "ci/args.yml")], "1.10|two\nlines\n", vec![]),
        (
            vec![
                ("BUILD_ARG_some_arg", "static"),
                ("BUILD_ARGS", "some_other_arg={a,b}"),
                ("BUILDARGSFILE", "ci/one-arg"),
                ("LABEL_some_label", "static"),
                ("LABEL_overridden_label", "static"),
                ("LABELS_FILE", "ci/labels"),
            ],
            "from file|{a,b}",
            vec![
                ("overridden_label", "static"),
                ("some_label", "file=value"),
                ("some_file_label", "some_value"),
            ],
        ),
    ];
    for (parameters, given, own) in cases {
        task.succeeds(&parameters);
        let image = image(&task, "image");
        assert_eq!(image.file("given"), given, "{parameters:?}");
        let expected: BTreeMap<_, _> = labels(&inherited).into_iter().chain(labels(&own)).collect();
        assert_eq!(image.labels(), expected, "{parameters:?}");
    }
}

/// Scenarios: target; target file; multiple targets; with an explicit target; with digests; with unpack.
#[test]
fn targets_are_built_each_into_the_output_of_its_name() {
    let namespace = Namespace::new("task-targets");
    let dockerfile = "FROM busybox:1.37 AS broken-before
RUN false
FROM busybox:1.37 AS additional-target
LABEL target=additional-target
ENV STAGE=additional
RUN echo additional > /file
FROM busybox:1.37 AS working-target
LABEL target=working-target
ENV STAGE=working
USER 7
COPY Dockerfile /file
FROM busybox:1.37 AS broken-after
RUN false
";
    let files = [("Dockerfile", dockerfile), ("ci/target_file", "\n working-target\n")];
    let task = Task::new(&namespace, &files, &["image", "additional-target"]);
    let target = |output: &str| image(&task, output).labels();
    task.succeeds(&[("TARGET", "working-target")]);
    assert_eq!(
        (target("image"), task.names("additional-target")),
        (labels(&[("target", "working-target")]), vec![])
    );
    task.succeeds(&[
        ("TARGET", "broken-after"),
        ("TARGET_FILE", "ci/target_file"),
        ("ADDITIONAL_TARGETS", "additional-target"),
        ("UNPACK_ROOTFS", "true"),
    ]);
    for (output, label, stage, user) in [
        ("image", "working-target", "STAGE=working", "7"),
        ("additional-target", "additional-target", "STAGE=additional", ""),
    ] {
        assert_eq!(task.names(output), UNPACKED);
        assert_eq!(check_docker(&task, output).labels(), labels(&[("target", label)]));
        let metadata = task.text(&format!("{output}/metadata.json"));
        assert!(
            metadata.starts_with("{\"env\":[\"")
                && metadata.ends_with(&format!(",\"user\":\"{user}\"}}\n")),
            "{metadata}"
        );
        assert!(metadata.contains(&format!("{stage:?}")), "{metadata}");
    }
    assert_eq!(task.text("additional-target/rootfs/file"), "additional\n");
    assert_eq!(task.text("image/rootfs/file"), dockerfile);
    // One whose output is not declared is built all the same, and so one that fails is found.
    let log = task.fails(&[
        ("TARGET", "working-target"),
        ("ADDITIONAL_TARGETS", "additional-target,broken-after"),
    ]);
    assert!(log.contains("StepFailed"), "{log}");
    assert_eq!(
        (task.names("image"), task.names("additional-target")),
        (vec![], vec![]),
        "and nothing is left of the others"
    );
}

/// Scenario: unpack rootfs, byte for byte. Not tested by the peer: a round trip of modes and links.
#[test]
fn the_root_file_system_lies_beside_the_tar() {
    let namespace = Namespace::new("task-rootfs");
    let dockerfile = "FROM busybox:1.37
RUN echo lower | tee /kept /gone && echo script > /tool && chmod 4751 /tool && ln -s /etc/passwd /link && mkdir -m 1777 /shared
RUN rm /gone && echo second > /file && echo x > /shadow && chmod 000 /shadow && mkdir /blind && echo y > /blind/file && chmod 300 /blind
USER banana
ENV PATH=/darkness
ENV BA=nana
";
    let task = Task::new(&namespace, &[("Dockerfile", dockerfile)], &["image"]);
    task.succeeds(&[("unpack_rootfs", "1")]);
    assert_eq!(
        task.text("image/metadata.json"),
        "{\"env\":[\"PATH=/darkness\",\"BA=nana\"],\"user\":\"banana\"}\n"
    );
    assert_eq!(
        (task.text("image/rootfs/file"), task.text("image/rootfs/kept")),
        ("second\n".to_owned(), "lower\n".to_owned())
    );
    assert!(!task.path("image/rootfs/gone").exists());
    assert_eq!(
        fs::read_link(task.path("image/rootfs/link")).unwrap().to_str(),
        Some("/etc/passwd")
    );
    let stat =
        |path: &str| run("stat", &["-c", "%a %u %g", task.path(path).to_str().unwrap()], b"").ok();
    assert_eq!(
        (stat("image/rootfs/shadow"), stat("image/rootfs/blind")),
        ("0 0 0\n".to_owned(), "300 0 0\n".to_owned())
    );
    assert!(task.path("image/rootfs/blind/file").exists());
    assert_eq!(
        (stat("image/rootfs/tool"), stat("image/rootfs/shared")),
        ("4751 0 0\n".to_owned(), "1777 0 0\n".to_owned())
    );
}

/// Scenarios: file secret; text secret; ssh key; add hosts. And none of it is printed.
#[test]
fn secrets_keys_and_hosts_reach_the_steps() {
    let namespace = Namespace::new("task-secrets");
    let dockerfile = "FROM busybox:1.37 AS steps
COPY tools /
RUN --mount=type=secret,id=text grep -q text-hunt.r2 /run/secrets/text
RUN --mount=type=secret,id=file grep -q file-hunt.r2 /run/secrets/file
RUN --mount=type=ssh,id=deploy ssh-add -l > /keys
RUN cat /etc/hosts > /hosts
FROM scratch
COPY --from=steps /keys /hosts /
";
    let keys = [ed25519_key(), ed25519_key()];
    let files = [
        ("source/Dockerfile", dockerfile),
        ("secrets/file", "file-hunter2"),
        ("secrets/one", keys[0].private.as_str()),
        ("secrets/two", &keys[1].private),
    ];
    let task = Task::new(&namespace, &files, &["image"]);
    fs::create_dir(task.path("source/tools")).unwrap();
    run("tar", &["-xf", "-", "-C", task.path("source/tools").to_str().unwrap()], &ssh_add()).ok();
    let log = task.succeeds(&[
        ("CONTEXT", "source"),
        ("BUILDKIT_SECRETTEXT_text", "text-hunter2"),
        ("BUILDKIT_SECRET_file", "secrets/file"),
        ("BUILDKIT_SSH", "deploy=secrets/one,secrets/two"),
        ("BUILDKIT_ADD_HOSTS", "test-host=1.2.3.4,git.internal=2001:db8::7"),
    ]);
    assert!(!log.contains("hunter2") && !log.contains("PRIVATE KEY"), "{log}");
    let image = image(&task, "image");
    for key in &keys {
        assert!(image.file("keys").contains(&key.fingerprint), "{}", image.file("keys"));
    }
    for host in ["1.2.3.4\ttest-host", "2001:db8::7\tgit.internal"] {
        assert!(image.file("hosts").contains(host), "{}", image.file("hosts"));
    }
    assert_eq!(
        namespace.kubectl(&["get", "secrets", "-o", "name"]).ok(),
        "",
        "the Secret went with the build"
    );
}

/// Scenarios: image args from two tars with an additional target; from two OCI layouts; with an upper-case name and unpack.
#[test]
fn images_of_the_inputs_are_base_images() {
    let namespace = Namespace::new("task-images");
    for (variables, form, check) in
        [(&[][..], "image.tar", true), (&[("OUTPUT_OCI", "true")][..], "image", false)]
    {
        let mut inputs = Vec::new();
        for name in ["first", "second"] {
            let dockerfile = format!(
                "FROM scratch\nCOPY {name}.txt /\nENV {name}=yes\nLABEL inherited={name}\n"
            );
            let file = format!("{name}.txt");
            let task =
                Task::new(&namespace, &[("Dockerfile", &dockerfile), (&file, name)], &["image"]);
            task.succeeds(variables);
            inputs.push(task);
        }
        let dockerfile =
            "ARG first_image\nARG SECOND_IMAGE=scratch\nFROM ${first_image} AS first-target\nFROM ${SECOND_IMAGE} AS second
FROM ${first_image}\nCOPY --from=second /second.txt /copied.txt\n";
        let task =
            Task::new(&namespace, &[("source/Dockerfile", dockerfile)], &["image", "first-target"]);
        for (name, input) in ["first", "second"].iter().zip(&inputs) {
            fs::rename(input.path("image"), task.path(name)).unwrap();
        }
        let first = format!("first/{form}");
        task.succeeds(&[
            ("CONTEXT", "source"),
            ("IMAGE_ARG_first_image", &first),
            ("IMAGE_ARG_SECOND_IMAGE", &format!("second/{form}")),
            ("BUILD_ARG_first_image", "registry.invalid/not/this:one"),
            ("ADDITIONAL_TARGETS", "first-target"),
            ("UNPACK_ROOTFS", "true"),
        ]);
        let image = check_docker(&task, "image");
        assert_eq!(
            (image.file("copied.txt"), image.file("first.txt")),
            ("second".to_owned(), "first".to_owned())
        );
        assert_eq!(
            (task.text("image/rootfs/copied.txt"), &image.labels()["inherited"]),
            ("second".to_owned(), &"first".to_owned())
        );
        let base = if check {
            Image::of_tar(&task.path(&first))
        } else {
            Image::of_layout(&task.path(&first))
        };
        let diff_ids = |image: &Image| image.config()["rootfs"]["diff_ids"].clone();
        assert_eq!(
            diff_ids(&Image::of_tar(&task.path("first-target/image.tar"))),
            diff_ids(&base),
            "the same layers"
        );
        assert!(task.text("image/metadata.json").contains("\"first=yes\""));
    }
}

/// Scenarios: image platform; OCI index. Not tested by the peer: OUTPUT_OCI for one platform; additional targets with a platform.
#[test]
fn platforms_and_oci_files_are_as_asked_for() {
    let namespace = Namespace::new("task-platforms");
    let dockerfile = "FROM scratch AS first\nARG TARGETARCH\nCOPY of-$TARGETARCH /first\nFROM scratch\nARG TARGETARCH\nCOPY of-$TARGETARCH /file\n";
    let files = [("Dockerfile", dockerfile), ("of-arm64", "arm64"), ("of-amd64", "amd64")];
    let task = Task::new(&namespace, &files, &["image", "first"]);
    task.succeeds(&[("IMAGE_PLATFORM", "linux/arm64"), ("ADDITIONAL_TARGETS", "first")]);
    for (output, file) in [("image", "file"), ("first", "first")] {
        let image = check_docker(&task, output);
        assert_eq!(
            (image.config()["architecture"].as_str(), image.file(file)),
            (Some("arm64"), "arm64".to_owned())
        );
    }

    let task = Task::new(&namespace, &files, &["image", "first"]);
    task.succeeds(&[
        ("OUTPUT_OCI", "true"),
        ("UNPACK_ROOTFS", ""),
        ("ADDITIONAL_TARGETS", "first"),
    ]);
    for (output, file) in [("image", "file"), ("first", "first")] {
        assert_eq!(check_oci(&task, output).file(file), "amd64");
    }

    let task = Task::new(&namespace, &files, &["image"]);
    task.succeeds(&[("IMAGE_PLATFORM", "linux/arm64,linux/amd64")]);
    let layout = check_oci(&task, "image");
    let platforms: Vec<_> = layout.root()["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|manifest| manifest["platform"]["architecture"].clone())
        .collect();
    assert_eq!(platforms, [json!("arm64"), json!("amd64")], "exactly those, and no attestations");
}

/// Scenarios: registry mirror; generated daemon configuration. Not tested by the peer: extra configuration; DOCKER_CONFIG.
#[test]
fn mirrors_extra_configuration_and_credentials_reach_the_registries() {
    let namespace = Namespace::new("task-registries");
    let registry = format!("{REGISTRY}/{}/library", namespace.name);
    let task = Task::new(&namespace, &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")], &[]);
    task.succeeds(&[("IMAGE_NAME", "mirrored-image"), ("PUSH", "true"), ("REGISTRY", &registry)]);
    let pushed = manifest_in_registry(&format!("{}/library/mirrored-image:latest", namespace.name));

    let task = Task::new(
        &namespace,
        &[("Dockerfile", "FROM mirrored-image\nLABEL built=here\n")],
        &["image"],
    );
    let mirrors = format!("no-such-mirror.invalid,{REGISTRY}/{}", namespace.name);
    task.succeeds(&[
        ("REGISTRY_MIRRORS", &mirrors),
        (
            "BUILDKIT_EXTRA_CONFIG",
            "[worker.oci]\n  max-parallelism = 3\n[registry.\"docker.io\"]\n",
        ),
    ]);
    assert_eq!(image(&task, "image").layer_digests(), digests(&pushed["layers"]));

    let registry = format!("{REGISTRY_WITH_PASSWORD}/{}", namespace.name);
    let credentials = |password: &str| -> Value {
        use base64::{Engine, engine::general_purpose::STANDARD};
        json!({ "auths": { REGISTRY_WITH_PASSWORD: { "auth": STANDARD.encode(format!("builder:{password}")) } } })
    };
    let files = [
        ("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n".to_owned()),
        ("right/config.json", credentials("correct-horse").to_string()),
        ("wrong/config.json", credentials("battery-staple").to_string()),
    ];
    let files: Vec<_> = files.iter().map(|(path, content)| (*path, content.as_str())).collect();
    let task = Task::new(&namespace, &files, &["image"]);
    let push = [("IMAGE_NAME", "secret-app"), ("PUSH", "true"), ("REGISTRY", registry.as_str())];
    let log = task.succeeds(&[&push[..], &[("DOCKER_CONFIG", "right")]].concat());
    assert!(log.contains(", pushed") && task.names("image") == DOCKER, "{log}");
    let log = task.fails(&[&push[..], &[("DOCKER_CONFIG", "wrong")]].concat());
    assert!(
        log.contains("failed  RegistryUnauthorized") && !log.contains("battery-staple"),
        "{log}"
    );
    assert_eq!(
        task.names("image"),
        Vec::<String>::new(),
        "what an earlier run left is not taken for this one's"
    );
}

/// Settings of the pod and the build, as variables and as a template.
#[test]
fn settings_of_the_pod_come_by_variables_and_a_template() {
    let namespace = Namespace::new("task-settings");
    let files = [
        ("Dockerfile", "FROM busybox:1.37\nRUN echo it runs; sleep 3600\n"),
        ("ci/build.yaml", "spec: { timeout: 11m, pod: { labels: { team: blue } } }"),
    ];
    let task = Task::new(&namespace, &files, &[]);
    let mut running = task.start(&[
        ("OCIBUILD_TEMPLATE", "ci/build.yaml"),
        ("OCIBUILD_POD_RESOURCES", "{requests: {cpu: 10m}, limits: {memory: 1Gi}}"),
        ("OCIBUILD_POD_NODE_SELECTOR", "kubernetes.io/os: linux"),
        ("OCIBUILD_RETRIES", "0"),
        ("DEBUG", "true"),
    ]);
    running.until("it runs");
    let build = namespace.get("ocib")["items"][0].clone();
    let wanted = json!({
        "labels": { "team": "blue" },
        "nodeSelector": { "kubernetes.io/os": "linux" },
        "resources": { "requests": { "cpu": "10m" }, "limits": { "memory": "1Gi" } },
    });
    assert_eq!(
        (&build["spec"]["pod"], &build["spec"]["timeout"], &build["spec"]["retries"]),
        (&wanted, &json!("11m"), &json!(0))
    );
    assert_eq!(build["spec"]["debug"], true);
    let pod = namespace.get("pods")["items"][0].clone();
    assert_eq!(pod["spec"]["nodeSelector"]["kubernetes.io/os"], "linux");
    running.signal("-TERM");
    assert_eq!(running.end().code, Some(143));
}
