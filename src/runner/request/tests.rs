use std::{collections::BTreeMap, path::PathBuf};

use serde_json::json;

use super::{Request, Target, build_request};
use crate::{
    buildkit::CacheEntry,
    plan::{Digest, ImageReference, instructions::Instructions},
    runner::{
        inputs::{BuildInputs, InputImage},
        locate::Located,
    },
};

fn instructions(more: serde_json::Value) -> Instructions {
    let mut instructions = json!({
        "build": "team/app",
        "source": { "files": { "files": {} } },
        "context": ".",
        "references": [
            { "registry": "docker.io/team", "name": "app", "tag": "latest" },
            { "registry": "docker.io/team", "name": "app", "tag": "v1" },
        ],
        "push": true,
        "timeoutSeconds": 60,
    });
    let fields = instructions.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    serde_json::from_value(instructions).unwrap()
}

fn request(instructions: &Instructions, inputs: &BuildInputs, stage: Option<&str>) -> Request {
    let located = Located {
        root: PathBuf::from("/w"),
        context: PathBuf::from("/w/src"),
        dockerfile_directory: PathBuf::from("/w"),
        dockerfile_name: "Dockerfile".to_owned(),
    };
    let target = Target {
        stage,
        is_main: stage.is_none(),
        references: &instructions.references,
        is_pushed: instructions.push,
        has_tar: true,
    };
    build_request(instructions, &located, inputs, &target)
}

#[test]
fn a_minimal_spec_yields_a_minimal_request() {
    let request = request(&instructions(json!({})), &BuildInputs::default(), None);
    insta::assert_yaml_snapshot!(request);
}

#[test]
fn a_cache_is_read_for_every_stage_and_written_for_the_main_one() {
    let entry = |attributes: &[(&str, &str)]| CacheEntry {
        kind: "registry".to_owned(),
        attributes: attributes.iter().map(|&(key, value)| (key.into(), value.into())).collect(),
    };
    let reference = ("ref", "r.example.com/cache/app");
    let import = entry(&[reference]);
    let export = entry(&[reference, ("mode", "max"), ("ignore-error", "true")]);
    for (mode, stage, exports) in [
        (Some("max"), None, vec![export]),
        (Some("max"), Some("test"), Vec::new()),
        (None, None, Vec::new()),
    ] {
        let cache = json!({ "registry": { "reference": reference.1, "export": mode } });
        let instructions = instructions(json!({ "parameters": { "cache": cache } }));
        let request = request(&instructions, &BuildInputs::default(), stage);
        assert_eq!(request.cache_imports, std::slice::from_ref(&import), "{mode:?} {stage:?}");
        assert_eq!(request.cache_exports, exports, "{mode:?} {stage:?}");
    }
}

#[test]
fn every_parameter_becomes_an_attribute() {
    let instructions = instructions(json!({
        "parameters": {
            "platforms": ["linux/amd64", "linux/arm64"],
            "addHosts": { "a": "10.0.0.1", "b": "::1" },
            "noCache": true,
            "proxy": { "httpProxy": "http://p:1", "noProxy": ".svc,10.0.0.0/8" },
            "sourceDateEpoch": 7,
        },
        "image": {
            "format": "oci", "unpackRootfs": true, "annotations": { "a.B": "c, \"d\"" },
            "compression": "zstd", "compressionLevel": 3,
            "attestations": { "provenance": "max", "sbom": { "generator": "scanner:v1" } },
        },
    }));
    let inputs = BuildInputs {
        build_args: BTreeMap::from([
            ("NO_PROXY".to_owned(), "own".to_owned()),
            ("base".to_owned(), "beaten".to_owned()),
        ]),
        labels: BTreeMap::from([("a".to_owned(), "b=c".to_owned())]),
        images: vec![InputImage {
            argument: "base".to_owned(),
            layout: PathBuf::from("/w/image-arg-0"),
            digest: Digest::from_sha256([0xab; 32]),
        }],
        ..BuildInputs::default()
    };
    insta::assert_yaml_snapshot!(request(&instructions, &inputs, Some("release")));
}

/// Whatever a tenant writes is a value, and sets no other attribute.
#[test]
fn values_arrive_unchanged_and_set_no_other_attribute() {
    let hostile = "x\",type=local,dest=/\n--addr=tcp://evil  ";
    let more = json!({ "image": { "annotations": { "a": hostile } } });
    let inputs = BuildInputs {
        build_args: BTreeMap::from([("A".to_owned(), hostile.to_owned())]),
        labels: BTreeMap::from([("B".to_owned(), hostile.to_owned())]),
        ..BuildInputs::default()
    };
    let plain = request(&instructions(json!({})), &BuildInputs::default(), None);
    let mut request = request(&instructions(more), &inputs, None);
    for key in ["build-arg:A", "label:B"] {
        assert_eq!(request.attributes.remove(key).as_deref(), Some(hostile), "{key}");
    }
    for output in &mut request.outputs {
        let annotation = output.attributes.remove("annotation.a");
        assert_eq!(annotation.as_deref(), Some(hostile), "{output:?}");
    }
    assert_eq!(request, plain);
}

#[test]
fn a_tag_names_an_additional_target() {
    let main = ImageReference::new(None, "app", "v1").unwrap();
    assert_eq!(main.with_tag_suffix("test").unwrap().to_string(), "app:v1-test");
    assert_eq!(main.with_tag_suffix(&"x".repeat(128)), None);
}
