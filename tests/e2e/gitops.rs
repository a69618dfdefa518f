//! What GitOps needs: an unchanged manifest is never built twice, a changed one is, and another build can be asked for.

use crate::cluster::Namespace;

fn build(words: &str) -> String {
    format!(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {{ name: app }}
spec:
  source: {{ files: {{ Dockerfile: \"FROM busybox:1.37\\nRUN echo {words} > /words\\n\" }} }}
  context: .
  imageName: app
"
    )
}

#[test]
fn one_generation_is_one_build_and_rebuild_asks_for_another() {
    let namespace = Namespace::new("gitops");
    namespace.apply(&build("one"));
    let first = namespace.succeeded("app");
    assert_eq!((&first["observedGeneration"], &first["attempt"]), (&1.into(), &1.into()));

    namespace.apply(&build("one"));
    namespace.kubectl(&["label", "ocib", "app", "unrelated=change"]).ok();
    namespace.kubectl(&["annotate", "ocib", "app", "unrelated=change"]).ok();
    assert_eq!(namespace.get("ocib/app")["status"], first, "an unchanged manifest changes nothing");
    assert_eq!(namespace.pods_of("app"), ["app-g1-a1"]);

    namespace.apply(&build("two"));
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.observedGeneration}=2",
            "ocib/app",
            "--timeout=60s",
        ])
        .ok();
    namespace.kubectl(&["wait", "--for=condition=Ready", "ocib/app", "--timeout=240s"]).ok();
    let second = namespace.succeeded("app");
    assert_ne!(second["image"]["digest"], first["image"]["digest"]);
    assert_eq!(
        namespace.pods_of("app"),
        ["app-g2-a1"],
        "the pods of older generations are cleaned up"
    );
    namespace.check_tar(&second);

    namespace.kubectl(&["annotate", "ocib", "app", "ocibuild.dev/rebuild=please"]).ok();
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.observedRebuild}=please",
            "ocib/app",
            "--timeout=60s",
        ])
        .ok();
    namespace.kubectl(&["wait", "--for=condition=Ready", "ocib/app", "--timeout=240s"]).ok();
    let third = namespace.succeeded("app");
    assert_eq!((&third["observedGeneration"], &third["attempt"]), (&2.into(), &2.into()));
    assert_eq!(namespace.pods_of("app"), ["app-g2-a2"]);
}

#[test]
fn a_change_while_a_build_runs_stops_it_and_builds_the_new_one() {
    let namespace = Namespace::new("change");
    namespace.apply(&build("old; sleep 600"));
    namespace
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "ocib/app", "--timeout=240s"])
        .ok();
    namespace.apply(&build("new"));
    namespace
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.observedGeneration}=2",
            "ocib/app",
            "--timeout=60s",
        ])
        .ok();
    let status = namespace.succeeded("app");
    assert_eq!(status["observedGeneration"], 2);
    assert_eq!(namespace.pods_of("app"), ["app-g2-a1"]);
}

#[test]
fn a_failed_generation_is_mended_by_a_changed_manifest_and_keeps_the_last_success() {
    let namespace = Namespace::new("mend");
    namespace.apply(&build("good"));
    let good = namespace.succeeded("app");
    namespace.apply(&build("bad; false"));
    namespace.kubectl(&["wait", "--for=condition=Stalled", "ocib/app", "--timeout=240s"]).ok();
    let bad = namespace.failed("app", "StepFailed");
    assert_eq!(bad["lastSuccess"]["image"]["digest"], good["image"]["digest"]);
    namespace.apply(&build("good again"));
    namespace.kubectl(&["wait", "--for=condition=Ready", "ocib/app", "--timeout=240s"]).ok();
    assert_eq!(namespace.succeeded("app")["observedGeneration"], 3);
}

/// Not tested by the peer: abort. Here a build is deleted; the task's own abort is a test of the task.
#[test]
fn a_deleted_build_takes_its_pods_and_its_claim_with_it() {
    let namespace = Namespace::new("delete");
    namespace.apply(&build("x; sleep 600"));
    namespace
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "ocib/app", "--timeout=240s"])
        .ok();
    namespace.kubectl(&["delete", "ocib", "app", "--timeout=30s"]).ok();
    namespace
        .kubectl(&["wait", "--for=delete", "pod/app-g1-a1", "pvc/app-output", "--timeout=60s"])
        .ok();
}
