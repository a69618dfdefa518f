//! The scenarios of the peer's own tests (concourse/oci-build-task) stand by name at the tests of ours that show them.

use std::{collections::BTreeSet, fs};

use crate::root;

/// Its 31 integration tests, one to one.
const OF_THE_PEER: [&str; 31] = [
    "basic build",
    "no output",
    "digest file",
    "Dockerfile path",
    "target",
    "target file",
    "build args",
    "build args file",
    "build args YAML file",
    "static and file build args",
    "labels",
    "labels file",
    "static, file and inherited labels",
    "unpack rootfs",
    "file secret",
    "text secret",
    "ssh key",
    "registry mirror",
    "image args from two tars, with an additional target",
    "image args from two OCI layouts",
    "image args with an upper-case name",
    "image args with an unpacked root file system",
    "multiple targets",
    "multiple targets with an explicit target",
    "multiple targets with digests",
    "multiple targets with unpacked root file systems",
    "add hosts",
    "image platform",
    "OCI index",
    "daemon configuration for mirrors",
    "no daemon configuration without mirrors",
];

/// What it does not test.
const UNTESTED_THERE: [&str; 7] = [
    "cache round trip",
    "single-platform OUTPUT_OCI",
    "additional targets with platform, ssh and hosts",
    "extra configuration",
    "failure messages",
    "env parsing",
    "abort",
];

/// Names after the word, in the comments of tests: `/// Scenarios: a; b.`
fn named(word: &str) -> Vec<String> {
    let mut names = Vec::new();
    for folder in ["tests/e2e/scenarios", "tests/e2e", "src/concourse/params"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let lists = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("/// ")?.strip_prefix(word));
            let list_of_names = |list: &str| {
                let (list, _) = list
                    .split_once('.')
                    .unwrap_or_else(|| panic!("{}: no full stop after {list}", path.display()));
                list.split(';').map(|name| name.trim().to_owned()).collect::<Vec<_>>()
            };
            names.extend(lists.flat_map(list_of_names));
        }
    }
    names
}

#[test]
fn every_scenario_of_the_peer_is_named_at_one_test() {
    for (word, expected) in
        [("Scenarios: ", &OF_THE_PEER[..]), ("Not tested by the peer: ", &UNTESTED_THERE[..])]
    {
        let found = named(word);
        let set: BTreeSet<_> = found.iter().map(String::as_str).collect();
        assert_eq!(set, expected.iter().copied().collect(), "{word}");
        assert_eq!(found.len(), expected.len(), "{word}: each once");
    }
}
