//! Builds that fail: each with its own reason, the step, its exit code and its last lines.

use crate::cluster::Namespace;

fn build(name: &str, dockerfile: &str, more: &str) -> String {
    format!(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: {name} }}
spec:
  source: {{ files: {{ Dockerfile: \"{dockerfile}\" }} }}
  context: .
  imageName: {name}
  {more}
"
    )
}

#[test]
fn a_failing_step_is_named_with_its_exit_code_and_its_last_lines() {
    let namespace = Namespace::new("step");
    let dockerfile =
        "FROM busybox:1.37\\nRUN echo all is well\\nRUN echo the last words; exit 42\\n";
    namespace.apply(&build("broken", dockerfile, ""));
    let status = namespace.failed("broken", "StepFailed");
    let failure = &status["failure"];
    assert_eq!(failure["exitCode"], 42);
    assert!(
        failure["step"].as_str().unwrap().contains("RUN echo the last words; exit 42"),
        "{failure}"
    );
    assert!(failure["logExcerpt"].as_str().unwrap().contains("the last words"), "{failure}");
    assert!(!failure["hint"].as_str().unwrap().is_empty());

    let stalled =
        namespace.kubectl(&["wait", "--for=condition=Stalled", "ocib/broken", "--timeout=5s"]);
    assert!(stalled.is_success, "kstatus sees the failure: {}", stalled.stderr);
    namespace.event("broken", "StepFailed");
    let described = namespace.kubectl(&["describe", "ocib", "broken"]).ok();
    for part in ["StepFailed", "exit 42", "the last words", "Exit Code:", "Log Excerpt:"] {
        assert!(
            described.contains(part),
            "describe tells the story: {part} is not in\n{described}"
        );
    }
    namespace.pod_on_claim("reader", "broken-output");
    assert_eq!(
        namespace.shell("reader", "ls -A /claim | grep -v lost+found || true"),
        "",
        "no partial tar is left"
    );
    let printed = namespace.kubectl(&["logs", "broken-g1-a1", "-c", "build"]).ok();
    assert!(
        printed.contains("RUN echo all is well") && printed.contains("the last words"),
        "{printed}"
    );
}

#[test]
fn a_failing_build_says_why_also_where_its_files_were_to_be_unpacked() {
    let namespace = Namespace::new("unpack-fails");
    let more = "unpackRootfs: true\n  output: { download: {} }";
    namespace.apply(&build("step", "FROM busybox:1.37\\nRUN echo its own words; exit 3\\n", more));
    namespace.apply(&build(
        "no-base",
        "FROM registry.registry.svc.cluster.local:5000/no/such:image",
        more,
    ));
    let failure = namespace.failed("step", "StepFailed")["failure"].clone();
    assert_eq!(failure["exitCode"], 3);
    assert!(failure["logExcerpt"].as_str().unwrap().contains("its own words"), "{failure}");
    namespace.failed("no-base", "BaseImageNotFound");
}

#[test]
fn what_is_missing_has_a_name() {
    let namespace = Namespace::new("missing");
    namespace.apply(&build("no-dockerfile", "FROM scratch", "dockerfile: build/Containerfile"));
    namespace.apply(
        &build("no-context", "FROM scratch", "").replace("context: .", "context: source-code"),
    );
    namespace.apply(&build(
        "no-base",
        "FROM registry.registry.svc.cluster.local:5000/no/such:image",
        "",
    ));
    namespace.apply(&build("no-file", "FROM scratch\\nCOPY not-there /", ""));
    namespace.apply(&build("no-host", "FROM no-such-host.invalid/x", ""));
    namespace.apply(&build("no-stage", "FROM scratch", "target: final"));
    namespace.apply(&build("no-syntax", "FROM scratch\\nRUNN true", ""));
    let dockerfile = namespace.failed("no-dockerfile", "DockerfileMissing");
    let message = dockerfile["failure"]["message"].as_str().unwrap();
    assert!(message.contains("build/Containerfile"), "{message}");
    let context = namespace.failed("no-context", "ContextMissing");
    let message = context["failure"]["message"].as_str().unwrap();
    assert!(
        message.contains("source-code") && message.contains("Dockerfile"),
        "names what is asked for and what is there: {message}"
    );
    namespace.failed("no-base", "BaseImageNotFound");
    namespace.failed("no-file", "FileNotFound");
    namespace.failed("no-host", "NameResolution");
    namespace.failed("no-stage", "DockerfileInvalid");
    let syntax = namespace.failed("no-syntax", "DockerfileInvalid");
    assert!(syntax["failure"]["message"].as_str().unwrap().contains("RUNN"), "{syntax}");
}

/// The runner is user 1000, and a claim may hold files of others.
#[test]
fn a_file_that_the_runner_cannot_read_is_named_if_the_build_asks_for_it() {
    let namespace = Namespace::new("unreadable");
    namespace.claim("sources");
    namespace.pod_on_claim("writer", "sources");
    namespace.shell(
        "writer",
        "cd /claim && echo text > public.txt && echo secret > closed.txt && chmod 600 closed.txt
printf 'FROM scratch\\nCOPY . /\\n' > all && printf 'FROM scratch\\nCOPY public.txt /\\n' > one
printf 'FROM scratch\\nCOPY . /\\n' > ignoring && echo closed.txt > ignoring.dockerignore",
    );
    for name in ["all", "one", "ignoring"] {
        namespace.apply(&format!(
            "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: {name} }}
spec:
  source: {{ persistentVolumeClaim: {{ claimName: sources }} }}
  context: .
  dockerfile: {name}
  imageName: {name}
"
        ));
    }
    let failure = namespace.failed("all", "SourceUnreadable")["failure"].clone();
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("cannot read \"closed.txt\" (mode 0600, owner 0:0)"), "{message}");
    for name in ["one", "ignoring"] {
        namespace.succeeded(name);
    }
}

#[test]
fn a_missing_claim_is_waited_for_and_then_named() {
    let namespace = Namespace::new("no-claim");
    namespace.apply(&build(
        "homeless",
        "FROM scratch",
        "output: { persistentVolumeClaim: { claimName: no-such-claim } }",
    ));
    let status = namespace.failed("homeless", "ClaimMissing");
    assert!(status["failure"]["message"].as_str().unwrap().contains("no-such-claim"), "{status}");
    namespace.kubectl(&["wait", "--for=delete", "pod/homeless-g1-a1", "--timeout=60s"]).ok();
}

#[test]
fn a_claim_that_comes_late_is_in_time() {
    let namespace = Namespace::new("late-claim");
    namespace.apply(&build(
        "patient",
        "FROM busybox:1.37\\nRUN true",
        "output: { persistentVolumeClaim: { claimName: late } }",
    ));
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.conditions[0].reason}=ClaimMissing",
            "ocib/patient",
            "--timeout=60s",
        ])
        .ok();
    namespace.apply(
        "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: late }
spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 100Mi } } }
",
    );
    let status = namespace.succeeded("patient");
    assert_eq!(status["tar"]["path"], "patient/image.tar");
}

#[test]
fn a_build_that_takes_too_long_is_stopped_and_says_in_which_step() {
    let namespace = Namespace::new("timeout");
    namespace.apply(&build("slow", "FROM busybox:1.37\\nRUN sleep 600", "timeout: 20s"));
    let status = namespace.failed("slow", "Timeout");
    assert!(status["failure"]["message"].as_str().unwrap().contains("sleep 600"), "{status}");
}

#[test]
fn progress_shows_while_a_build_runs() {
    let namespace = Namespace::new("progress");
    namespace.apply(&build(
        "steps",
        "FROM busybox:1.37\\nRUN sleep 1\\nRUN sleep 8\\nRUN sleep 1",
        "",
    ));
    let shown = namespace.kubectl(&[
        "wait",
        "--for=jsonpath={.status.progress.done}=2",
        "ocib/steps",
        "--timeout=60s",
    ]);
    assert!(shown.is_success, "{}\n{}", shown.stderr, namespace.story("steps"));
    let status = namespace.get("ocib/steps")["status"].clone();
    assert_eq!(status["phase"], "Running");
    assert!(status["progress"]["current"].as_str().unwrap().contains("sleep"), "{status}");
    assert_eq!(namespace.succeeded("steps")["progress"]["summary"], "4/4");
}

#[test]
fn a_pod_that_somebody_deletes_is_replaced_by_another_attempt() {
    let namespace = Namespace::new("deleted-pod");
    namespace.apply(&build("robust", "FROM busybox:1.37\\nRUN sleep 5", ""));
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Running",
            "ocib/robust",
            "--timeout=240s",
        ])
        .ok();
    namespace.kubectl(&["delete", "pod", "robust-g1-a1", "--wait=false"]).ok();
    let status = namespace.succeeded("robust");
    assert_eq!(status["attempt"], 2, "{status}");
    assert!(
        status["warnings"][0].as_str().unwrap().starts_with("attempt 1 was lost: PodDeleted"),
        "{status}"
    );
    namespace.event("robust", "Retrying");
}

#[test]
fn a_runner_that_is_killed_is_replaced_by_another_attempt() {
    let namespace = Namespace::new("killed-runner");
    namespace.apply(&build("tough", "FROM busybox:1.37\\nRUN sleep 5", ""));
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Running",
            "ocib/tough",
            "--timeout=240s",
        ])
        .ok();
    let uid =
        namespace.get("pod/tough-g1-a1")["metadata"]["uid"].as_str().unwrap().replace('-', "[-_]");
    let node = namespace.get("pod/tough-g1-a1")["spec"]["nodeName"].clone();
    // From the node, for nothing in the pod may do it: SIGKILL to the process ocibuild in the pod's cgroup.
    namespace.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: killer }}
spec:
  hostPID: true
  nodeName: {node}
  restartPolicy: Never
  containers:
  - name: killer
    image: busybox:1.37
    securityContext: {{ privileged: true }}
    command:
    - sh
    - -c
    - 'for process in /proc/[0-9]*; do grep -q \"pod{uid}\" $process/cgroup && [ \"$(cat $process/comm)\" = ocibuild ] && kill -9 ${{process#/proc/}} && killed=yes; done; [ -n \"$killed\" ]'
"
    ));
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Succeeded",
            "pod/killer",
            "--timeout=60s",
        ])
        .ok();
    let status = namespace.succeeded("tough");
    assert_eq!(status["attempt"], 2, "{status}");
    assert!(
        status["warnings"][0].as_str().unwrap().starts_with("attempt 1 was lost: RunnerKilled"),
        "{status}"
    );
}

#[test]
fn a_build_that_is_deleted_and_applied_again_at_once_is_built() {
    let namespace = Namespace::new("again");
    let manifest = build("phoenix", "FROM busybox:1.37\\nRUN true", "");
    namespace.apply(&manifest);
    namespace.succeeded("phoenix");
    namespace.kubectl(&["delete", "ocib", "phoenix", "--timeout=30s"]).ok();
    namespace.apply(&manifest);
    let status = namespace.succeeded("phoenix");
    assert_eq!(status["attempt"], 1, "{status}");
    namespace.check_tar(&status);
}
