//! `ocibuild run -f` on this machine, with a real BuildKit from PATH: the same runner as in the pod, without a cluster.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::Path,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::OnceLock,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

const OCIBUILD: &str = env!("CARGO_BIN_EXE_ocibuild");

/// A BuildKit daemon of the tests' own. It is killed when its standard input closes: at the latest when the tests end.
struct Daemon {
    child: Child,
    input: Option<ChildStdin>,
    address: String,
    _folder: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/sock", folder.path().display());
        let mut child = Command::new("sh")
            .args([
                "-c",
                "buildkitd \"$@\" & read _; kill -9 $!; wait; rm -rf \"$0\"",
                folder.path().to_str().unwrap(),
            ])
            .arg(format!("--addr={address}"))
            .arg(format!("--root={}", folder.path().join("state").display()))
            .args(["--containerd-worker=false", "--oci-worker-net=host"])
            .stdin(Stdio::piped())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        Self { child, input, address, _folder: folder }
    }

    fn kill(&mut self) {
        self.input = None;
        self.child.wait().unwrap();
    }
}

/// One daemon serves all tests that do not kill theirs.
fn shared_address() -> &'static str {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    &DAEMON.get_or_init(Daemon::start).address
}

fn manifest(folder: &Path, source: &str, more: &str) -> std::path::PathBuf {
    let file = folder.join("build.yaml");
    let text = format!(
        "apiVersion: ocibuild.dev/v1alpha1\nkind: OciBuild\nmetadata: {{ name: app }}\nspec:\n  source: {source}\n  context: .\n  imageName: app\n  {more}\n"
    );
    fs::write(&file, text).unwrap();
    file
}

/// A context with a static shell, so that no registry is needed.
fn context(dockerfile: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy("/bin/busybox", folder.path().join("busybox"))
        .expect("a static busybox at /bin/busybox (Debian's busybox-static)");
    let base =
        "FROM scratch\nCOPY busybox /bin/busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n";
    fs::write(folder.path().join("Dockerfile"), format!("{base}{dockerfile}")).unwrap();
    folder
}

fn command(address: &str, manifest: &Path, source: Option<&Path>, output: &Path) -> Command {
    let mut command = Command::new(OCIBUILD);
    command
        .env("BUILDKIT_HOST", address)
        .arg("run")
        .arg("-f")
        .arg(manifest)
        .arg("--output")
        .arg(output);
    if let Some(source) = source {
        command.arg("--source").arg(source);
    }
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Files of an output folder.
fn left(output: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(output)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Builds, with a source folder, what is expected to fail.
fn failing(source: &Path, more: &str) -> String {
    let work = tempfile::tempdir().unwrap();
    let file = manifest(work.path(), "{ persistentVolumeClaim: { claimName: any } }", more);
    let output = work.path().join("output");
    let ended = command(shared_address(), &file, Some(source), &output).output().unwrap();
    assert!(!ended.status.success(), "{}", text(&ended));
    assert_eq!(left(&output), Vec::<String>::new(), "nothing partial is left");
    text(&ended)
}

#[test]
fn a_manifest_is_built_on_this_machine_and_its_digest_and_tar_are_printed() {
    let source = context("RUN echo hello > /greeting\nLABEL a=b\n");
    let work = tempfile::tempdir().unwrap();
    let file = manifest(
        work.path(),
        "{ persistentVolumeClaim: { claimName: any } }",
        "labels: { team: blue }",
    );
    let output = work.path().join("output");
    let built = command(shared_address(), &file, Some(source.path()), &output).output().unwrap();
    assert!(built.status.success(), "{}", text(&built));
    assert_eq!(left(&output), ["digest", "image.tar", "result.json"]);
    let result: serde_json::Value =
        serde_json::from_slice(&fs::read(output.join("result.json")).unwrap()).unwrap();
    let digest = result["outcome"]["succeeded"]["digest"].as_str().unwrap();
    assert!(text(&built).contains(&format!("digest  {digest}")), "{}", text(&built));
    assert!(
        text(&built).contains(&format!("tar     {}", output.join("image.tar").display())),
        "{}",
        text(&built)
    );

    let archive = format!("oci-archive:{}", output.join("image.tar").display());
    let inspected = Command::new("skopeo")
        .args(["inspect", "--format", "{{.Digest}} {{.Labels.team}}", &archive])
        .output()
        .unwrap();
    assert_eq!(text(&inspected).trim(), format!("{digest} blue"));
    let config = fs::read_to_string(output.join("digest")).unwrap();
    assert_eq!(config, result["outcome"]["succeeded"]["configDigest"].as_str().unwrap());
}

/// Only a daemon that outlives a build has anything in its cache.
#[test]
fn no_cache_builds_every_step_anew() {
    let source = context("RUN cat /proc/sys/kernel/random/uuid > /identity\n");
    let work = tempfile::tempdir().unwrap();
    let built = |name: &str, more: &str| {
        let file = manifest(work.path(), "{ persistentVolumeClaim: { claimName: any } }", more);
        let output = work.path().join(name);
        let built =
            command(shared_address(), &file, Some(source.path()), &output).output().unwrap();
        assert!(built.status.success(), "{}", text(&built));
        fs::read_to_string(output.join("digest")).unwrap()
    };
    let first = built("first", "");
    assert_eq!(built("second", ""), first, "an earlier build's result serves");
    assert_ne!(built("third", "noCache: true"), first);
}

#[test]
fn without_buildkit_host_a_daemon_is_started_and_ends_with_the_build() {
    let work = tempfile::tempdir().unwrap();
    let file = manifest(
        work.path(),
        "{ files: { Dockerfile: \"FROM scratch\\nCOPY Dockerfile /\" } }",
        "",
    );
    let output = work.path().join("output");
    let temporary = work.path().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let built = command("", &file, None, &output).env("TMPDIR", &temporary).output().unwrap();
    assert!(built.status.success(), "{}", text(&built));
    assert_eq!(left(&output), ["digest", "image.tar", "result.json"]);
    assert_eq!(left(&temporary), Vec::<String>::new());
    let daemons = Command::new("pgrep").args(["-f", temporary.to_str().unwrap()]).output().unwrap();
    assert_eq!(text(&daemons), "", "the daemon has ended");
}

#[test]
fn a_failing_step_is_told_with_its_exit_code_and_its_last_lines() {
    let source = context("RUN echo first\nRUN echo the last words; exit 42\n");
    let told = failing(source.path(), "");
    for part in [
        "failed  StepFailed",
        "exit code: 42",
        "step    [3/3] RUN echo the last words; exit 42",
        "| the last words",
        "hint",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
}

#[test]
fn what_is_missing_in_the_source_is_named() {
    let source = context("");
    assert!(
        failing(source.path(), "dockerfile: build/Containerfile")
            .contains("failed  DockerfileMissing")
    );
    symlink("/", source.path().join("everything")).unwrap();
    let told = failing(source.path(), "dockerfile: everything/etc/hostname");
    assert!(
        told.contains("failed  DockerfileMissing"),
        "a link out of the source leads nowhere: {told}"
    );
    fs::write(source.path().join("Dockerfile"), "FROM scratch\nRUNN x\n").unwrap();
    assert!(failing(source.path(), "").contains("failed  DockerfileInvalid"));
    fs::write(source.path().join("Dockerfile"), "FROM scratch\nCOPY not-there /\n").unwrap();
    assert!(failing(source.path(), "").contains("failed  FileNotFound"));
}

#[test]
fn a_manifest_that_the_api_server_would_refuse_is_refused_here_in_the_same_words() {
    let work = tempfile::tempdir().unwrap();
    let file = manifest(work.path(), "{ files: { Dockerfile: FROM scratch } }", "push: true");
    let refused = command(shared_address(), &file, None, work.path()).output().unwrap();
    assert!(!refused.status.success());
    assert!(text(&refused).contains("registry: required with push: true"), "{}", text(&refused));
    let file =
        manifest(work.path(), "{ files: { Dockerfile: FROM scratch } }", "buildArg: { A: b }");
    let refused = command(shared_address(), &file, None, work.path()).output().unwrap();
    assert!(!refused.status.success());
    assert!(text(&refused).contains("unknown fields: spec.buildArg"), "{}", text(&refused));
}

/// Starts a build whose step sleeps, and returns once that step runs; the other value is what it prints afterwards.
fn sleeping(address: &str, work: &Path, source: &Path) -> (Child, JoinHandle<String>) {
    let file = manifest(work, "{ persistentVolumeClaim: { claimName: any } }", "");
    let mut child = command(address, &file, Some(source), &work.join("output"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(
        lines.any(|line| line.ends_with("asleep now") && !line.contains("RUN")),
        "the step never ran"
    );
    (child, std::thread::spawn(move || lines.collect::<Vec<_>>().join("\n")))
}

#[test]
fn a_build_that_is_told_to_stop_ends_within_five_seconds_and_leaves_nothing() {
    let (work, source) =
        (tempfile::tempdir().unwrap(), context("RUN echo asleep now; sleep 600\n"));
    let (mut child, printed) = sleeping(shared_address(), work.path(), source.path());
    let told = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(told.elapsed() < Duration::from_secs(5), "it took {:?}", told.elapsed());
    let printed = printed.join().unwrap();
    assert!(
        printed.contains(
            "failed  Cancelled: the build was told to stop in step [2/2] RUN echo asleep now"
        ),
        "{printed}"
    );
    assert_eq!(left(&work.path().join("output")), Vec::<String>::new());
}

#[test]
fn a_build_that_takes_too_long_is_stopped() {
    let (work, source) = (tempfile::tempdir().unwrap(), context("RUN sleep 600\n"));
    let file =
        manifest(work.path(), "{ persistentVolumeClaim: { claimName: any } }", "timeout: 15s");
    let ended = command(shared_address(), &file, Some(source.path()), &work.path().join("output"))
        .output()
        .unwrap();
    let told = text(&ended);
    assert!(
        told.contains("failed  Timeout: the build took longer than its timeout of 15s in step [2/2] RUN sleep 600"),
        "{told}"
    );
}

#[test]
fn each_part_has_a_deadline_of_its_own() {
    let (work, source) =
        (tempfile::tempdir().unwrap(), context("RUN echo asleep now; sleep 600\n"));
    let file = manifest(
        work.path(),
        "{ persistentVolumeClaim: { claimName: any } }",
        "deadlines: { build: 5s }",
    );
    let ended = command(shared_address(), &file, Some(source.path()), &work.path().join("output"))
        .output()
        .unwrap();
    let told = text(&ended);
    for part in [
        "failed  Timeout: ",
        "took longer than 5s (deadlines.build); it waited for [2/2] RUN echo asleep now",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
}

/// On a file system of 4 MiB, in a mount namespace of the test's own.
#[test]
fn a_volume_that_is_full_is_named_and_left_clean() {
    let (work, source) =
        (tempfile::tempdir().unwrap(), context("RUN dd if=/dev/urandom of=/big bs=1M count=16\n"));
    let file = manifest(work.path(), "{ persistentVolumeClaim: { claimName: any } }", "");
    let output = work.path().join("output");
    fs::create_dir(&output).unwrap();
    let script = r#"mount -t tmpfs -o size=4m none "$1" && "$0" run -f "$2" --output "$1" --source "$3"; ls -A "$1""#;
    let mut unshared = Command::new("unshare");
    unshared
        .args(["--map-root-user", "--mount", "sh", "-c", script, OCIBUILD])
        .arg(&output)
        .arg(&file)
        .arg(source.path());
    let ended = unshared.env("BUILDKIT_HOST", shared_address()).output().unwrap();
    let told = text(&ended);
    assert!(
        told.contains("failed  StorageFull: ") && told.contains("No space left on device"),
        "{told}"
    );
    assert!(told.trim_end().ends_with(FULL_HINT), "nothing partial is left: {told}");
}

/// The last line of what is printed about a full volume.
const FULL_HINT: &str = "Give the output claim or the build's ephemeral storage more room.";

#[test]
fn a_daemon_that_dies_is_named() {
    let (work, source) =
        (tempfile::tempdir().unwrap(), context("RUN echo asleep now; sleep 601\n"));
    let mut daemon = Daemon::start();
    let (mut child, printed) = sleeping(&daemon.address, work.path(), source.path());
    daemon.kill();
    assert!(!child.wait().unwrap().success());
    let printed = printed.join().unwrap();
    assert!(printed.contains("failed  DaemonDied"), "{printed}");
    assert_eq!(left(&work.path().join("output")), Vec::<String>::new());
    // The step outlives its daemon.
    let _ = Command::new("pkill").args(["-9", "-f", "sleep 601"]).status();
}
