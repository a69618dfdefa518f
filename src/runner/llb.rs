//! The few messages of BuildKit's LLB (solver/pb/ops.proto) that fetch one source. BuildKit fetches; the runner needs neither
//! git nor an HTTP client of its own.

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use sha2::{Digest, Sha256};

#[derive(Clone, PartialEq, Message)]
struct Definition {
    #[prost(bytes = "vec", repeated, tag = "1")]
    operations: Vec<Vec<u8>>,
    #[prost(map = "string, message", tag = "2")]
    metadata: HashMap<String, OperationMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct OperationMetadata {
    #[prost(map = "string, string", tag = "2")]
    description: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(message, repeated, tag = "1")]
    inputs: Vec<Input>,
    #[prost(message, optional, tag = "3")]
    source: Option<SourceOperation>,
}

#[derive(Clone, PartialEq, Message)]
struct Input {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(int64, tag = "2")]
    index: i64,
}

#[derive(Clone, PartialEq, Message)]
struct SourceOperation {
    #[prost(string, tag = "1")]
    identifier: String,
    #[prost(btree_map = "string, string", tag = "2")]
    attributes: BTreeMap<String, String>,
}

/// A revision of a Git repository (client/llb/source.go, `Git`).
pub fn git(url: &str, revision: Option<&str>) -> Vec<u8> {
    let place = url.split_once("://").map_or(url, |(_, place)| place);
    let revision = revision.map(|revision| format!("#{revision}")).unwrap_or_default();
    source(format!("git://{place}{revision}"), &[("git.fullurl", url)], "fetch the Git repository")
}

/// A file on an http server (client/llb/source.go, `HTTP`). Its checksum is left to the runner: told one, BuildKit compares it
/// with the body of a 404 answer too, and the missing file would be reported as a changed one.
pub fn http(url: &str, file: &str) -> Vec<u8> {
    source(url.to_owned(), &[("http.filename", file)], "fetch the archive")
}

/// The files of an image, whose reference has its registry and digest (client/llb/source.go, `Image`). Without a platform BuildKit
/// takes the daemon's own.
pub fn image(pinned: &str) -> Vec<u8> {
    source(format!("docker-image://{pinned}"), &[], "fetch the image")
}

fn source(identifier: String, attributes: &[(&str, &str)], name: &str) -> Vec<u8> {
    let attributes =
        attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let fetch =
        Operation { inputs: Vec::new(), source: Some(SourceOperation { identifier, attributes }) }
            .encode_to_vec();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&fetch)));
    let result =
        Operation { inputs: vec![Input { digest: digest.clone(), index: 0 }], source: None }
            .encode_to_vec();
    let description = HashMap::from([("llb.customname".to_owned(), name.to_owned())]);
    Definition {
        operations: vec![fetch, result],
        metadata: HashMap::from([(digest, OperationMetadata { description })]),
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{Definition, Operation, git, image};

    #[test]
    fn a_git_source_is_named_as_buildkits_own_client_names_it() {
        let definition =
            Definition::decode(git("https://example.com/team/app.git", Some("v1")).as_slice())
                .unwrap();
        let source =
            Operation::decode(definition.operations[0].as_slice()).unwrap().source.unwrap();
        assert_eq!(source.identifier, "git://example.com/team/app.git#v1");
        assert_eq!(source.attributes["git.fullurl"], "https://example.com/team/app.git");
        let result = Operation::decode(definition.operations[1].as_slice()).unwrap();
        assert!(definition.metadata.contains_key(&result.inputs[0].digest));
    }
    #[test]
    fn an_image_source_is_named_as_buildkits_own_client_names_it() {
        let pinned = format!("docker.io/library/busybox@sha256:{}", "0a".repeat(32));
        let definition = Definition::decode(image(&pinned).as_slice()).unwrap();
        let source =
            Operation::decode(definition.operations[0].as_slice()).unwrap().source.unwrap();
        assert_eq!(source.identifier, format!("docker-image://{pinned}"));
        assert!(source.attributes.is_empty());
        let result = Operation::decode(definition.operations[1].as_slice()).unwrap();
        assert!(definition.metadata.contains_key(&result.inputs[0].digest));
    }
}
