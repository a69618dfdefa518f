//! A cache that outlives the pod of its build.

use serde_json::json;

use super::Scenario;
use crate::cluster::REGISTRY;

const DOCKERFILE: &str = "FROM busybox:1.37 AS made
RUN head -c 16 /dev/urandom | sha256sum > /random
FROM busybox:1.37
COPY --from=made /random /random
";

/// Not tested by the peer: cache round trip.
#[test]
fn a_later_build_takes_its_steps_from_the_cache_in_the_registry() {
    let scenario = Scenario::new("cache");
    let build = |name: &str, reference: &str, export: Option<&str>| {
        let mut cache = json!({ "registry": { "reference": format!("{REGISTRY}/{reference}") } });
        if let Some(export) = export {
            cache["registry"]["export"] = json!(export);
        }
        scenario.build(name, &[("Dockerfile", DOCKERFILE)], json!({ "cache": cache }));
        scenario.succeeded(name)
    };
    let reference = format!("cache/{}", scenario.name);
    build("first", &reference, Some("max"));
    let second = build("second", &reference, None);
    assert_eq!(second["progress"]["cached"], 2, "RUN and COPY: {second}");
    build("other", "cache/that-is-not-there", None);
    let outputs = scenario.outputs();
    let random = |name: &str| outputs.image(name).file("random");
    assert_eq!(random("second"), random("first"));
    assert_ne!(random("other"), random("first"), "without the cache the step is run");
}
