//! A build that is held back, given up or cleaned away.

use crate::cluster::Namespace;

fn build(command: &str, more: &str) -> String {
    format!(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: app }}
spec:
  source: {{ files: {{ Dockerfile: \"FROM busybox:1.37\\nRUN {command}\\n\" }} }}
  context: .
  imageName: app
  {more}
"
    )
}

#[test]
fn a_suspended_build_makes_no_pod_and_is_built_when_it_is_released() {
    let namespace = Namespace::new("suspend");
    namespace.apply(&build("echo one", "suspend: true"));
    namespace
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Suspended", "ocib/app", "--timeout=60s"])
        .ok();
    assert_eq!(namespace.pods_of("app"), Vec::<String>::new());
    namespace
        .kubectl(&["patch", "ocib", "app", "--type=merge", "-p", "{\"spec\":{\"suspend\":false}}"])
        .ok();
    assert_eq!(namespace.succeeded("app")["observedGeneration"], 2);
}

#[test]
fn suspending_stops_a_build_that_runs() {
    let namespace = Namespace::new("suspend-running");
    namespace.apply(&build("sleep 3600", ""));
    namespace
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "ocib/app", "--timeout=240s"])
        .ok();
    namespace
        .kubectl(&["patch", "ocib", "app", "--type=merge", "-p", "{\"spec\":{\"suspend\":true}}"])
        .ok();
    namespace.kubectl(&["wait", "--for=delete", "pod/app-g1-a1", "--timeout=60s"]).ok();
    namespace
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Suspended", "ocib/app", "--timeout=60s"])
        .ok();
}

#[test]
fn a_build_whose_lease_nobody_renews_is_cancelled_and_one_that_is_renewed_goes_on() {
    let namespace = Namespace::new("lease");
    namespace.apply(&build("sleep 3600", "lease: 10s").replace("name: app }", "name: forgotten }"));
    namespace.apply(&build("sleep 20", "lease: 10s").replace("name: app }", "name: renewed }"));
    let ended = || !namespace.get("ocib/renewed")["status"]["completionTime"].is_null();
    for number in 0.. {
        namespace
            .kubectl(&[
                "annotate",
                "--overwrite",
                "ocib/renewed",
                &format!("ocibuild.dev/renewed={number}"),
            ])
            .ok();
        if ended() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    namespace.succeeded("renewed");
    let failure = namespace.failed("forgotten", "Cancelled")["failure"].clone();
    assert!(failure["message"].as_str().unwrap().contains("nobody has renewed"), "{failure}");
    namespace.kubectl(&["wait", "--for=delete", "pod/forgotten-g1-a1", "--timeout=60s"]).ok();
}

#[test]
fn a_finished_build_goes_when_its_time_is_over_with_what_was_made_for_it() {
    let namespace = Namespace::new("ttl");
    namespace.apply(&build("echo one", "ttlAfterFinished: 3s"));
    namespace.succeeded("app");
    namespace.kubectl(&["wait", "--for=delete", "ocib/app", "--timeout=60s"]).ok();
    namespace.kubectl(&["wait", "--for=delete", "pvc/app-output", "--timeout=60s"]).ok();
}

/// No pod of the build is left within the ten seconds that a user is promised.
fn pods_are_gone_within_ten_seconds(namespace: &Namespace, build: &str) {
    let of_build = format!("ocibuild.dev/build={build}");
    let gone =
        namespace.kubectl(&["wait", "--for=delete", "pods", "-l", &of_build, "--timeout=10s"]);
    assert!(
        gone.is_success,
        "{build}: {}\n{}",
        gone.stderr,
        namespace.kubectl(&["get", "pods", "-o", "wide"]).stdout
    );
}

#[test]
fn a_build_that_runs_ends_at_once_when_it_is_cancelled_suspended_changed_or_deleted() {
    let namespace = Namespace::new("stop");
    let sleeps = |name: &str| {
        build("sleep 3600", "").replace("{ name: app }", &format!("{{ name: {name} }}"))
    };
    let running = |name: &str| {
        namespace.apply(&sleeps(name));
        namespace
            .kubectl(&[
                "wait",
                "--for=jsonpath={.status.phase}=Running",
                &format!("ocib/{name}"),
                "--timeout=240s",
            ])
            .ok();
    };

    running("cancelled");
    namespace.kubectl(&["annotate", "ocib", "cancelled", "ocibuild.dev/cancel=please"]).ok();
    namespace.failed("cancelled", "Cancelled");
    pods_are_gone_within_ten_seconds(&namespace, "cancelled");
    namespace.event("cancelled", "Cancelled");
    // The annotation stays, and cancels no other build.
    namespace.apply(&build("true", "").replace("{ name: app }", "{ name: cancelled }"));
    namespace.kubectl(&["wait", "--for=condition=Ready", "ocib/cancelled", "--timeout=240s"]).ok();

    running("suspended");
    namespace
        .kubectl(&[
            "patch",
            "ocib",
            "suspended",
            "--type=merge",
            "-p",
            r#"{"spec":{"suspend":true}}"#,
        ])
        .ok();
    pods_are_gone_within_ten_seconds(&namespace, "suspended");

    for cascade in ["--cascade=background", "--cascade=foreground"] {
        running("deleted");
        namespace.kubectl(&["delete", "ocib", "deleted", cascade, "--timeout=20s"]).ok();
        pods_are_gone_within_ten_seconds(&namespace, "deleted");
        namespace.kubectl(&["wait", "--for=delete", "pvc/deleted-output", "--timeout=30s"]).ok();
    }

    running("changed");
    namespace.apply(&build("true", "").replace("{ name: app }", "{ name: changed }"));
    namespace.kubectl(&["wait", "--for=delete", "pod/changed-g1-a1", "--timeout=10s"]).ok();
    namespace.kubectl(&["wait", "--for=condition=Ready", "ocib/changed", "--timeout=240s"]).ok();
    assert_eq!(namespace.pods_of("changed"), ["changed-g2-a1"]);
}

#[test]
fn a_quota_queues_builds_instead_of_failing_them() {
    let namespace = Namespace::new("quota");
    namespace.apply(
        "{apiVersion: v1, kind: ResourceQuota, metadata: {name: pods}, spec: {hard: {pods: 1}}}",
    );
    let named =
        |name: &str| build("sleep 3", "").replace("{ name: app }", &format!("{{ name: {name} }}"));
    namespace.apply(&named("first"));
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Running",
            "ocib/first",
            "--timeout=240s",
        ])
        .ok();
    namespace.apply(&named("second"));
    namespace
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Queued", "ocib/second", "--timeout=30s"])
        .ok();
    let queued = namespace.get("ocib/second")["status"].clone();
    assert_eq!(queued["conditions"][0]["reason"], "QuotaExceeded", "{queued}");
    assert!(
        queued["conditions"][0]["message"].as_str().unwrap().contains("exceeded quota: pods"),
        "{queued}"
    );
    namespace.event("second", "QuotaExceeded");
    namespace.succeeded("first");
    let status = namespace.succeeded("second");
    assert_eq!(status["attempt"], 1, "it has waited, and was not tried again: {status}");
    assert!(status["timings"]["queued"].is_string(), "{status}");
}

#[test]
fn a_build_that_never_fits_its_quota_lets_smaller_ones_pass_and_says_so_once() {
    let namespace = Namespace::new("quota-large");
    namespace.apply(
        "
apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec: {hard: {pods: 1, limits.ephemeral-storage: 8Gi}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: default}
spec: {limits: [{type: Container, default: {ephemeral-storage: 2Gi}, defaultRequest: {ephemeral-storage: 10Mi}}]}
",
    );
    let named = |name: &str, more: &str| {
        build("sleep 2", more).replace("{ name: app }", &format!("{{ name: {name} }}"))
    };
    let large =
        "pod: { resources: { limits: { ephemeral-storage: 64Gi } } }\n  deadlines: { queue: 45s }";
    namespace.apply(&named("large", large));
    namespace.event("large", "QuotaExceeded");
    for name in ["one", "two", "three"] {
        namespace.apply(&named(name, ""));
    }
    for name in ["one", "two", "three"] {
        namespace.succeeded(name);
    }
    let failure = namespace.failed("large", "Timeout")["failure"].clone();
    assert!(failure["message"].as_str().unwrap().contains("deadlines.queue"), "{failure}");
    let told = "involvedObject.name=large,reason=QuotaExceeded";
    let told = namespace.kubectl(&["get", "events", "--field-selector", told, "-o", "name"]).ok();
    assert_eq!(told.lines().count(), 1, "it was refused each few seconds: {told}");
}

/// What Kueue does where it is installed: its webhook gives the pod a gate, and takes it away when there is room.
#[test]
fn a_pod_that_a_scheduling_gate_holds_back_is_left_alone_until_it_is_lifted() {
    let namespace = Namespace::new("gate");
    let name = &namespace.name;
    namespace.apply(&format!(
        "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{ name: {name}, labels: {{ ocibuild.dev/test: 'true' }} }}
spec:
  matchConstraints: {{ resourceRules: [{{ apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods] }}] }}
  matchConditions: [{{ name: queued, expression: \"has(object.metadata.labels) && 'kueue.x-k8s.io/queue-name' in object.metadata.labels\" }}]
  failurePolicy: Fail
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {{ expression: \"Object{{spec: Object.spec{{schedulingGates: [Object.spec.schedulingGates{{name: 'kueue.x-k8s.io/admission'}}]}}}}\" }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{ name: {name}, labels: {{ ocibuild.dev/test: 'true' }} }}
spec:
  policyName: {name}
  matchResources: {{ namespaceSelector: {{ matchLabels: {{ kubernetes.io/metadata.name: {name} }} }} }}
"
    ));
    // A policy counts from a moment after it was made: this asks for it until it does.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let probe = "{apiVersion: v1, kind: Pod, metadata: {name: probe, labels: {kueue.x-k8s.io/queue-name: team}}, spec: {containers: [{name: x, image: busybox:1.37}]}}";
    loop {
        let gates = [
            "create",
            "--dry-run=server",
            "-o",
            "jsonpath={.spec.schedulingGates[*].name}",
            "-f",
            "-",
        ];
        let made = crate::cluster::run(
            &crate::cluster::kubectl_binary(),
            &[&["--namespace", name.as_str()], &gates[..]].concat(),
            probe.as_bytes(),
        );
        if made.stdout == "kueue.x-k8s.io/admission" {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "the policy does not work: {}{}",
            made.stdout,
            made.stderr
        );
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let labelled = build("true", "")
        .replace("{ name: app }", "{ name: app, labels: { kueue.x-k8s.io/queue-name: team } }");
    namespace.apply(&labelled);
    namespace
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Queued", "ocib/app", "--timeout=60s"])
        .ok();
    let queued = namespace.get("ocib/app")["status"].clone();
    assert_eq!(queued["conditions"][0]["reason"], "Gated", "{queued}");
    let lift = r#"[{"op":"remove","path":"/spec/schedulingGates"}]"#;
    namespace.kubectl(&["patch", "pod", "app-g1-a1", "--type=json", "-p", lift]).ok();
    let status = namespace.succeeded("app");
    assert_eq!((&status["attempt"], namespace.pods_of("app").len()), (&1.into(), 1), "{status}");
    crate::cluster::kubectl(&[
        "delete",
        "mutatingadmissionpolicies,mutatingadmissionpolicybindings",
        name,
    ])
    .ok();
}
