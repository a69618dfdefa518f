//! How a task ends that does not end well: with words, soon, and with nothing left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    folder::{Running, Task, names},
    proxy::Proxy,
    service_account,
};
use crate::{
    cluster::{Namespace, run},
    scenarios::image::Image,
};

const NOTHING: Vec<String> = Vec::new();

fn phases(namespace: &Namespace) -> String {
    namespace.kubectl(&["get", "ocib", "-o", "jsonpath={.items[*].status.phase}"]).ok()
}

pub fn nothing_is_in_the_cluster(namespace: &Namespace) {
    namespace.kubectl(&["wait", "--for=delete", "pods", "--all", "--timeout=60s"]).ok();
    assert_eq!(
        namespace.kubectl(&["get", "ocib,pods,secrets", "-o", "name"]).ok(),
        "",
        "nothing stays in the cluster"
    );
}

#[test]
fn a_failed_build_exits_1_with_its_reason_and_leaves_nothing_behind() {
    let namespace = Namespace::new("task-fails");
    let task = Task::new(
        &namespace,
        &[("Dockerfile", "FROM busybox:1.37\nRUN echo last words; exit 3\n")],
        &["image"],
    );
    let log = task.fails(&[]);
    let wanted = [
        "failed  StepFailed",
        "step    [2/2] RUN echo last words; exit 3",
        "      | last words",
        "hint    ",
        " describe ocibuild task-",
    ];
    for words in wanted {
        assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
    }
    assert_eq!(task.names("image"), NOTHING);
    let kept = namespace
        .kubectl(&["get", "ocib", "-o", "jsonpath={.items[*].status.failure.reason}"])
        .ok();
    assert_eq!(kept, "StepFailed", "it is kept for a while, to be looked at");
}

#[test]
fn parameters_that_cannot_be_meant_are_named_before_anything_is_made() {
    let namespace = Namespace::new("task-refuses");
    let task = Task::new(
        &namespace,
        &[("Dockerfile", "FROM busybox:1.37\n"), ("labels", "no equals sign\n")],
        &["image"],
    );
    for (parameter, words) in [
        (("PUSH", "yes"), "PUSH: \"yes\" is neither true nor false"),
        (("PUSH", "true"), "PUSH is true, so REGISTRY is needed"),
        (("CONTEXT", "../.."), "is outside the task's folder"),
        (("DOCKERFILE", "missing"), "there is no Dockerfile: \"missing\" is not a file"),
        (("ADDITIONAL_TARGETS", "[\"a\",\"b\"]"), "Concourse makes the text"),
        (("BUILDKIT_SECRETS", "a=b"), "BUILDKIT_SECRET_<id>"),
        (("BUILDKIT_SSH", "default"), "names no key"),
        (
            ("BUILDKIT_SECRET_x", "missing/file"),
            "missing/file, which the parameters name, cannot be read",
        ),
        (("BUILDKIT_EXTRA_CONFIG", "[a"), "buildkitConfig"),
        (("LABELS_FILE", "labels"), "labels"),
        (("IMAGE_NAME", "My-App"), "imageName: lower-case letters"),
        (("IMAGE_ARG_base", "missing.tar"), "missing.tar"),
        (("OCIBUILD_TIMOUT", "1h"), "no field timout"),
        (("KUBE_NAMESPACE", "no-such-namespace"), "no-such-namespace"),
        (("KUBECONFIG", "nothing"), "neither a kubeconfig nor the path of one"),
    ] {
        let log = task.fails(&[parameter]);
        assert!(log.contains(words), "{parameter:?}: {words}: {log}");
        assert_eq!(task.names("image"), NOTHING, "{parameter:?}");
    }
}

/// Concourse sends SIGTERM to the task alone, and SIGKILL after ten seconds.
#[test]
fn a_task_that_is_aborted_at_any_moment_takes_its_build_with_it() {
    let namespace = Namespace::new("task-abort");
    let dockerfile = "FROM busybox:1.37\nCOPY noise /\nRUN sleep 1\n";
    let mut random = fastrand::Rng::with_seed(20);
    let mut stopped = 0;
    for number in 0..10 {
        // One in each part of a task's life: reading, making, sending, building, fetching.
        let moment = Duration::from_millis(random.u64(number * 550..(number + 1) * 550));
        let task = Task::new(&namespace, &[("Dockerfile", dockerfile)], &["image"]);
        task.write_noise("noise", 24);
        let running = task.start(&[
            ("BUILDKIT_SECRETTEXT_x", "y"),
            ("OUTPUT_OCI", "true"),
            ("UNPACK_ROOTFS", "true"),
        ]);
        let begin = Instant::now();
        while begin.elapsed() < moment {
            std::thread::sleep(Duration::from_millis(5));
        }
        running.signal("-TERM");
        let asked = Instant::now();
        let ended = running.end();
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "after {moment:?}: Concourse kills it after 10 s: {}",
            ended.log
        );
        match ended.code {
            Some(0) => assert_eq!(
                task.names("image"),
                ["digest", "image", "image.tar", "metadata.json", "rootfs"]
            ),
            code => {
                assert!(
                    matches!(code, Some(143) | None),
                    "after {moment:?}: {code:?}: {}",
                    ended.log
                );
                assert_eq!(task.names("image"), NOTHING, "after {moment:?}: {}", ended.log);
                stopped += 1;
            }
        }
        assert_eq!(
            namespace.kubectl(&["get", "ocib", "-o", "name"]).ok(),
            "",
            "after {moment:?}: {}",
            ended.log
        );
    }
    assert!(stopped > 4, "most of them were stopped on their way: {stopped}");
    nothing_is_in_the_cluster(&namespace);
}

/// A worker that is lost says nothing.
#[test]
fn a_task_that_is_killed_is_missed_and_its_build_ends() {
    let namespace = Namespace::new("task-killed");
    let task = Task::new(
        &namespace,
        &[("Dockerfile", "FROM busybox:1.37\nRUN echo it runs; sleep 3600\n")],
        &["image"],
    );
    let mut running =
        task.start(&[("OCIBUILD_LEASE", "10s"), ("OCIBUILD_TTL_AFTER_FINISHED", "1s")]);
    running.until("it runs");
    // A lease that is kept lasts longer than itself.
    let begin = Instant::now();
    running.until_it("the lease", |_| begin.elapsed() > Duration::from_secs(15));
    assert_eq!(phases(&namespace), "Running");
    running.signal("-KILL");
    running.end();
    assert_eq!(task.names("image"), NOTHING);
    namespace.kubectl(&["wait", "--for=delete", "ocib", "--all", "--timeout=60s"]).ok();
    nothing_is_in_the_cluster(&namespace);
}

/// A task that is killed after it has made its build, and before the Secret that the build waits for.
#[test]
fn a_build_that_is_held_back_by_nobody_any_more_is_deleted() {
    let namespace = Namespace::new("task-held");
    namespace.apply(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: { name: held }
spec: { source: { upload: {} }, context: ., imageName: held, output: { download: {} }, suspend: true, lease: 10s }
",
    );
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Suspended",
            "ocib/held",
            "--timeout=30s",
        ])
        .ok();
    namespace.kubectl(&["wait", "--for=delete", "ocib/held", "--timeout=60s"]).ok();
}

#[test]
fn a_build_that_somebody_deletes_ends_its_task() {
    let namespace = Namespace::new("task-deleted");
    let task = Task::new(
        &namespace,
        &[("Dockerfile", "FROM busybox:1.37\nRUN echo it runs; sleep 3600\n")],
        &["image"],
    );
    let mut running = task.start(&[]);
    running.until("it runs");
    namespace.kubectl(&["delete", "ocib", "--all"]).ok();
    let ended = running.end();
    assert_eq!(ended.code, Some(1));
    assert!(ended.log.contains("was deleted by somebody else"), "{}", ended.log);
    nothing_is_in_the_cluster(&namespace);
}

#[test]
fn a_token_that_is_no_longer_good_ends_the_task_with_words() {
    let namespace = Namespace::new("task-token");
    let task = Task::new(
        &namespace,
        &[("Dockerfile", "FROM busybox:1.37\nRUN echo it runs; sleep 3600\n")],
        &["image"],
    );
    let account = service_account(&namespace);
    let mut parameters: Vec<_> =
        account.iter().map(|(name, value)| (*name, value.as_str())).collect();
    parameters.push(("KUBECONFIG", ""));
    let mut running = task.start(&parameters);
    running.until("it runs");
    namespace.kubectl(&["delete", "serviceaccount", "pipeline"]).ok();
    let ended = running.end();
    assert_eq!(ended.code, Some(1));
    for words in [
        "does not let this task in any more: Unauthorized",
        "cancelled when its lease is over",
        "could not be deleted",
    ] {
        assert!(ended.log.contains(words), "{words}: {}", ended.log);
    }
    assert_eq!(task.names("image"), NOTHING);
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Failed",
            "ocib",
            "--all",
            "--timeout=120s",
        ])
        .ok();
}

#[test]
fn connections_that_are_cut_again_and_again_only_cost_time() {
    let namespace = Namespace::new("task-cut");
    let proxy = Proxy::new(12 << 20, Duration::ZERO);
    let task = Task::new(&namespace, &[("Dockerfile", "FROM scratch\nCOPY noise /\n")], &["image"]);
    let task = task.through(proxy.kubeconfig.clone());
    task.write_noise("noise", 40);
    let log = task.succeeds(&[]);
    assert!(
        proxy.cuts() >= 4 && proxy.passed() > 80 << 20,
        "{} cuts, {} bytes: {log}",
        proxy.cuts(),
        proxy.passed()
    );
    let layers = Image::of_tar(&task.path("image/image.tar")).layers();
    assert!(layers[0][0].content == fs::read(task.path("noise")).unwrap(), "it is whole");
    run(
        "skopeo",
        &["inspect", &format!("docker-archive:{}", task.path("image/image.tar").display())],
        b"",
    )
    .ok();
}

/// A file system of a few megabytes, taken away in the end.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", path.to_str().unwrap()],
            b"",
        )
        .ok();
        Self(path.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &["--lazy", self.0.to_str().unwrap()], b"");
    }
}

#[test]
fn a_full_disk_here_or_there_is_named_and_half_an_image_is_not_left() {
    let namespace = Namespace::new("task-full");
    let task = Task::new(&namespace, &[("Dockerfile", "FROM scratch\nCOPY noise /\n")], &["image"]);
    task.write_noise("noise", 8);
    {
        let _output = Small::mount(&task.path("image"), "4m");
        let log = task.fails(&[]);
        assert!(
            log.contains("No space left on device")
                && log.contains("the disk of this Concourse worker is full"),
            "{log}"
        );
        assert_eq!(task.names("image"), NOTHING);
    }
    {
        let temporary = Small::mount(&task.path("tmp"), "1m");
        task.write(".dockerignore", b"tmp\n");
        let log = task.fails(&[("TMPDIR", temporary.0.to_str().unwrap())]);
        assert!(log.contains("No space left on device") && log.contains("TMPDIR"), "{log}");
        assert_eq!(names(&temporary.0), NOTHING);
    }
    nothing_is_in_the_cluster(&namespace);
    // The kubelet evicts a pod that takes more of its node's disk than it may.
    task.write_noise("noise", 96);
    task.write("Dockerfile", b"FROM busybox:1.37\nCOPY noise /\nRUN sleep 300\n");
    let limits = "{requests: {ephemeral-storage: 10Mi}, limits: {ephemeral-storage: 20Mi}}";
    let log = task.fails(&[("OCIBUILD_POD_RESOURCES", limits), ("OCIBUILD_RETRIES", "0")]);
    assert!(log.contains("failed  ") && log.contains("hint    "), "{log}");
    assert_eq!(task.names("image"), NOTHING);
}

/// Steps have no process of their own to be init: what they leave behind lives on, beside the runner.
#[test]
fn a_process_that_a_step_left_behind_cannot_take_the_files_away() {
    let namespace = Namespace::new("task-left-behind");
    let asks = r#"printf "POST /fetched HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" | nc -w 1 127.0.0.1 24681"#;
    let dockerfile = format!(
        "FROM busybox:1.37\nCOPY noise /\nRUN (setsid sh -c 'while :; do {asks}; done' >/dev/null 2>&1 &)\n"
    );
    let task = Task::new(&namespace, &[("Dockerfile", &dockerfile)], &["image"]);
    task.write_noise("noise", 40);
    task.succeeds(&[]);
    assert_eq!(task.names("image"), ["digest", "image.tar"]);
}

#[test]
fn an_api_server_that_is_not_there_is_named() {
    let namespace = Namespace::new("task-nowhere");
    let task = Task::new(&namespace, &[("Dockerfile", "FROM scratch\n")], &[]);
    let running: Running = task.start(&[
        ("KUBECONFIG", ""),
        ("KUBE_SERVER", "https://127.0.0.1:1"),
        ("KUBE_TOKEN", "x"),
    ]);
    let ended = running.end();
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.log.contains("could not be made") && ended.log.contains("refused"),
        "{}",
        ended.log
    );
}
