//! The API server is restarted while a task sends its source, builds, and fetches its image: the task goes on.

#[path = "../e2e/task/folder.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
mod folder;
#[path = "../e2e/task/proxy.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
mod proxy;

use std::time::Duration;

use folder::Task;
use proxy::Proxy;

use crate::cluster::{Namespace, run};

/// `OCIBUILD_RESTART_API_SERVER` names the command; the development cluster has one, and can be without for some seconds.
fn restart_api_server(seconds: u32) {
    let command = std::env::var("OCIBUILD_RESTART_API_SERVER")
        .unwrap_or_else(|_| format!("dev/cluster kill kube-apiserver && sleep {seconds} && dev/cluster revive kube-apiserver"));
    run("sh", &["-c", &command], b"").ok();
}

#[test]
fn a_lease_that_nobody_could_renew_cancels_nobodys_build() {
    let namespace = Namespace::new("restart-lease");
    let dockerfile = "FROM busybox:1.37\nRUN echo it-begins; sleep 25\n";
    let task = Task::new(&namespace, &[("Dockerfile", dockerfile)], &["image"]);
    let mut running = task.start(&[("OCIBUILD_LEASE", "10s")]);
    running.until("it-begins");
    restart_api_server(12);
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(task.names("image"), ["digest", "image.tar"]);
}

#[test]
fn a_task_goes_on_over_restarts_of_the_api_server() {
    let namespace = Namespace::new("restart-task");
    // So slow that there is time to restart something.
    let proxy = Proxy::new(u64::MAX, Duration::from_millis(15));
    let dockerfile = "FROM busybox:1.37
RUN for number in $(seq -w 1 40); do echo line-$number-of-the-build; sleep 0.3; done
COPY noise /
";
    let task = Task::new(&namespace, &[("Dockerfile", dockerfile)], &["image"])
        .through(proxy.kubeconfig.clone());
    task.write_noise("noise", 24);
    let mut running = task.start(&[("OUTPUT_OCI", "true")]);
    running.until_it("the upload", |_| proxy.passed() > 6 << 20);
    restart_api_server(0);
    running.until("line-05-of-the-build");
    restart_api_server(0);
    running.until("line-40-of-the-build");
    let built = proxy.passed();
    running.until_it("the download", |_| proxy.passed() > built + (6 << 20));
    restart_api_server(0);

    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(task.names("image"), ["digest", "image", "image.tar"]);
    run(
        "skopeo",
        &["inspect", &format!("oci-archive:{}", task.path("image/image.tar").display())],
        b"",
    )
    .ok();
    let lines: Vec<_> = ended
        .log
        .lines()
        .filter_map(|line| line.split("line-").nth(1)?.strip_suffix("-of-the-build"))
        .collect();
    let lines: Vec<_> = lines.into_iter().filter(|number| number.len() == 2).collect();
    let expected: Vec<_> = (1..=40).map(|number| format!("{number:02}")).collect();
    assert_eq!(lines, expected, "each line once, in its order: {}", ended.log);
}
