//! The operator is killed, at every moment of a build. Each test scales the operator of the cluster to zero and runs the same
//! binary here, with the chart's own service account and configuration, where it can be killed for real. They run one at a
//! time, after the other tests: `dev/test` sees to that. So does what would harm them: a node that comes and goes.

mod adapter;
#[path = "../e2e/cluster.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
mod cluster;
mod configuration;
mod nodes;
mod observing;
mod operator;
#[path = "../e2e/secure_registry.rs"]
mod secure_registry;

use std::time::{Duration, Instant};

use cluster::Namespace;
use operator::Deployed;

fn build(name: &str, seconds: u32) -> String {
    format!(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: {name} }}
spec:
  source: {{ files: {{ Dockerfile: \"FROM busybox:1.37\\nRUN sleep {seconds}\\n\" }} }}
  context: .
  imageName: {name}
"
    )
}

/// Built once, in one attempt, by one pod.
fn built_once(namespace: &Namespace, name: &str) {
    let status = namespace.succeeded(name);
    assert_eq!(status["attempt"], 1, "{name}: {status}");
    assert_eq!(namespace.pods_of(name), [format!("{name}-g1-a1")]);
    let uid = namespace.get(&format!("pod/{name}-g1-a1"))["metadata"]["uid"].clone();
    assert_eq!(status["pod"]["uid"], uid);
    // The scheduler writes its events one after the other, some of them long after the fact.
    namespace.event(&format!("{name}-g1-a1"), "Scheduled");
    let field = format!("involvedObject.name={name}-g1-a1,reason=Scheduled");
    let uids = "jsonpath={range .items[*]}{.involvedObject.uid}{\"\\n\"}{end}";
    let scheduled =
        namespace.kubectl(&["get", "events", "--field-selector", &field, "-o", uids]).ok();
    assert_eq!(
        scheduled.lines().collect::<Vec<_>>(),
        [uid.as_str().unwrap()],
        "one pod of that name was ever made"
    );
}

#[test]
fn an_operator_that_is_killed_at_any_moment_builds_each_generation_once() {
    let deployed = Deployed::scaled_to_zero();
    let namespace = Namespace::new("kill");

    // Before it has seen anything.
    namespace.apply(&build("before", 0));
    // Between writing the attempt down and making its pod.
    namespace.apply(&build("between", 0));
    let status = r#"{"status":{"observedGeneration":1,"phase":"Pending","attempt":1,"firstAttempt":1,"startTime":"2026-01-01T00:00:00.000000Z"}}"#;
    namespace
        .kubectl(&[
            "patch",
            "ocib",
            "between",
            "--subresource=status",
            "--type=merge",
            "-p",
            status,
        ])
        .ok();
    let operator = deployed.start("one");
    for name in ["before", "between"] {
        built_once(&namespace, name);
    }

    // While the build runs; it ends while nobody watches.
    namespace.apply(&build("running", 3));
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Running",
            "ocib/running",
            "--timeout=240s",
        ])
        .ok();
    operator.kill();
    let ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}=0";
    namespace.kubectl(&["wait", ended, "pod/running-g1-a1", "--timeout=60s"]).ok();
    assert_eq!(
        namespace.get("ocib/running")["status"]["phase"],
        "Running",
        "nobody has said otherwise yet"
    );
    let operator = deployed.start("two");
    built_once(&namespace, "running");
    operator.kill();
}

#[test]
fn an_operator_that_is_killed_again_and_again_loses_nothing() {
    let deployed = Deployed::scaled_to_zero();
    let namespace = Namespace::new("kills");
    let names: Vec<String> = (0..8).map(|number| format!("b{number}")).collect();
    let mut operator = deployed.start("again");
    for (number, name) in (0u64..).zip(&names) {
        namespace.apply(&build(name, 1));
        // The moment of the kill, not a wait: it wanders through the life of a build.
        let moment = Instant::now() + Duration::from_millis(number * 290);
        while Instant::now() < moment {
            std::thread::yield_now();
        }
        operator.kill();
        operator = deployed.start("again");
    }
    for name in &names {
        built_once(&namespace, name);
    }
}

#[test]
fn two_operators_that_both_believe_to_lead_still_build_once() {
    let deployed = Deployed::scaled_to_zero();
    let namespace = Namespace::new("split");
    let other = Namespace::new("split-lease");
    let first = deployed.start_with_lease("first", &namespace.name);
    let second = deployed.start_with_lease("second", &other.name);
    first.wait_until_it_leads();
    second.wait_until_it_leads();
    let names: Vec<String> = (0..6).map(|number| format!("b{number}")).collect();
    for name in &names {
        namespace.apply(&build(name, 1));
    }
    for name in &names {
        built_once(&namespace, name);
    }
    first.kill();
    second.kill();
}

#[test]
fn another_replica_takes_over_from_a_leader_that_was_killed() {
    let deployed = Deployed::scaled_to_zero();
    let namespace = Namespace::new("handover");
    let leader = deployed.start_with_lease("leader", &namespace.name);
    leader.wait_until_it_leads();
    let standby = deployed.start_with_lease("standby", &namespace.name);
    namespace.apply(&build("handed-over", 2));
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Running",
            "ocib/handed-over",
            "--timeout=240s",
        ])
        .ok();
    leader.kill();
    built_once(&namespace, "handed-over");
    assert!(standby.leads());
}

#[test]
fn builds_wait_for_their_turn_and_a_killed_operator_knows_whose_it_is() {
    let deployed = Deployed::scaled_to_zero();
    deployed.configure("queue", serde_json::json!({ "maxRunning": 1 }));
    let (many, few) = (Namespace::new("queue-many"), Namespace::new("queue-few"));
    // Two watches that share one queue; and nothing that another test has left counts.
    deployed.configure("watchNamespaces", serde_json::json!([many.name, few.name]));
    let class = format!("urgent-{}", std::process::id());
    cluster::kubectl(&["create", "priorityclass", &class, "--value=1000"]).ok();
    let operator = deployed.start("one");
    let wait = |namespace: &Namespace, name: &str, phase: &str| {
        let phase = format!("--for=jsonpath={{.status.phase}}={phase}");
        namespace.kubectl(&["wait", &phase, &format!("ocib/{name}"), "--timeout=240s"]).ok();
    };
    many.apply(&build("first", 8));
    wait(&many, "first", "Running");
    for (namespace, name, more) in
        [(&many, "plain", ""), (&many, "urgent", class.as_str()), (&few, "other", "")]
    {
        let pod = if more.is_empty() {
            String::new()
        } else {
            format!("  pod: {{ priorityClassName: {more} }}\n")
        };
        namespace.apply(&(build(name, 2) + &pod));
        wait(namespace, name, "Queued");
    }
    assert_eq!(
        few.get("ocib/other")["status"]["queue"]["position"],
        1,
        "its namespace runs nothing yet"
    );
    assert_eq!(
        many.get("ocib/urgent")["status"]["queue"]["position"],
        1,
        "before the one that came earlier"
    );
    operator.kill();
    let operator = deployed.start("two");

    let ended = [(&many, "first"), (&few, "other"), (&many, "urgent"), (&many, "plain")].map(
        |(namespace, name)| {
            let status = namespace.succeeded(name);
            assert_eq!(status["attempt"], 1, "{name}: {status}");
            assert_eq!(namespace.pods_of(name), [format!("{name}-g1-a1")]);
            ["startTime", "completionTime"].map(|field| status[field].as_str().unwrap().to_owned())
        },
    );
    for (number, [(_, ended), (started, _)]) in ended
        .windows(2)
        .map(|pair| [&pair[0], &pair[1]].map(|[start, end]| (start, end)))
        .enumerate()
    {
        assert!(
            ended <= started,
            "turn {} began at {started}, before the last one ended at {ended}",
            number + 2
        );
    }
    // Whose turn has just come may be gone before it takes it.
    many.apply(&build("last", 30));
    wait(&many, "last", "Running");
    for (namespace, name) in [(&many, "deleted"), (&few, "next")] {
        namespace.apply(&build(name, 1));
        wait(namespace, name, "Queued");
    }
    many.kubectl(&["delete", "ocib", "last", "deleted"]).ok();
    few.succeeded("next");
    drop(operator);
    cluster::kubectl(&["delete", "priorityclass", &class]).ok();
}
