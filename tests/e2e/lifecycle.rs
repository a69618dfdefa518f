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
    namespace.kubectl(&["wait", "--for=jsonpath={.status.phase}=Suspended", "ocib/app", "--timeout=60s"]).ok();
    assert_eq!(namespace.pods_of("app"), Vec::<String>::new());
    namespace.kubectl(&["patch", "ocib", "app", "--type=merge", "-p", "{\"spec\":{\"suspend\":false}}"]).ok();
    assert_eq!(namespace.succeeded("app")["observedGeneration"], 2);
}

#[test]
fn suspending_stops_a_build_that_runs() {
    let namespace = Namespace::new("suspend-running");
    namespace.apply(&build("sleep 3600", ""));
    namespace.kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "ocib/app", "--timeout=120s"]).ok();
    namespace.kubectl(&["patch", "ocib", "app", "--type=merge", "-p", "{\"spec\":{\"suspend\":true}}"]).ok();
    namespace.kubectl(&["wait", "--for=delete", "pod/app-g1-a1", "--timeout=60s"]).ok();
    namespace.kubectl(&["wait", "--for=jsonpath={.status.phase}=Suspended", "ocib/app", "--timeout=60s"]).ok();
}

#[test]
fn a_build_whose_lease_nobody_renews_is_cancelled_and_one_that_is_renewed_goes_on() {
    let namespace = Namespace::new("lease");
    namespace.apply(&build("sleep 3600", "lease: 10s").replace("name: app }", "name: forgotten }"));
    namespace.apply(&build("sleep 20", "lease: 10s").replace("name: app }", "name: renewed }"));
    let ended = || !namespace.get("ocib/renewed")["status"]["completionTime"].is_null();
    for number in 0.. {
        namespace.kubectl(&["annotate", "--overwrite", "ocib/renewed", &format!("ocibuild.dev/renewed={number}")]).ok();
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
