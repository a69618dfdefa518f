//! What a spec names and what is not there, or is not what it should be: each with its reason, and words that name the field and
//! the thing. What the API server itself refuses stands in tests/admission.rs. The peer has no tests of its failures.

use serde_json::{Value, json};

use super::{Scenario, secrets::ed25519_key};
use crate::cluster::pretty;

struct Case {
    name: &'static str,
    more: Value,
    reason: &'static str,
    /// All of them are in the message.
    words: &'static [&'static str],
}

fn check(scenario: &Scenario, cases: &[Case]) {
    for case in cases {
        let status = scenario.failed(case.name, case.reason);
        let message = status["failure"]["message"].as_str().unwrap();
        for word in case.words {
            assert!(
                message.contains(word),
                "{}: {word:?} is not in {}",
                case.name,
                pretty(&status["failure"])
            );
        }
        assert!(
            !status["failure"]["hint"].as_str().unwrap().is_empty(),
            "{}: {}",
            case.name,
            pretty(&status["failure"])
        );
    }
}

/// Not tested by the peer: failure messages.
#[expect(clippy::too_many_lines, reason = "a row for each case")]
#[test]
fn a_file_that_the_spec_names_and_that_is_missing_or_wrong_is_named() {
    let scenario = Scenario::new("wrong-files");
    let files = [
        ("Dockerfile", "ARG base=scratch\nFROM ${base}\nCOPY Dockerfile /\n"),
        ("ci/no-equals-sign", "good=1\nnonsense\n"),
        ("ci/no-name", "=value\n"),
        ("ci/list.yml", "- a\n- b\n"),
        ("ci/nested.yaml", "a: { b: c }\n"),
        ("ci/blank", " \n\t\n"),
        ("ci/not-a-stage", "two words\n"),
        ("ci/unknown-stage", "no-such-stage\n"),
    ];
    let no_base = json!({ "base": "base-image/image.tar" });
    let case = |name, more, reason, words| Case { name, more, reason, words };
    let cases = [
        case(
            "no-args",
            json!({ "buildArgsFile": "ci/args" }),
            "FileNotFound",
            &["buildArgsFile", "ci/args"][..],
        ),
        case(
            "args-folder",
            json!({ "buildArgsFile": "ci" }),
            "FileInvalid",
            &["buildArgsFile", "ci"],
        ),
        case(
            "args-line",
            json!({ "buildArgsFile": "ci/no-equals-sign" }),
            "FileInvalid",
            &["buildArgsFile", "line 2", "="],
        ),
        case(
            "args-list",
            json!({ "buildArgsFile": "ci/list.yml" }),
            "FileInvalid",
            &["buildArgsFile", "ci/list.yml"],
        ),
        case(
            "args-nested",
            json!({ "buildArgsFile": "ci/nested.yaml" }),
            "FileInvalid",
            &["buildArgsFile", "ci/nested.yaml"],
        ),
        case(
            "no-labels",
            json!({ "labelsFile": "ci/labels" }),
            "FileNotFound",
            &["labelsFile", "ci/labels"],
        ),
        case(
            "labels-name",
            json!({ "labelsFile": "ci/no-name" }),
            "FileInvalid",
            &["labelsFile", "line 1"],
        ),
        case(
            "labels-yaml",
            json!({ "labelsFile": "ci/list.yml" }),
            "FileInvalid",
            &["labelsFile", "line 1", "="],
        ),
        case(
            "no-target-file",
            json!({ "targetFile": "ci/target" }),
            "FileNotFound",
            &["targetFile", "ci/target"],
        ),
        case(
            "blank-target",
            json!({ "targetFile": "ci/blank" }),
            "FileInvalid",
            &["targetFile", "ci/blank"],
        ),
        case(
            "odd-target",
            json!({ "targetFile": "ci/not-a-stage" }),
            "FileInvalid",
            &["targetFile", "two words"],
        ),
        case(
            "unknown-target",
            json!({ "targetFile": "ci/unknown-stage" }),
            "DockerfileInvalid",
            &["no-such-stage"],
        ),
        case(
            "unknown-additional",
            json!({ "additionalTargets": ["other"] }),
            "DockerfileInvalid",
            &["other"],
        ),
        case(
            "no-image",
            json!({ "imageArgs": no_base }),
            "FileNotFound",
            &["imageArgs", "base-image/image.tar"],
        ),
        case(
            "image-text",
            json!({ "imageArgs": { "base": "Dockerfile" } }),
            "FileInvalid",
            &["imageArgs", "base", "Dockerfile"],
        ),
        case(
            "image-folder",
            json!({ "imageArgs": { "base": "ci" } }),
            "FileInvalid",
            &["imageArgs", "base", "ci"],
        ),
        case(
            "no-secret-file",
            json!({ "secrets": [{ "id": "a", "file": "key" }] }),
            "FileNotFound",
            &["secrets", "key"],
        ),
    ];
    for case in &cases {
        scenario.build(case.name, &files, case.more.clone());
    }
    check(&scenario, &cases);
    assert_eq!(scenario.in_claim("find . -type f"), "", "no build that failed leaves a file");
}

#[test]
fn a_secret_that_is_missing_or_unusable_is_named_and_not_shown() {
    let scenario = Scenario::new("wrong-secrets");
    let key = ed25519_key();
    let public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4planted-for-the-test deploy-key";
    scenario.secret(
        "there",
        &[
            ("token", "value"),
            ("garbage", "planted-garbage"),
            ("public", public),
            ("key", &key.private),
        ],
    );
    let secret = |name: &str, key: &str| json!({ "secrets": [{ "id": "a", "secret": { "name": name, "key": key } }] });
    let ssh =
        |name: &str, key: &str| json!({ "ssh": [{ "secret": { "name": name, "key": key } }] });
    let case = |name, more, reason, words| Case { name, more, reason, words };
    let cases = [
        case(
            "no-secret",
            secret("not-there", "token"),
            "SecretMissing",
            &["secrets", "not-there", "token"][..],
        ),
        case("no-key", secret("there", "other"), "SecretMissing", &["secrets", "there", "other"]),
        case("no-ssh-secret", ssh("not-there", "key"), "SecretMissing", &["ssh", "not-there"]),
        case("no-ssh-key", ssh("there", "id_rsa"), "SecretMissing", &["ssh", "there", "id_rsa"]),
        case(
            "garbage",
            ssh("there", "garbage"),
            "SecretInvalid",
            &["ssh", "there", "garbage", "private key"],
        ),
        case(
            "public",
            ssh("there", "public"),
            "SecretInvalid",
            &["ssh", "there", "public", "private key"],
        ),
    ];
    let files = [("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")];
    for case in &cases {
        scenario.build(case.name, &files, case.more.clone());
    }
    scenario.build("good", &files, ssh("there", "key"));
    check(&scenario, &cases);
    scenario.succeeded("good");
    let mut seen = scenario.kubectl(&["get", "ocib,pods,events", "-o", "yaml"]).ok();
    for case in &cases {
        seen += &scenario.story(case.name);
    }
    assert!(seen.contains("SecretInvalid"));
    for planted in ["planted-garbage", "planted-for-the-test"] {
        assert!(!seen.contains(planted), "{planted} shows");
    }
}

/// A link of the source leads to what the build's own container can read, and the tenant may not.
#[test]
fn a_link_out_of_the_source_is_no_file_of_it() {
    let scenario = Scenario::new("links");
    scenario.in_claim(
        "mkdir source && cd source && printf 'FROM scratch\\nCOPY Dockerfile /\\n' > Dockerfile \
         && ln -s /instructions/instructions.json absolute && ln -s ../../instructions/instructions.json climbing \
         && ln -s /instructions folder && echo 'inside=link' > real && ln -s real inside",
    );
    let source =
        json!({ "persistentVolumeClaim": { "claimName": super::CLAIM, "path": "source" } });
    let case = |name, more, words| Case { name, more, reason: "FileNotFound", words };
    let cases = [
        case("args", json!({ "buildArgsFile": "absolute" }), &["buildArgsFile", "absolute"]),
        case("labels", json!({ "labelsFile": "climbing" }), &["labelsFile", "climbing"]),
        case(
            "target",
            json!({ "targetFile": "folder/instructions.json" }),
            &["targetFile", "folder"],
        ),
        case("image", json!({ "imageArgs": { "base": "folder" } }), &["imageArgs", "folder"]),
        case(
            "secret",
            json!({ "secrets": [{ "id": "stolen", "file": "absolute" }] }),
            &["secrets", "absolute"],
        ),
    ];
    for case in &cases {
        scenario.build_from(case.name, &source, case.more.clone());
    }
    scenario.build_from("inside", &source, json!({ "labelsFile": "inside" }));
    check(&scenario, &cases);
    scenario.succeeded("inside");
    assert_eq!(
        scenario.outputs().image("inside").labels()["inside"],
        "link",
        "a link that stays inside is followed"
    );
}
