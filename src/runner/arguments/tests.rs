use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{Given, GivenImage, Target, build_arguments};
use crate::{
    plan::{Digest, ImageReference, instructions::Instructions},
    runner::locate::Located,
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

fn arguments(instructions: &Instructions, given: &Given, stage: Option<&str>) -> Vec<String> {
    let located = Located {
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
    let arguments =
        build_arguments(instructions, &located, given, &target, Path::new("/w/metadata.json"));
    arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect()
}

#[test]
fn a_plain_build_asks_for_nothing_special() {
    insta::assert_yaml_snapshot!(arguments(&instructions(json!({})), &Given::default(), None));
}

#[test]
fn a_cache_is_read_for_every_stage_and_written_for_the_main_one() {
    let cached = |export: Option<&str>, stage: Option<&str>| {
        let cache =
            json!({ "registry": { "reference": "r.example.com/cache/app", "export": export } });
        let all = arguments(
            &instructions(json!({ "parameters": { "cache": cache } })),
            &Given::default(),
            stage,
        );
        all.into_iter().filter(|argument| argument.contains("-cache=")).collect::<Vec<_>>()
    };
    let import = r#"--import-cache="type=registry","ref=r.example.com/cache/app""#;
    let export = r#"--export-cache="type=registry","ref=r.example.com/cache/app","mode=max","ignore-error=true""#;
    assert_eq!(cached(Some("max"), None), [import, export]);
    assert_eq!(cached(Some("max"), Some("test")), [import]);
    assert_eq!(cached(None, None), [import]);
}

#[test]
fn every_parameter_becomes_an_argument() {
    let instructions = instructions(json!({
        "parameters": {
            "platforms": ["linux/amd64", "linux/arm64"], "addHosts": { "a": "10.0.0.1", "b": "::1" }, "noCache": true,
            "proxy": { "httpProxy": "http://p:1", "noProxy": ".svc,10.0.0.0/8" }, "sourceDateEpoch": 7,
        },
        "image": {
            "format": "oci", "unpackRootfs": true, "annotations": { "a.b": "c, \"d\"" }, "compression": "zstd", "compressionLevel": 3,
            "attestations": { "provenance": "max", "sbom": { "generator": "scanner:v1" } },
        },
        "registries": {
            "plain.example.com": { "http": true },
            "own.example.com": { "ca": { "configMap": "ca", "key": "ca.crt", "path": "/ca/0/value" } },
            "any.example.com": { "insecure": true },
        },
    }));
    let given = Given {
        build_args: BTreeMap::from([
            ("NO_PROXY".to_owned(), "own".to_owned()),
            ("base".to_owned(), "beaten".to_owned()),
        ]),
        labels: BTreeMap::from([("a".to_owned(), "b=c".to_owned())]),
        images: vec![GivenImage {
            argument: "base".to_owned(),
            layout: PathBuf::from("/w/image-arg-0"),
            digest: Digest::from_sha256([0xab; 32]),
        }],
        secrets: vec![("token".to_owned(), PathBuf::from("/s/a,b\"c"))],
        ssh: BTreeMap::from([(
            "default".to_owned(),
            vec![PathBuf::from("/ssh/0"), PathBuf::from("/ssh/1")],
        )]),
    };
    insta::assert_yaml_snapshot!(arguments(&instructions, &given, Some("release")));
}

/// Whatever a tenant writes stays behind the flag that it belongs to.
#[test]
fn no_value_becomes_a_flag_or_a_field_of_its_own() {
    let hostile = "x\",type=local,dest=/\n--addr=tcp://evil";
    let instructions = instructions(json!({ "image": { "annotations": { "a": hostile } } }));
    let given = Given {
        build_args: BTreeMap::from([("A".to_owned(), hostile.to_owned())]),
        labels: BTreeMap::from([("B".to_owned(), hostile.to_owned())]),
        ..Given::default()
    };
    let mut arguments = arguments(&instructions, &given, None).into_iter();
    while let Some(argument) = arguments.next() {
        if matches!(argument.as_str(), "--opt" | "--local") {
            let value = arguments.next().unwrap();
            let is_known = ["context=", "dockerfile=", "filename=", "build-arg:A=", "label:B="];
            assert!(is_known.iter().any(|known| value.starts_with(known)), "{value}");
            continue;
        }
        let is_known =
            ["build", "--progress=", "--frontend=", "--metadata-file=", "--output=\"type="];
        assert!(is_known.iter().any(|known| argument.starts_with(known)), "{argument}");
        if argument.starts_with("--output=") {
            assert_eq!(argument.matches("\"type=").count(), 1, "{argument}");
            assert!(argument.contains("x\"\",type=local"), "the quote is doubled: {argument}");
        }
    }
}

#[test]
fn a_tag_names_an_additional_target() {
    let main = ImageReference::new(None, "app", "v1").unwrap();
    assert_eq!(main.with_tag_suffix("test").unwrap().to_string(), "app:v1-test");
    assert_eq!(main.with_tag_suffix(&"x".repeat(128)), None);
}
